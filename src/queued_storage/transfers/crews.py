"""The threads of a worker that do other work than transfers, so that no transfer waits for it."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from django.db import connections

from ..runtime import hung
from . import copying, leases, preparing, surplus, throughput
from .copying import Mirror
from .evicting import Evictor
from .lanes import guarded

EVERY = 5.0  # seconds between two looks, or less if a worker searches more often
REMOVE_EVERY = 10.0  # seconds between two looks for copies that are of no use
REMOVED_AT_ONCE = 100  # of them
NOTIFIED_MAX = 500  # files whose steps are run before the end, at most

Group = TypeVar("Group", bound=Hashable)


class Due(Protocol):
    """A queryset of what is to be done."""

    def values(self, column: str) -> Any: ...


class Crew(Generic[Group]):
    """Up to ``width`` threads for each group of work, so that one that hangs delays no other.

    A thread ends when nothing of its group is due.
    """

    def __init__(
        self,
        width: int,
        names: Iterator[str],
        is_stopping: Callable[[], bool],
        *,
        groups: Callable[[Collection[str]], Iterable[Group]],  # of these aliases
        due: Callable[[Group], Due],
        work: Callable[[Group, Callable[[], bool]], object],
    ) -> None:
        self._width = width
        self._names = names
        self._is_stopping = is_stopping
        self._groups = groups
        self._due = due
        self._do = work
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._threads: dict[Group, list[threading.Thread]] = defaultdict(list)

    def hurry(self) -> None:
        """Let the next look be at once."""
        self._next_look = 0.0

    def look(self, aliases: Collection[str], poll: float) -> None:
        """Start threads for what is due, unless it is too early."""
        if self._is_stopping() or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + min(poll, EVERY)
        for group in self._groups(aliases):
            room = self._width - len(self._living(group))
            if room > 0 and not self._is_stopping():
                found = len(self._due(group).values("pk")[:room])
                for _number in range(found):
                    self._start(group)

    def is_idle(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads())

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return [thread for each in self._threads.values() for thread in each]

    def _living(self, group: Group) -> list[threading.Thread]:
        """Forget the threads that have ended, and those that hang if they may be replaced."""
        stalled = leases.stalled_threads()
        with self._lock:
            found = [thread for thread in self._threads[group] if thread.is_alive()]
            hanging = [thread for thread in found if thread.ident in stalled]
            for thread in hanging:
                if hung.add(thread):
                    found.remove(thread)
            self._threads[group] = found
            return found

    def _start(self, group: Group) -> None:
        work = partial(self._work, group)
        thread = threading.Thread(target=work, name=next(self._names), daemon=True)
        with suppress(RuntimeError):  # the interpreter ends, or the system has no more threads
            thread.start()
            with self._lock:
                self._threads[group].append(thread)

    def _work(self, group: Group) -> None:
        try:
            guarded(partial(self._do, group, self._is_stopping))
        finally:
            connections.close_all()


class Copiers(Crew[Mirror]):
    """The threads that make copies on mirrors, and one that keeps local storages within their
    limits."""

    def __init__(self, width: int, names: Iterator[str], is_stopping: Callable[[], bool]) -> None:
        super().__init__(
            width,
            names,
            is_stopping,
            groups=copying.open_mirrors,
            due=copying.due,
            work=copying.make_due,
        )
        self._evictor = Evictor(names, is_stopping)

    def look(self, aliases: Collection[str], poll: float) -> None:
        self._evictor.look(aliases)
        super().look(aliases, poll)

    def threads(self) -> list[threading.Thread]:
        return [*super().threads(), *self._evictor.threads()]


class Remover:
    """The thread that removes copies that are of no use. It ends when no more of them are due."""

    def __init__(self, names: Iterator[str], is_stopping: Callable[[], bool]) -> None:
        self._names = names
        self._is_stopping = is_stopping
        self._next_look = 0.0
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Start the thread, unless it is too early, or it is still at work."""
        if time.monotonic() < self._next_look or any(each.is_alive() for each in self.threads()):
            return
        self._next_look = time.monotonic() + REMOVE_EVERY
        if surplus.is_due():
            self._thread = threading.Thread(target=self._work, name=next(self._names), daemon=True)
            with suppress(RuntimeError):  # the interpreter ends, or has no more threads
                self._thread.start()

    def threads(self) -> list[threading.Thread]:
        thread = self._thread
        return [thread] if thread and thread.ident else []

    def _work(self) -> None:
        try:
            guarded(self._remove)
        finally:
            connections.close_all()

    def _remove(self) -> None:
        while surplus.dispose_due(REMOVED_AT_ONCE, self._may_go_on) == REMOVED_AT_ONCE:
            pass

    def _may_go_on(self) -> bool:
        return not self._is_stopping()


def preparers(
    width: int,
    names: Iterator[str],
    is_stopping: Callable[[], bool],
    notify: Callable[[Iterable[int]], None],
) -> Crew[str]:
    """Return the threads that run steps, by storage; ``notify`` has their files transferred."""

    def work(alias: str, until: Callable[[], bool]) -> object:
        return preparing.run_due(alias, until, notify)

    return Crew(
        width,
        names,
        is_stopping,
        groups=preparing.aliases_with_steps,
        due=preparing.due,
        work=work,
    )


class Crews:
    """All threads of a worker that do other work than transfers."""

    def __init__(
        self,
        width: int,
        names: Iterator[str],
        is_stopping: Callable[[], bool],
        notify: Callable[[Iterable[int]], None],
    ) -> None:
        self._width = width
        self._names = names
        self._is_stopping = is_stopping
        self._notify = notify
        self._copiers = Copiers(width, names, is_stopping)
        self._preparers = preparers(width, names, is_stopping, notify)
        self._remover = Remover(names, is_stopping)
        self._notified: deque[int] = deque(maxlen=NOTIFIED_MAX)  # their steps may have been run
        self._last: deque[preparing.Found] = deque()  # that are prepared before the end
        self._finishers: list[threading.Thread] = []

    def notify(self, pks: Iterable[int]) -> None:
        """Look at once for steps to run. Those of these files are run even if the end comes."""
        self._notified.extend(pks)
        self._preparers.hurry()

    def look(self, aliases: Collection[str], poll: float) -> None:
        """Start threads for what is due, or for what is to be done before the end. Every minute,
        record what the worker has done."""
        if self._is_stopping():
            guarded(self._finish)
            return
        guarded(partial(self._preparers.look, aliases, poll))
        guarded(partial(self._copiers.look, aliases, poll))
        guarded(partial(throughput.write_if_due, aliases))

    def remove_surplus(self) -> None:
        """Have copies that are of no use removed, for a thread that has just searched for files."""
        if not self._is_stopping():
            self._remover.look()

    def end(self) -> None:
        """Record what the worker has done, because its search for files ends."""
        guarded(throughput.write)
        connections.close_all()

    def is_idle(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads())

    def threads(self) -> list[threading.Thread]:
        others = [*self._remover.threads(), *self._finishers]
        return [*self._copiers.threads(), *self._preparers.threads(), *others]

    def let_go(self) -> list[int]:
        """Begin nothing more. Return the identifiers of the threads."""
        self._notified.clear()
        self._last.clear()
        return [thread.ident or 0 for thread in self.threads()]

    # Steps before the end

    @property
    def has_notified(self) -> bool:
        """Whether it is not known yet which steps are to be run before the end."""
        return bool(self._notified)

    @property
    def is_finishing(self) -> bool:
        """Whether steps are to be run before the end, or may be."""
        at_work = [*self._preparers.threads(), *self._finishers]
        return self.has_notified or any(thread.is_alive() for thread in at_work)

    def _finish(self) -> None:
        pks = list(self._notified)
        self._notified.clear()
        self._last.extend(preparing.due_of(pks))
        self._finishers = [thread for thread in self._finishers if thread.is_alive()]
        for _thread in range(min(self._width - len(self._finishers), len(self._last))):
            thread = threading.Thread(target=self._run_last, name=next(self._names), daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends, or the system has no more threads
                self._run_last()
                break
            self._finishers.append(thread)

    def _run_last(self) -> None:
        try:
            while self._last:
                with suppress(IndexError):  # another thread was faster
                    guarded(partial(self._run_one, self._last.popleft()))
        finally:
            connections.close_all()
            self._notify([])  # which lets the end go on

    def _run_one(self, found: preparing.Found) -> None:
        result = preparing.run_found(found)
        if result and result.is_transferable:
            self._notify([result.pk])
