"""Fills in the places of files saved by earlier versions, a range at a time."""

import math
import threading
import time
from collections.abc import Callable

from django.db import connections
from django.db.models.signals import post_migrate

from ..ledger import unplaced
from ..ledger.database import in_transaction, ledger_database
from ..ledger.unplaced import Firsts, Progress, Window
from ..reporting.logs import logger
from ..runtime.forks import after_fork

WINDOW = 5_000  # keys that a query goes through
AT_ONCE = 500  # rows that a statement locks
PAUSE = 1.0  # seconds between two turns of a worker ...
SHARE = 10  # ... or so many times as long as a turn took
TURN = 0.2  # seconds after which a worker's turn ends
SWEEP_TURN = 2.0  # the same of a sweep
AGAIN = 60.0  # seconds until a process looks for files that older processes have saved since
LOOKS_FOR = 3600.0  # seconds after the last such file; then it looks no more


class Filling:
    """What this process fills in, with what other processes fill in meanwhile.

    It goes on where all processes together have come to. A range that it cannot finish, because
    another transaction has locked some rows, is left for the next round.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._position = 0  # of this round
        self._next_turn = 0.0
        self._ends_at = math.inf
        self._filled = 0

    def take_turn(
        self, seconds: float, may_go_on: Callable[[], bool], *, even_early: bool = False
    ) -> bool:
        """Go through some ranges, unless another thread does, or it is too early.

        Return whether there is more to go through in this round.
        """
        if in_transaction() or not self._lock.acquire(blocking=False):
            return False
        try:
            started = time.monotonic()
            if not self._is_time(started, even_early=even_early):
                return False
            self._next_turn = started + AGAIN  # also if the database is away
            has_more = self._go_on(started + seconds, may_go_on)
            self._next_turn = time.monotonic() + self._pause(started, has_more=has_more)
            return has_more
        finally:
            self._lock.release()

    def _is_time(self, now: float, *, even_early: bool) -> bool:
        return now < self._ends_at and (even_early or now >= self._next_turn)

    def _go_on(self, deadline: float, may_go_on: Callable[[], bool]) -> bool:
        """Return whether there is more to go through."""
        firsts = unplaced.firsts()
        if not firsts:  # no place is known yet
            return False
        if self._ends_at == math.inf:
            self._ends_at = time.monotonic() + LOOKS_FOR
        while self._step(firsts):
            if time.monotonic() >= deadline or not may_go_on():
                return True
        return False

    @staticmethod
    def _pause(started: float, *, has_more: bool) -> float:
        return max(PAUSE, SHARE * (time.monotonic() - started)) if has_more else AGAIN

    def _step(self, firsts: Firsts) -> bool:
        """Fill in some places of a range, or leave the range; return whether there is more."""
        shared = self._shared(firsts)
        window = unplaced.window(max(self._position, shared.key), WINDOW)
        if window is None:
            return self._end_round()
        found, filled = unplaced.fill(window, firsts, AT_ONCE)
        if found:
            self._ends_at = time.monotonic() + LOOKS_FOR
        self._filled += filled
        if filled:  # there may be more in the range
            return True
        if not found and window.is_settled and window.after == shared.key:
            self._share(shared, window, firsts)
        self._position = window.end
        return self._end_round() if window.is_last else True

    def _shared(self, firsts: Firsts) -> Progress:
        shared = unplaced.progress()
        if shared.aliases not in {0, len(firsts)}:  # a worker has recorded another place meanwhile
            unplaced.record_progress(shared, Progress())
            self._position = 0
            return Progress()
        return shared

    @staticmethod
    def _share(before: Progress, window: Window, firsts: Firsts) -> None:
        has_left = before.aliases or window.has_files
        unplaced.record_progress(before, Progress(window.end, len(firsts) if has_left else 0))

    def _end_round(self) -> bool:
        self._position = 0
        if self._filled:
            logger.info("The places of %s files of earlier versions were filled in.", self._filled)
            self._filled = 0
        return False


_fillings: dict[tuple[str, str], Filling] = {}


def fill_a_little(may_go_on: Callable[[], bool]) -> None:
    """Go through some ranges, for a worker after a search, as long as it ``may_go_on()``."""
    _filling().take_turn(TURN, may_go_on)


def fill_for_sweep() -> None:
    """Go through more ranges, for a sweep."""
    _filling().take_turn(SWEEP_TURN, lambda: True, even_early=True)


def _filling() -> Filling:
    database = ledger_database()
    key = database, str(connections[database].settings_dict["NAME"])
    return _fillings.setdefault(key, Filling())


def forget(**kwargs: object) -> None:
    """Begin anew, after a flush or in a forked process."""
    _fillings.clear()


after_fork(forget)
post_migrate.connect(forget)
