"""The files of one storage that a worker has in hand."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from django.db import close_old_connections, connections

from ..ledger import schema
from ..ledger.models import QueuedFile
from ..reporting.logs import logger
from . import leases, work

AHEAD_MAX = 50  # claimed files of a lane that wait for a thread, at most
AHEAD_SECONDS = 0.25  # the same as time: a lane claims no file ahead if its files take long


class Lane:
    """The files of one alias, and the threads that process them.

    The caller of a method holds the lock of ``changed``, unless the method says otherwise.
    """

    def __init__(
        self,
        width: int,
        patience: float,
        changed: threading.Condition,
        names: Iterator[str],
        on_done: Callable[["Lane"], None],
    ) -> None:
        self.notified: deque[int] = deque()  # ids that are not claimed yet
        self.threads: list[threading.Thread] = []
        self.tries_names = False  # whether the last file's storage sends files unchecked
        self._width = width  # threads, at most
        self._patience = patience  # seconds for which an idle thread keeps its connection
        self._changed = changed
        self._names = names  # for threads
        self._on_done = on_done  # called after each file, with the lock held
        self._claimed: deque[QueuedFile] = deque()
        self._notified_claimed: set[int] = set()  # those of them that are processed before the end
        self._busy = 0  # files
        self._seconds = 1.0  # that a file takes, as a moving average
        self._is_over = False

    @property
    def load(self) -> int:
        return len(self._claimed) + self._busy

    @property
    def _capacity(self) -> int:
        """How many files to have in hand. Other workers may have time for the rest."""
        ahead = int(self._width * AHEAD_SECONDS / max(self._seconds, 1e-4))
        return self._width + min(ahead, AHEAD_MAX)

    @property
    def room(self) -> int:
        """How many more files may be claimed."""
        return max(self._capacity - self.load, 0)

    @property
    def has_room(self) -> bool:
        """Whether so many files may be claimed that it is worth a statement."""
        return self.load <= (self._capacity + self._width - 1) / 2

    # What comes in, and goes out

    def notify(self, pk: int) -> None:
        """Take an id that the process was notified of."""
        if any(row.pk == pk for row in self._claimed):
            self._notified_claimed.add(pk)
        else:
            self.notified.append(pk)

    def add(self, row: QueuedFile, *, is_notified: bool) -> None:
        """Take a claimed file, and keep its lease until a thread has time for it."""
        leases.wait(row)
        self._claimed.append(row)
        if is_notified:
            self._notified_claimed.add(row.pk)
        self._wake()

    def give_back(self) -> list[QueuedFile]:
        """Take out the files that were found, but not begun."""
        back = [row for row in self._claimed if row.pk not in self._notified_claimed]
        self._claimed = deque(row for row in self._claimed if row.pk in self._notified_claimed)
        for row in back:
            leases.forget(row)
        return back

    def end(self) -> None:
        """Let the threads end when no claimed file is left."""
        self._is_over = True
        self._changed.notify_all()

    # The threads

    def _wake(self) -> None:
        if len(self.threads) >= min(self._width, self.load):
            self._changed.notify()
            return
        thread = threading.Thread(target=self._work, name=next(self._names), daemon=True)
        with suppress(RuntimeError):  # the interpreter ends, or the system has no more threads
            thread.start()
            self.threads.append(thread)

    def work_alone(self) -> bool:
        """Process one file in this thread, if the lane has files but could start no thread.

        Return whether it did. The caller does not hold the lock.
        """
        with self._changed:
            row = None if self.threads else self._begin()
        if row:
            self._work_on(row)
        return row is not None

    def _work(self) -> None:
        keeps_connection = True
        while True:
            with self._changed:
                while not self._claimed and not self._is_over:
                    if not self._changed.wait(self._patience if keeps_connection else None):
                        break
                row = self._begin()
                if row is None and self._is_over:
                    break
            if row:
                self._work_on(row)
            else:
                guarded(connections.close_all)
            keeps_connection = row is not None
        connections.close_all()

    def _begin(self) -> QueuedFile | None:
        if not self._claimed:
            return None
        self._busy += 1
        return self._claimed.popleft()

    def _work_on(self, row: QueuedFile) -> None:
        started = time.monotonic()
        try:
            guarded(partial(work.run_claimed, row), row.pk)
        finally:
            leases.forget(row)  # if the work failed before it kept the lease itself
            tries_names = self.tries_names or work.tries_names(row.alias)
            with self._changed:
                self.tries_names = tries_names
                self._busy -= 1
                self._notified_claimed.discard(row.pk)
                self._seconds += (time.monotonic() - started - self._seconds) / 4
                self._on_done(self)


def guarded(action: Callable[[], object], pk: int | None = None) -> object:
    """Call ``action``; log what it raises, and return None, so that the thread goes on."""
    try:
        return action()
    # A task may raise SystemExit. If the ledger is out of reach, rows stay due and leases expire.
    except BaseException as error:
        if not schema.is_explained(error):
            logger.exception("A file could not be processed.", extra={"queued_file": pk})
        with suppress(Exception):
            close_old_connections()
        return None
