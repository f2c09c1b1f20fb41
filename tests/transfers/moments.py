"""The moments of a transfer at which a test can interfere."""

from collections.abc import Callable
from typing import Any

import pytest

from queued_storage.tasks import Transfer, TransferAndDelete


class At:
    """A moment of a transfer: before or after a call of one of the two storages."""

    def __init__(self, side: str, when: str, method: str) -> None:
        self.place = (side, when, method)

    def __repr__(self) -> str:
        return "-".join(self.place)

    def arm(self, storage: Any, act: Callable[[], object]) -> None:
        side, when, method = self.place
        getattr(getattr(storage, side), when)[method] = lambda _name: act()


MOMENTS = [
    At("local", "before", "exists"),
    At("local", "after", "exists"),
    At("local", "after", "size"),
    At("local", "before", "_open"),
    At("local", "after", "_open"),
    At("remote", "before", "exists"),
    At("remote", "after", "exists"),
    At("remote", "before", "_save"),
    At("remote", "after", "_save"),
    At("remote", "before", "size"),
    At("remote", "after", "size"),
]


RETRY_MOMENTS = [  # a retry does not check for foreign objects
    *(moment for moment in MOMENTS if moment.place[::2] != ("remote", "exists")),
    At("remote", "before", "delete"),
    At("remote", "after", "delete"),
]


TASKS = pytest.mark.parametrize("task", [Transfer, TransferAndDelete])
