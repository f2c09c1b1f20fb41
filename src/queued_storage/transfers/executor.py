"""Works on files in a few threads of this process."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial

from django.db import close_old_connections, connections

from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..reporting.logs import logger
from . import leases, work

AHEAD_MAX = 50  # claimed files of a lane that wait for a thread
TOLD_AT_ONCE = 500  # ids whose aliases are asked for by one statement, at most
AHEAD_SECONDS = 0.25  # the same as time: a lane whose files take long claims none ahead


class _Lane:
    """The files of one alias that this process has in hand, and the threads that work on them."""

    def __init__(self, lock: threading.RLock) -> None:
        self.told: deque[int] = deque()  # not yet claimed
        self.claimed: deque[QueuedFile] = deque()
        self.kept: set[int] = set()  # those of them that are done before the end
        self.busy = 0
        self.threads: list[threading.Thread] = []
        self.changed = threading.Condition(lock)
        self.seconds = 1.0  # that a file takes, about
        self.tries_names = False  # as far as its threads have seen

    @property
    def load(self) -> int:
        return len(self.claimed) + self.busy

    def tell(self, pk: int) -> None:
        if any(row.pk == pk for row in self.claimed):
            self.kept.add(pk)
        else:
            self.told.append(pk)

    def leave(self) -> list[QueuedFile]:
        """Take out what is not to be done here any more."""
        left = [row for row in self.claimed if row.pk not in self.kept]
        self.claimed = deque(row for row in self.claimed if row.pk in self.kept)
        return left

    def took(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) / 4

    def capacity(self, width: int) -> int:
        """How many files it is to have in hand: others may want the rest more."""
        return width + min(int(width * AHEAD_SECONDS / max(self.seconds, 1e-4)), AHEAD_MAX)


class Executor:
    """Some threads that run what they are told of, and what they find due in the ledger.

    Each alias has a lane with ``threads`` threads of its own, so that a remote which hangs holds
    up its own files only. One more thread looks for due files of ``aliases``, every ``poll``
    seconds and as long as some are found. It claims them in batches, the longest due first, and
    not more than a lane will soon have threads for.
    """

    def __init__(self, threads: int, poll: float, aliases: Callable[[], Collection[str]]) -> None:
        self._width = threads
        self._poll = poll
        self._aliases = aliases
        self._lock = threading.RLock()  # guards the rest, and what is in the lanes
        self._told: deque[int] = deque()
        self._lanes: dict[str, _Lane] = {}
        self._wanted = threading.Condition(self._lock)
        self._next_look = 0.0
        self._finds = False  # whether the last look found a file
        self._is_stopping = self._gives_back = self._is_over = False
        self._finder = threading.Thread(target=self._find, name="queued-storage-0", daemon=True)

    def start(self) -> None:
        self._finder.start()

    def tell(self, pks: Iterable[int]) -> None:
        with self._lock:
            self._told.extend(pks)
            self._wanted.notify()

    def is_idle(self) -> bool:
        """Whether no file is being worked on at the moment. To look for one is no work: on a slow
        machine somebody always does."""
        with self._lock:
            return not self._told and not any(
                lane.load or lane.told for lane in self._lanes.values()
            )

    def stop(self, timeout: float | None = None, *, gives_back: bool = True) -> bool:
        """End after what was told; whether all threads ended within ``timeout`` seconds.

        What was found, but not begun, is given back to the ledger, where it is due at once, or
        done as well.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._is_stopping, self._gives_back = True, gives_back
            self._wanted.notify()
        while alive := [thread for thread in self._threads() if thread.is_alive()]:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            alive[0].join(left)
            if left == 0 and alive[0].is_alive():
                return False
        return True

    def _threads(self) -> list[threading.Thread]:
        with self._lock:
            return [self._finder, *(each for lane in self._lanes.values() for each in lane.threads)]

    # The thread that looks

    def _find(self) -> None:
        while self._wait():
            _guarded(self._claim_told)
            _guarded(self._look)
            self._work_alone()
            _guarded(self._give_back)
        _guarded(self._give_back)
        self._end()
        connections.close_all()

    def _wait(self) -> bool:
        """Wait until there is something to do; False once nothing is, and all is to end."""
        with self._lock:
            while not self._can_claim_told():
                if self._is_stopping:
                    if not any(lane.told for lane in self._lanes.values()):
                        return False
                    self._wanted.wait(1)
                    break
                if (pause := self._next_look - time.monotonic()) <= 0:
                    break
                self._wanted.wait(pause)
            return True

    def _can_claim_told(self) -> bool:
        return bool(self._told) or any(
            lane.told and self._has_room(lane) for lane in self._lanes.values()
        )

    def _claim_told(self) -> None:
        with self._lock:
            pks = [self._told.popleft() for _pk in range(min(len(self._told), TOLD_AT_ONCE))]
        aliases = dict(ledger().filter(pk__in=pks).values_list("pk", "alias")) if pks else {}
        chosen: list[int] = []
        with self._lock:
            for pk in filter(aliases.__contains__, pks):
                self._lane(aliases[pk]).tell(pk)
            for lane in self._lanes.values():
                room = max(lane.capacity(self._width) - lane.load, 0)
                chosen += [lane.told.popleft() for _pk in range(min(len(lane.told), room))]
        if chosen:
            self._hand_out(ledger().claim_all(chosen, self._trying()), kept=True)

    def _hand_out(self, rows: list[QueuedFile], *, kept: bool) -> None:
        with self._lock:
            for row in rows:
                leases.wait(row)
                lane = self._lane(row.alias)
                lane.claimed.append(row)
                if kept:
                    lane.kept.add(row.pk)
                self._wake(lane)

    def _look(self) -> None:
        with self._lock:
            if self._is_stopping or time.monotonic() < self._next_look:
                return
            self._next_look = time.monotonic() + self._poll
        room = self._room(self._aliases())
        limit = min(sum(room.values()), AHEAD_MAX)
        rows = ledger().claim_due(limit, list(room), self._trying()) if limit else []
        self._hand_out(rows, kept=False)
        with self._lock:
            self._finds = bool(rows) or bool(self._lanes and not room)
            if rows and any(map(self._has_room, self._lanes.values())):
                self._next_look = 0.0
        if not rows:
            close_old_connections()

    def _trying(self) -> list[str]:
        with self._lock:
            return sorted(alias for alias, lane in self._lanes.items() if lane.tries_names)

    def _room(self, aliases: Iterable[str]) -> dict[str, int]:
        with self._lock:
            room = {
                alias: self._lanes[alias].capacity(self._width) - self._lanes[alias].load
                if alias in self._lanes
                else self._width
                for alias in aliases
            }
        return {alias: count for alias, count in room.items() if count > 0}

    def _has_room(self, lane: _Lane) -> bool:
        """Whether so many may be claimed that a statement for them pays."""
        return lane.load <= (lane.capacity(self._width) + self._width - 1) / 2

    def _lane(self, alias: str) -> _Lane:
        return self._lanes.setdefault(alias, _Lane(self._lock))

    def _wake(self, lane: _Lane) -> None:
        if len(lane.threads) < min(self._width, lane.load):
            number = sum(len(each.threads) for each in self._lanes.values()) + 1
            name = f"queued-storage-{number}"
            thread = threading.Thread(target=self._work, args=(lane,), name=name, daemon=True)
            with suppress(RuntimeError):  # the interpreter ends, or the system has no more threads
                thread.start()
                lane.threads.append(thread)
        else:
            lane.changed.notify()

    def _work_alone(self) -> None:
        """Work in this thread on the files of lanes for which none could be started."""
        while True:
            with self._lock:
                lanes = self._lanes.values()
                lane = next((lane for lane in lanes if lane.claimed and not lane.threads), None)
                if lane is None:
                    return
                row = lane.claimed.popleft()
                lane.busy += 1
            self._work_on(lane, row)

    def _give_back(self) -> None:
        """Once all is to end, leave to others what was found and not begun."""
        with self._lock:
            leaves = self._is_stopping and self._gives_back
            lanes = list(self._lanes.values()) if leaves else []
            left = [row for lane in lanes for row in lane.leave()]
        for row in left:
            leases.forget(row)
        if left:
            ledger().return_claims(left)

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            for lane in self._lanes.values():
                lane.changed.notify_all()

    # The threads that work

    def _work(self, lane: _Lane) -> None:
        keeps_connection = True
        while True:
            with self._lock:
                while not lane.claimed and not self._is_over:
                    # An idle thread keeps its connection for a while, and no longer.
                    if not lane.changed.wait(self._poll if keeps_connection else None):
                        break
                row = lane.claimed.popleft() if lane.claimed else None
                if row is None and self._is_over:
                    break
                lane.busy += row is not None
            if row is None:
                _guarded(connections.close_all)
            else:
                self._work_on(lane, row)
            keeps_connection = row is not None
        connections.close_all()

    def _work_on(self, lane: _Lane, row: QueuedFile) -> None:
        started = time.monotonic()
        try:
            _guarded(partial(work.run_claimed, row), row.pk)
        finally:
            leases.forget(row)  # if nothing has come of it
            tries_names = lane.tries_names or work.tries_names(row.alias)
            with self._lock:
                lane.tries_names = tries_names
                lane.busy -= 1
                lane.kept.discard(row.pk)
                lane.took(time.monotonic() - started)
                if self._has_room(lane) and (self._finds or lane.told):
                    self._next_look = 0.0 if self._finds else self._next_look
                    self._wanted.notify()


def _guarded(work: Callable[[], object], pk: int | None = None) -> object:
    """None if it fails: nobody would see that a thread is missing."""
    try:
        return work()
    except BaseException:  # a task left; or the ledger is out of reach: rows stay due, leases end
        logger.exception("A file could not be worked on.", extra={"queued_file": pk})
        with suppress(Exception):
            close_old_connections()
        return None
