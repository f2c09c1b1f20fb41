"""What a process knows of the sizes of a local storage's files, without asking for each save."""

import math
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from django.db import connections

from ..ledger import localsides
from ..ledger.database import ledger_database
from ..ledger.localsides import PendingParts
from ..runtime.forks import after_fork

SHARE = 256  # the part of the room that a process may fill before it asks the ledger again
ASK_EVERY = 1.0  # seconds after which it asks again anyway
COST = 20  # a query that took a second is not repeated for so many seconds while there is room
REFUSE_FOR = 4  # the same for a refusal
QUICK = 0.01  # seconds; a query that takes longer is not repeated as a whole for each file
RECENT = 10.0  # seconds that a save may take, for its file to be in what is asked instead


class Sum:
    """A sum of the ledger, as this process knows it.

    The saves of this process are added to what the ledger answered last. The closer the limit is,
    the more often the ledger is asked. The limit may be exceeded for as long as asking would take
    much of this process's time.
    """

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._known: int | None = None
        self._since = 0  # bytes that this process has added since, less what it has evicted
        self._unrecorded = 0  # those of them whose rows are not inserted yet
        self._asked_at = 0.0
        self._cost = 0.0  # seconds that the answer took

    def take(self, size: int, limit: float) -> int:
        """Take the room for a file; return 0, or how many bytes it would be too many."""
        with self._lock:
            age = time.monotonic() - self._asked_at
            is_near = (abs(self._since) + size) * SHARE > limit - (self._known or 0)
            if self._known is None or self._must_ask(is_near, age):
                self._renew()
            if self._excess(size, limit) > 0:
                self._doubt()
            if (excess := self._excess(size, limit)) > 0:
                return int(excess)
            self._since += size
            self._unrecorded += size
            return 0

    def recorded(self, size: int) -> None:
        """Note that the row of a file for which room was taken is inserted, or never will be."""
        with self._lock:
            self._unrecorded -= size

    def add(self, size: int) -> None:
        """Count bytes of a file whose size was not known before."""
        with self._lock:
            self._since += size

    @property
    def asked_at(self) -> float:
        """When the ledger was asked last, as ``time.monotonic()``."""
        return self._asked_at

    def note_evicted(self, size: int, asked_at: float) -> None:
        """Note what was evicted since ``asked_at``, unless a later answer knows of it already."""
        with self._lock:
            if self._asked_at == asked_at:
                self._since -= size

    def _must_ask(self, is_near: bool, age: float) -> bool:
        return (is_near or age > ASK_EVERY) and age > self._cost * COST

    def _doubt(self) -> None:
        """Ask once more, if that may change what is known."""

    def _excess(self, size: int, limit: float) -> float:
        return (self._known or 0) + self._since + size - limit

    def _renew(self) -> None:
        started = time.monotonic()
        self._known = self._answer()
        self._since = self._unrecorded
        self._asked_at, self._cost = started, time.monotonic() - started

    def _answer(self) -> int:
        return self._ask()


class HardSum(Sum):
    """A sum that must not exceed its limit.

    Near the limit, the ledger is asked for each file. So the limit is exceeded by at most one file
    per process, of those whose transactions are committed. If that takes long, because very many
    rows are summed up, the sum of the older ones is remembered for a while: saves make it no
    larger, unless their transactions take longer than ``RECENT``.
    """

    def __init__(
        self, ask_in_parts: Callable[[float], PendingParts], ask_since: Callable[[datetime], int]
    ) -> None:
        super().__init__(self._ask_for_all)
        self._ask_in_parts = ask_in_parts
        self._ask_since = ask_since
        self._parts: PendingParts | None = None  # when all rows were summed up
        self._is_partial = False  # whether these are not of the last answer
        self._all_at = -math.inf  # when that was
        self._cost_of_all = 0.0  # seconds

    def _must_ask(self, is_near: bool, age: float) -> bool:
        return is_near or super()._must_ask(is_near, age)

    def _doubt(self) -> None:
        age = time.monotonic() - self._all_at
        if self._is_partial and age > self._cost_of_all * REFUSE_FOR:
            self._all_at = -math.inf  # older ones may have been transferred
            self._renew()

    def _answer(self) -> int:
        age = time.monotonic() - self._all_at
        self._is_partial = self._cost_of_all > QUICK and age < self._cost_of_all * COST
        if self._parts and self._is_partial:
            return self._parts.older + self._ask_since(self._parts.moment)
        return self._ask_for_all()

    def _ask_for_all(self) -> int:
        started = time.monotonic()
        self._parts = self._ask_in_parts(RECENT)
        self._all_at, self._cost_of_all = started, time.monotonic() - started
        return self._parts.older + self._parts.recent


_sums: dict[tuple[str, ...], Sum] = {}
after_fork(_sums.clear)


def pending_sum(alias: str) -> Sum:
    def new() -> Sum:
        return HardSum(
            partial(localsides.pending_in_parts, alias),
            partial(localsides.pending_bytes_since, alias),
        )

    return _sum("pending", alias, new)


def local_sum(alias: str) -> Sum:
    return _sum("local", alias, lambda: Sum(partial(localsides.local_bytes, alias)))


def _sum(kind: str, alias: str, new: Callable[[], Sum]) -> Sum:
    database = ledger_database()
    key = (kind, database, str(connections[database].settings_dict["NAME"]), alias)
    return _sums.get(key) or _sums.setdefault(key, new())
