"""Decides which files may be processed beside others in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runtime.forks import after_fork

PATIENCE = 5.0  # seconds to wait at first for the end of what was begun; doubled after each failure
ALONE_MAX = 60.0  # seconds after which other files begin even if a file is processed alone


class Solitude:
    """Lets a file be processed alone, so that the death of the process proves which file caused it.

    Other files wait meanwhile, but not for long: if a file is to be processed alone and others had
    to wait for that, the next one has its turn only after as much time for the others.
    """

    def __init__(self) -> None:
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._begun: dict[int, int] = {}  # files by the thread that processes them
        self._closed_until: float | None = None  # for other files
        self._owner = 0  # the thread that closed it
        self._began = 0.0  # when
        self._next_turn = 0.0
        self._patience = PATIENCE
        self._delays_others = False

    @contextmanager
    def beside_others(self) -> Iterator[None]:
        """Process a file in the block, unless a file is processed alone: wait for its end first."""
        me = threading.get_ident()
        with self._changed:
            is_inside = me in self._begun or me == self._owner  # of another file's transfer
            while not is_inside and (left := self._closed_for()) > 0:
                self._delays_others = True
                self._changed.wait(left)
            self._begun[me] = self._begun.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                if self._begun.get(me):  # otherwise the thread was given up
                    self._begun[me] -= 1
                    if not self._begun[me]:
                        del self._begun[me]
                self._changed.notify_all()

    def give_up(self, thread: int) -> None:
        """Stop waiting for a thread that hangs."""
        with self._changed:
            self._begun.pop(thread, None)
            self._changed.notify_all()

    @contextmanager
    def alone(self, unless: Callable[[], bool] | None = None) -> Iterator[bool]:
        """Yield whether no other file is processed during the block.

        With ``unless``, yield False at once if it is the turn of others, and soon if it becomes
        true.
        """
        if self._owner == threading.get_ident():
            yield True
            return
        is_alone = self._close(unless)
        try:
            yield is_alone
        finally:
            if is_alone:
                self._open()

    @property
    def delays_others(self) -> bool:
        """Whether a file has had to wait since the block of ``alone()`` began."""
        return self._delays_others

    def is_owned(self) -> bool:
        """Whether a thread is alone, or waits to be."""
        return bool(self._owner)

    def _closed_for(self) -> float:
        return 0.0 if self._closed_until is None else self._closed_until - time.monotonic()

    def _close(self, unless: Callable[[], bool] | None) -> bool:
        with self._changed:
            while (pause := self._next_turn - time.monotonic()) > 0 or self._closed_until:
                if unless:
                    return False
                self._changed.wait(pause if pause > 0 else 1)
            self._owner = threading.get_ident()
            self._began = time.monotonic()
            self._closed_until = self._began + self._patience
            while self._others() and (left := self._closed_for()) > 0:
                if unless and unless():
                    self._open()
                    return False
                self._changed.wait(min(left, 1))
            if self._others():  # large files, perhaps
                self._patience *= 2
                self._delays_others = True
                self._open()
                return False
            self._patience = PATIENCE
            self._closed_until = time.monotonic() + ALONE_MAX
            return True

    def _others(self) -> set[int]:
        return self._begun.keys() - {threading.get_ident()}

    def _open(self) -> None:
        with self._changed:
            now = time.monotonic()
            self._next_turn = now + (now - self._began if self._delays_others else 0)
            self._closed_until = None
            self._owner = 0
            self._delays_others = False
            self._changed.notify_all()


solitude = Solitude()
