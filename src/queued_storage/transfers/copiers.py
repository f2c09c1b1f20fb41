"""The threads of a worker for what first uploads do not wait for: copies on mirrors, evictions."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial

from django.db import connections

from ..runtime import hung
from . import copying, leases
from .copying import Mirror
from .evicting import Evictor
from .lanes import guarded

EVERY = 5.0  # seconds between two looks, or less if a worker searches more often


class Copiers:
    """Up to ``width`` threads for each mirror, so that one that hangs delays no other.

    A thread ends when no copy is due. One more thread keeps local storages within their limits.
    """

    def __init__(self, width: int, names: Iterator[str], is_stopping: Callable[[], bool]) -> None:
        self._width = width
        self._names = names
        self._is_stopping = is_stopping
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._threads: dict[Mirror, list[threading.Thread]] = defaultdict(list)
        self._evictor = Evictor(names, is_stopping)

    def look(self, aliases: Collection[str], poll: float) -> None:
        """Start threads for the copies that are due, unless it is too early; let the evictor do
        the same."""
        self._evictor.look(aliases)
        if self._is_stopping() or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + min(poll, EVERY)
        for mirror in copying.open_mirrors(aliases):
            room = self._width - len(self._living(mirror))
            if room > 0 and not self._is_stopping():
                found = len(copying.due(mirror).values("pk")[:room])
                for _number in range(found):
                    self._start(mirror)

    def is_idle(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads())

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            copying = [thread for each in self._threads.values() for thread in each]
        return [*copying, *self._evictor.threads()]

    def _living(self, mirror: Mirror) -> list[threading.Thread]:
        """Forget the threads that have ended, and those that hang if they may be replaced."""
        stalled = leases.stalled_threads()
        with self._lock:
            found = [thread for thread in self._threads[mirror] if thread.is_alive()]
            hanging = [thread for thread in found if thread.ident in stalled]
            for thread in hanging:
                if hung.add(thread):
                    found.remove(thread)
            self._threads[mirror] = found
            return found

    def _start(self, mirror: Mirror) -> None:
        work = partial(self._work, mirror)
        thread = threading.Thread(target=work, name=next(self._names), daemon=True)
        with suppress(RuntimeError):  # the interpreter ends, or the system has no more threads
            thread.start()
            with self._lock:
                self._threads[mirror].append(thread)

    def _work(self, mirror: Mirror) -> None:
        try:
            guarded(partial(copying.make_due, mirror, self._is_stopping))
        finally:
            connections.close_all()
