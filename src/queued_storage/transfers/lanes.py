"""The files of one storage that a worker has in hand."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from django.db import close_old_connections, connections

from ..ledger import schema
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.supervision import is_alone
from ..reporting.logs import logger
from ..runtime import hung
from . import leases, work
from .gates import gates
from .notified import Notified
from .solitude import solitude

AHEAD_MAX = 50  # claimed files of a lane that wait for a thread, at most
AHEAD_SECONDS = 0.25  # the same as time: a lane claims no file ahead if its files take long
LOCKED_FOR = (0.0, 0.05, 0.5)  # seconds after which locked rows are asked for again
NOT_RUN = object()  # in place of the result of what raised an error
AHEAD_PATIENCE = 10.0  # seconds after which files that wait for a thread are for other workers


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
        self.notified = Notified()
        self._priorities: set[int] = set()  # of all files so far
        self.threads: list[threading.Thread] = []
        self.tries_names = False  # whether the last file's storage sends files unchecked
        self.width = width  # threads, at most; fewer if some hang that are not replaced
        self._patience = patience  # seconds for which an idle thread keeps its connection
        self._changed = changed
        self._names = names  # for threads
        self._on_done = on_done  # called after each file, with the lock held
        self._claimed: deque[QueuedFile] = deque()
        self._notified_claimed: set[int] = set()  # those of them that are processed before the end
        self._at_work: dict[threading.Thread, QueuedFile] = {}
        self._not_replaced: set[threading.Thread] = set()  # threads that hang
        self._seconds = 1.0  # that a file takes, as a moving average
        self._moved_at = time.monotonic()  # when a thread last began or ended a file
        self._is_over = False
        self._limit: int | None = None  # files in hand, after the remote was closed

    @property
    def load(self) -> int:
        return len(self._claimed) + len(self._at_work)

    @property
    def _capacity(self) -> int:
        """How many files to have in hand. Other workers may have time for the rest."""
        if not self.width:
            return 0
        if self._limit is not None:
            return min(self._limit, self.width)
        seconds = max(self._seconds, 1e-4)
        if len(self._at_work) >= self.width:
            seconds = max(seconds, time.monotonic() - self._moved_at)
        return self.width + min(int(self.width * AHEAD_SECONDS / seconds), AHEAD_MAX)

    @property
    def room(self) -> int:
        """How many more files may be claimed."""
        return max(self._capacity - self.load, 0)

    @property
    def has_room(self) -> bool:
        """Whether so many files may be claimed that it is worth a statement."""
        return self.room > 0 and self.load <= (self._capacity + self.width - 1) / 2

    # What comes in, and goes out

    @property
    def has_order(self) -> bool:
        """Whether its files have different priorities. The ledger knows which one is the next."""
        return len(self._priorities) > 1

    def notify(self, pk: int, priority: int) -> None:
        """Take an id that the process was notified of."""
        if any(row.pk == pk for row in self._claimed):
            self._notified_claimed.add(pk)
        elif self.width:  # otherwise no thread is left, and the file is for other workers
            self._priorities.add(priority)
            self.notified.add(pk, priority)

    def add(self, row: QueuedFile, *, is_notified: bool) -> None:
        """Take a claimed file, and keep its lease until a thread has time for it."""
        leases.wait(row)
        if not self._claimed and len(self._at_work) < self.width:
            self._moved_at = time.monotonic()
        self._claimed.append(row)
        self._priorities.add(row.priority)
        if self.notified.discard(row.pk) or is_notified:
            self._notified_claimed.add(row.pk)
        self._wake()

    def give_back(self) -> list[QueuedFile]:
        """Take out the files that were found, but not begun."""
        return self._take_out(lambda row: row.pk not in self._notified_claimed)

    def give_back_all(self) -> list[QueuedFile]:
        """Take out all files that were not begun."""
        self.notified.clear()
        self._notified_claimed.clear()
        return self._take_out(lambda row: True)

    def give_back_late(self) -> list[QueuedFile]:
        """Take out the files for which no thread has had time for long.

        They are for other workers, or for this one once it has a thread.
        """
        if not self._claimed or time.monotonic() - self._moved_at < AHEAD_PATIENCE:
            return []
        return self.put_back()

    def put_back(self) -> list[QueuedFile]:
        """Take out all files that were not begun; those that were notified wait as ids again."""
        back = self._take_out(lambda row: True)
        if self.width:
            self.notified.return_all(row for row in back if row.pk in self._notified_claimed)
        self._notified_claimed.difference_update(row.pk for row in back)
        return back

    def _take_out(self, condition: Callable[[QueuedFile], bool]) -> list[QueuedFile]:
        back = [row for row in self._claimed if condition(row)]
        self._claimed = deque(row for row in self._claimed if not condition(row))
        for row in back:
            leases.forget(row)
        return back

    def begin_slowly(self) -> None:
        """Process one file at first, then twice as many after each that succeeds: the remote was
        closed."""
        self._limit = 1

    def _note_success(self) -> None:
        if self._limit is not None:
            self._limit = None if self._limit >= self.width else self._limit * 2

    def end(self) -> None:
        """Let the threads end when no claimed file is left."""
        self._is_over = True
        self._changed.notify_all()

    # The threads

    def _wake(self) -> None:
        if len(self.threads) >= min(self.width, self.load):
            self._changed.notify()
            return
        thread = threading.Thread(target=self._work, name=next(self._names), daemon=True)
        with suppress(RuntimeError):  # the interpreter ends, or the system has no more threads
            thread.start()
            self.threads.append(thread)

    def give_up_hung(self) -> None:
        """Replace the threads that hang, unless too many of this process hang already."""
        stalled = leases.stalled_threads()
        for thread, row in list(self._at_work.items()):
            if thread.ident not in stalled or thread not in self.threads:
                continue
            self._lose(thread)
            is_replaced = hung.add(thread)
            if not is_replaced and not is_alone(row):  # a suspect has a thread of its own
                self._not_replaced.add(thread)
                self.width -= 1
            logger.error(
                "The thread that processes %s hangs. %s",
                row,
                "It was replaced by another one."
                if is_replaced
                else "It cannot be replaced, because too many threads of this process hang: "
                "restart the process.",
                extra={"queued_file": row.pk, "queued_storage": row.alias},
            )
            self._moved_at = time.monotonic() if is_replaced else self._moved_at
            if self._claimed and self.width:
                self._wake()

    def give_up_all(self) -> list[int]:
        """Give up all threads that are at work. Return their identifiers."""
        given_up = [thread for thread in self._at_work if thread in self.threads]
        for thread in given_up:
            self._lose(thread)
        return [thread.ident for thread in given_up if thread.ident]

    def _lose(self, thread: threading.Thread) -> None:
        row = self._at_work.pop(thread)
        self.threads.remove(thread)
        self._notified_claimed.discard(row.pk)

    def work_alone(self) -> bool:
        """Process one file in this thread, if the lane has files but could start no thread.

        Return whether it did. The caller does not hold the lock.
        """
        with self._changed:
            if self.threads or not self._claimed:
                return False
        return self._work_on_next() is not None

    def _work(self) -> None:
        is_needed = keeps_connection = True
        while is_needed:
            with self._changed:
                while not self._claimed and not self._is_over:
                    if not self._changed.wait(self._patience if keeps_connection else None):
                        break
                keeps_connection = bool(self._claimed)
                if self._is_over and not self._claimed:
                    break
            if keeps_connection:
                is_needed = self._work_on_next() is not False
            else:
                guarded(connections.close_all)
        connections.close_all()

    def _work_on_next(self) -> bool | None:
        """Process the next file. Return False if this thread was given up meanwhile, and None if
        there was no file."""
        with solitude.beside_others():
            with self._changed:
                if not self._claimed:
                    return None
                row = self._claimed.popleft()
                self._at_work[threading.current_thread()] = row
                self._moved_at = time.monotonic()
            return self._work_on(row)

    def begin_alone(self, row: QueuedFile) -> threading.Thread | None:
        """Process a suspect in a thread of its own, whatever the other threads wait for.

        Return the thread; None if no thread can be started. The caller has stopped the others.
        """
        leases.wait(row)
        thread = threading.Thread(
            target=self._work_on_suspect, args=(row,), name=next(self._names), daemon=True
        )
        self._at_work[thread] = row
        self.threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._lose(thread)
            leases.forget(row)
            return None
        return thread

    def is_at_work(self, thread: threading.Thread) -> bool:
        return thread in self._at_work

    def _work_on_suspect(self, row: QueuedFile) -> None:
        if self._work_on(row):
            with self._changed:
                self.threads.remove(threading.current_thread())
        connections.close_all()

    def _work_on(self, row: QueuedFile) -> bool:
        """Process a file. Return False if this thread was given up meanwhile."""
        started = time.monotonic()
        thread = threading.current_thread()
        error: object = NOT_RUN
        try:
            error = guarded(partial(_process, row), row.pk)
        finally:
            leases.forget(row)  # if the work failed before it kept the lease itself
            tries_names = self.tries_names or work.tries_names(row.alias)
            with self._changed:
                self.tries_names = tries_names
                if error is None:
                    self._note_success()
                is_needed = self._at_work.pop(thread, None) is not None
                if thread in self._not_replaced:
                    self._not_replaced.remove(thread)
                    self.width += 1
                if is_needed:
                    self._notified_claimed.discard(row.pk)
                    self._seconds += (time.monotonic() - started - self._seconds) / 4
                    self._moved_at = time.monotonic()
                self._on_done(self)
        return is_needed


def _process(row: QueuedFile) -> object:
    """Process a claimed file; return it to the ledger if its remote was closed since."""
    if _is_closed(row.alias):
        leases.forget(row)
        give_back([row])
        return NOT_RUN
    return work.run_claimed(row)


def give_back(claimed: list[QueuedFile]) -> None:
    """Return claims to the ledger, which skips rows that somebody has locked: usually for a moment.

    What is left then is due when its lease expires, as if its worker had died.
    """
    left = len(claimed)
    for pause in LOCKED_FOR:
        if left:
            time.sleep(pause)
            left -= ledger().return_claims(claimed)


def _is_closed(alias: str) -> bool:
    try:
        return gates.is_closed(alias)
    except Exception:  # the ledger may be back before the file is uploaded
        return False


def guarded(action: Callable[[], object], pk: int | None = None) -> object:
    """Call ``action``; log what it raises, and return ``NOT_RUN``, so that the thread goes on."""
    try:
        return action()
    # A task may raise SystemExit. If the ledger is out of reach, rows stay due and leases expire.
    except BaseException as error:
        if not schema.is_explained(error):
            logger.exception("A file could not be processed.", extra={"queued_file": pk})
        with suppress(Exception):
            close_old_connections()
        return NOT_RUN
