"""What a step of the work on a file can end with."""

from enum import Enum


class Outcome(Enum):
    """How a step ended. A step that fails raises an exception instead."""

    TRANSFERRED = "transferred"  # the claim is over
    TRANSFERRED_FOR_EVICTION = "transferred for eviction"  # the claim stands, for the eviction
    READY_TO_EVICT = "ready to evict"  # the remote copy was verified again
    EVICTED = "evicted"
    DELETED = "deleted"
    SETTLED = "settled"  # there was nothing to do
