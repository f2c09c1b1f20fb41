"""Processes files in a few threads of this process."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from functools import partial
from itertools import count

from django.db import close_old_connections

from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.supervision import Supervision
from ..runtime import ending, hung
from . import destinations, filling, lanes, leases, watching
from .crews import Crews
from .gates import gates
from .lanes import Lane, guarded
from .solitude import ALONE_MAX, solitude
from .work import run_claimed

NOTIFIED_AT_ONCE = 500  # ids whose aliases are read by one statement, at most
SUPERVISED_EVERY = 1.0  # seconds, while threads are at work
SUSPECTS_EVERY = 1.0  # seconds between two looks for suspects, or longer if a search is rarer
SUSPECTS_SECONDS = 2.0  # that suspects are processed before others have their turn


class Phase(Enum):
    """What an executor does."""

    WAITING = "the last search found no file"
    FINDING = "the last search found a file"
    FINISHING = "stop() was called; it processes every file that it claimed"
    RETURNING = "stop() was called; it returns claimed files that no thread has begun"
    OVER = "its threads end when no claimed file is left"

    @property
    def is_stopping(self) -> bool:
        return self is not Phase.WAITING and self is not Phase.FINDING


# What each phase may lead to. Anything else is ignored, such as a search that ends after stop().
NEXT_PHASES: dict[Phase, set[Phase]] = {
    Phase.WAITING: {Phase.FINDING, Phase.FINISHING, Phase.RETURNING},
    Phase.FINDING: {Phase.WAITING, Phase.FINISHING, Phase.RETURNING},
    Phase.FINISHING: {Phase.RETURNING, Phase.OVER},
    Phase.RETURNING: {Phase.FINISHING, Phase.OVER},
    Phase.OVER: set(),
}


class Executor:
    """Threads that process the files they are notified of, and those that are due in the ledger.

    Each alias has a lane with ``threads`` threads of its own, so that a remote that hangs blocks
    only its own files. One more thread searches for due files of ``aliases``, every ``poll``
    seconds, and at once for as long as it finds some. It claims them in batches, oldest due first,
    and no more than a lane will soon have threads for. It replaces threads that hang, and has
    suspects processed alone.
    """

    def __init__(self, threads: int, poll: float, aliases: Callable[[], Collection[str]]) -> None:
        self._width = threads
        self._poll = poll
        self._aliases = aliases
        self._lock = threading.RLock()  # guards the rest, and the lanes
        self._notified: deque[int] = deque()
        self._lanes: dict[str, Lane] = {}
        self._wanted = threading.Condition(self._lock)
        self._next_search = 0.0
        self._next_suspects = 0.0
        self._phase = Phase.WAITING
        self._names = map("queued-storage-{}".format, count())
        self._crews = Crews(threads, self._names, self._is_stopping, self.notify)
        self._known: Collection[str] = ()  # the aliases of the last search
        self._finder = threading.Thread(target=self._find, name=next(self._names), daemon=True)

    def start(self) -> None:
        self._finder.start()

    def notify(self, pks: Iterable[int]) -> None:
        """Process these files soon."""
        with self._lock:
            self._notified.extend(pks := list(pks))
            self._crews.notify(pks)
            self._wanted.notify()

    def is_idle(self) -> bool:
        """Return whether no file is in hand. A search for files does not count, because on a slow
        machine there always is one."""
        with self._lock:
            return (
                self._crews.is_idle()
                and not self._notified
                and not any(lane.load or lane.notified for lane in self._lanes.values())
            )

    @property
    def is_exhausted(self) -> bool:
        """Whether so many threads hang that the process should be restarted."""
        return hung.are_too_many()

    def stop(self, timeout: float | None = None, *, gives_back: bool = True) -> bool:
        """End after all notified files; return whether all threads ended in time.

        ``timeout`` is in seconds. Files that were found, but not begun, are returned to the ledger,
        where they are due at once. With ``gives_back=False``, they are processed as well.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._lead_to(Phase.RETURNING if gives_back else Phase.FINISHING)
            self._wanted.notify()
        while alive := [thread for thread in self._threads() if thread.is_alive()]:
            left = 1.0 if deadline is None else max(deadline - time.monotonic(), 0)
            alive[0].join(min(left, 1.0))
            if left == 0 and alive[0].is_alive():
                return False
        return True

    def let_go(self) -> None:
        """Return all files to the ledger, because the process ends; no attempt is counted.

        For use after ``stop()``, if its time was not enough. Threads that still process a file can
        change nothing in the ledger any more.
        """
        with self._lock:
            self._lead_to(Phase.OVER)
            self._notified.clear()
            threads = [thread for lane in self._lanes.values() for thread in lane.give_up_all()]
            threads += self._crews.let_go()
            back = [row for lane in self._lanes.values() for row in lane.give_back_all()]
            self._end()
        running = leases.of_threads([*threads, self._finder.ident or 0])
        for lease in running:
            lease.end()
        guarded(lambda: _return(back))
        files = [lease.row for lease in running if lease.is_of_file]
        guarded(lambda: files and ledger().hand_back(files))
        for lease in running:
            if isinstance(lease, leases.OtherLease):
                guarded(lease.give_back)

    def _threads(self) -> list[threading.Thread]:
        with self._lock:
            lanes = [each for lane in self._lanes.values() for each in lane.threads]
            return [self._finder, *lanes, *self._crews.threads()]

    def _lead_to(self, phase: Phase) -> None:
        if phase in NEXT_PHASES[self._phase]:
            self._phase = phase

    # The thread that searches

    def _find(self) -> None:
        while self._wait():
            guarded(self._supervise)
            guarded(self._sort_notified)
            guarded(self._search)  # first, so that what waits longest is not forgotten
            guarded(self._claim_notified)
            self._crews.look(self._known, self._poll)
            self._work_alone()
            guarded(self._give_back)
        guarded(self._give_back)
        self._end()
        self._crews.end()

    def _wait(self) -> bool:
        """Wait until there is something to do; return False when nothing will be."""
        with self._lock:
            while not self._can_claim_notified():
                is_busy = self._is_busy()
                if self._phase.is_stopping:
                    if self._phase is Phase.OVER or not (is_busy or self._crews.is_finishing):
                        return False
                    self._wanted.wait(0 if self._crews.has_notified else SUPERVISED_EVERY)
                    break
                if (pause := self._next_search - time.monotonic()) <= 0:
                    break
                self._wanted.wait(min(pause, SUPERVISED_EVERY) if is_busy else pause)
                if is_busy:
                    break
            return self._phase is not Phase.OVER

    def _is_busy(self) -> bool:
        return any(lane.load or lane.notified for lane in self._lanes.values())

    def _supervise(self) -> None:
        """Replace the threads that hang, and return files that wait for long to the ledger."""
        with self._lock:
            for lane in self._lanes.values():
                lane.give_up_hung()
            back = [row for lane in self._lanes.values() for row in lane.give_back_late()]
        _return(back)

    def _can_claim_notified(self) -> bool:
        return bool(self._notified) or any(
            lane.notified and lane.has_room for lane in self._lanes.values()
        )

    def _sort_notified(self) -> None:
        with self._lock:
            pks = [
                self._notified.popleft()
                for _pk in range(min(len(self._notified), NOTIFIED_AT_ONCE))
            ]
            known = {alias for alias, lane in self._lanes.items() if lane.notified}
        if not (pks or known):
            return
        found = ledger().filter(pk__in=pks).values_list("pk", "alias", "priority") if pks else ()
        places = {pk: place for pk, *place in found}
        closed = gates.closed() & {*known, *(alias for alias, _priority in places.values())}
        if closed:  # their files are due when the remote is open
            watching.watch()
            self._put_back(closed)
        with self._lock:
            for pk in filter(places.__contains__, pks):
                alias, priority = places[pk]
                if alias not in closed:
                    self._lane(alias).notify(pk, priority)
            if any(lane.notified and lane.has_order and lane.room for lane in self._lanes.values()):
                self._next_search = 0.0

    def _claim_notified(self) -> None:
        chosen: list[int] = []
        with self._lock:
            for lane in self._lanes.values():
                chosen += lane.notified.take(lane.room)
        held = leases.held()
        if chosen := [pk for pk in chosen if pk not in held]:
            self._hand_out(ledger().claim_all(chosen, self._trying()), is_notified=True)

    def _search(self) -> None:
        with self._lock:
            if self._phase.is_stopping or time.monotonic() < self._next_search:
                return
            if ending.was_noticed():  # what was found could not be finished
                return
            self._next_search = time.monotonic() + self._poll
        aliases = self._open_aliases()
        room = self._room(aliases)
        limit = min(sum(room.values()), lanes.AHEAD_MAX)
        rows = []
        if limit:
            held, lately = leases.held(), gates.opened_lately()
            rows = ledger().claim_due(limit, list(room), self._trying(), held, lately)
        self._hand_out(rows, is_notified=False)
        with self._lock:
            has_found = bool(rows) or bool(self._lanes and not room)
            self._lead_to(Phase.FINDING if has_found else Phase.WAITING)
            if rows and any(lane.has_room for lane in self._lanes.values()):
                self._next_search = 0.0
        guarded(partial(self._clear_suspects, aliases))
        guarded(partial(filling.fill_a_little, self._has_time))
        guarded(self._crews.remove_surplus)
        if not rows:
            close_old_connections()

    def _has_time(self) -> bool:
        return not self._is_stopping() and not self._notified and self._phase is not Phase.FINDING

    def _open_aliases(self) -> list[str]:
        """Return the aliases whose remote is open; put the files of the others back."""
        self._known = aliases = self._aliases()
        destinations.register_first(aliases)
        closed = gates.closed().intersection(aliases)
        watching.watch_if_closed()
        if closed:
            self._put_back(closed)
        return [alias for alias in aliases if alias not in closed]

    def _put_back(self, closed: Iterable[str]) -> None:
        back = []
        with self._lock:
            for alias in closed:
                lane = self._lane(alias)
                back += lane.give_back_all()
                lane.begin_slowly()
        _return(back)

    def _clear_suspects(self, aliases: Collection[str]) -> None:
        """Have files whose worker died processed, one at a time and nothing beside them."""
        with self._lock:
            if self._is_stopping() or time.monotonic() < self._next_suspects:
                return
            if hung.are_too_many():  # a suspect has a thread of its own
                return
            self._next_suspects = time.monotonic() + max(self._poll, SUSPECTS_EVERY)
            without_thread = {alias for alias, lane in self._lanes.items() if not lane.width}
        aliases = set(aliases) - without_thread
        if not aliases or not self._suspects(aliases).exists():
            return
        started = time.monotonic()
        with solitude.alone(unless=self._is_stopping) as is_alone:
            if not is_alone:
                return
            self._return_waiting()
            while self._process_suspect(aliases):
                if time.monotonic() - started > SUSPECTS_SECONDS and self._has_others():
                    break
        with self._lock:
            pause = time.monotonic() - started if self._has_others() else 0
            self._next_suspects = time.monotonic() + pause

    def _suspects(self, aliases: Collection[str]) -> Supervision:
        suspects = ledger().filter(alias__in=aliases).exclude(pk__in=leases.held()).suspects()
        return suspects.workable_here()

    def _process_suspect(self, aliases: Collection[str]) -> bool:
        """Process a suspect; return False if there is none, or if it takes too long."""
        row = None if self._is_stopping() else ledger().claim_suspect(self._suspects(aliases))
        if row is None:
            return False
        deadline = time.monotonic() + ALONE_MAX
        with self._lock:
            lane = self._lane(row.alias)
            thread = lane.begin_alone(row)
            while thread and lane.is_at_work(thread):
                if self._is_stopping() or time.monotonic() > deadline:
                    return False
                lane.give_up_hung()
                self._wanted.wait(SUPERVISED_EVERY)
        if thread is None:
            run_claimed(row)
        return True

    def _return_waiting(self) -> None:
        """Return the files that wait for a thread to the ledger, so that none dies with others."""
        with self._lock:
            back = [row for lane in self._lanes.values() for row in lane.put_back()]
        _return(back)

    def _has_others(self) -> bool:
        """Whether files wait that are no suspects."""
        has_notified = self._notified or any(lane.notified for lane in self._lanes.values())
        return bool(has_notified or self._phase is Phase.FINDING or solitude.delays_others)

    def _is_stopping(self) -> bool:
        return self._phase.is_stopping or ending.was_noticed()

    def _trying(self) -> list[str]:
        with self._lock:
            return sorted(alias for alias, lane in self._lanes.items() if lane.tries_names)

    def _room(self, aliases: Iterable[str]) -> dict[str, int]:
        with self._lock:
            room = {
                alias: self._lanes[alias].room if alias in self._lanes else self._width
                for alias in aliases
            }
        return {alias: free for alias, free in room.items() if free}

    def _hand_out(self, rows: list[QueuedFile], *, is_notified: bool) -> None:
        with self._lock:
            for row in rows:
                self._lane(row.alias).add(row, is_notified=is_notified)

    def _lane(self, alias: str) -> Lane:
        if alias not in self._lanes:
            changed = threading.Condition(self._lock)
            self._lanes[alias] = Lane(self._width, self._poll, changed, self._names, self._on_done)
        return self._lanes[alias]

    def _on_done(self, lane: Lane) -> None:
        """Search at once for more files of a lane that has room, if there may be some."""
        if not lane.load or solitude.is_owned():
            self._wanted.notify()  # the end of the lane, or of a suspect, is awaited
        if lane.has_room and (lane.notified or self._phase is Phase.FINDING):
            if self._phase is Phase.FINDING:
                self._next_search = 0.0
            self._wanted.notify()

    def _work_alone(self) -> None:
        """Process the files of lanes for which no thread could be started."""
        while any(lane.work_alone() for lane in self._all_lanes()):
            pass

    def _give_back(self) -> None:
        """Return found files that no thread has begun to the ledger, if it is to do so."""
        with self._lock:
            if self._phase is not Phase.RETURNING:
                return
            back = [row for lane in self._lanes.values() for row in lane.give_back()]
        _return(back)

    def _end(self) -> None:
        with self._lock:
            self._lead_to(Phase.OVER)
            for lane in self._lanes.values():
                lane.end()

    def _all_lanes(self) -> list[Lane]:
        with self._lock:
            return list(self._lanes.values())


def _return(claimed: list[QueuedFile]) -> None:
    if claimed:
        lanes.give_back(claimed)
