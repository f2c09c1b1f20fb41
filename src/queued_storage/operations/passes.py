"""Go through many rows in batches, and report each step."""

from collections.abc import Callable
from dataclasses import dataclass

BATCH = 100  # rows in memory


@dataclass(frozen=True, slots=True)
class Step:
    """How far a pass over many files has come: what it has just done with some of them."""

    files: int
    bytes: int
    error: str = ""  # why it was in vain
    name: str = ""  # of the file for which it was


Tell = Callable[[Step], object]


def nobody(step: Step) -> None:
    pass


def never() -> bool:
    return False
