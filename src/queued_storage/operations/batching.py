"""A pass whose threads work on transferred files, while one thread asks the ledger for them all."""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from itertools import count
from queue import Empty, PriorityQueue, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from django.db import connections

from ..ledger.database import QueuedFileQuerySet, in_transaction, ledger
from ..ledger.models import QueuedFile
from ..storage.routes import Routes
from ..transfers import leases
from .errands import release
from .passes import BATCH, Report, Step
from .storages import OperableStorage

READ = 1000  # keys that are read at once
MANY = 20  # files, for which it pays to try out what the remote can do
TOGETHER = 50  # results that are settled at once, at most
GATHERING = 0.05  # seconds that a result waits for others
AHEAD_SECONDS = 1.0  # as many files are claimed ahead as were done in that time, ...
AHEAD_MAX = 200  # ... and no more than that
LOOK_EVERY = 0.5  # seconds until the gates are asked again while no file is done

Work = TypeVar("Work")


class Result(NamedTuple, Generic[Work]):
    """What a thread has done with a file."""

    row: QueuedFile
    error: str = ""
    work: Work | None = None  # which is to be continued or finished
    problem: BaseException | None = None  # that ends the pass


class AtEnd(Enum):
    """What becomes of a job that waits for a thread when the pass ends."""

    GIVE_BACK = "the claim on its file ends"
    FINISH = "a thread does it nevertheless"
    FORGET = "nothing is to be done"


class Job(NamedTuple, Generic[Work]):
    """A step that a thread makes with a file."""

    row: QueuedFile
    run: Callable[[], Result[Work]]
    at_end: AtEnd
    is_urgent: bool = False  # whether its turn is before those that are not


class BatchedPass(ABC, Generic[Work]):
    """Works on the files of a queryset.

    The threads do what takes time at a remote. The calling thread asks the ledger for all of them:
    it claims files in batches, no more than the threads will soon need, and settles several results
    at once. ``require_open`` is called now and then; the pass ends with what it raises, and with
    what ``on_result`` raises, which is called for each file with its error.
    """

    def __init__(
        self,
        storage: OperableStorage,
        rows: QueuedFileQuerySet,
        report: Report,
        *,
        threads: int,
        require_open: Callable[[], object],
        on_result: Callable[[str], object],
    ) -> None:
        self._storage = storage
        self._report = report
        self._threads = self._width = threads  # files at once
        self._require_open = require_open
        self._on_result = on_result
        self._keys = _Keys(rows)
        self._waiting: PriorityQueue[tuple[int, int, Job[Work] | None]] = PriorityQueue()
        self._numbers = count()  # keep jobs of one urgency in their order
        self._done: SimpleQueue[Result[Work]] = SimpleQueue()
        self._in_hand = 0  # files
        self._moments: deque[float] = deque(maxlen=AHEAD_MAX)  # of the last files that were done
        self._count = 0

    def run(self) -> int:
        """Work on all files; return for how many it succeeded."""
        with self._running() as gather:
            while True:
                self._require_open()
                self._claim()
                if not self._in_hand:
                    return self._count
                self._settle(gather())

    # Must be implemented

    @abstractmethod
    def _begin(self, rows: list[QueuedFile]) -> None:
        """Put the first job of each of these claimed files."""

    @abstractmethod
    def _run_alone(self, row: QueuedFile) -> Result[Work]:
        """Claim a file, which others did not let be claimed with the batch, and do all of it."""

    @abstractmethod
    def _advance(self, results: Sequence[Result[Work]]) -> list[Result[Work]]:
        """Finish what the threads have done, or put the next job; return what is over."""

    @abstractmethod
    def _finish(self, results: Sequence[Result[Work]]) -> None:
        """Finish, or give back, what the threads had done when the pass ended."""

    # May be overridden

    def _unclaimed(self, keys: list[int], rows: list[QueuedFile]) -> Iterable[QueuedFile]:
        """Return the files of these keys that a thread is to claim, besides ``rows``."""
        found: set[int] = {row.pk for row in rows}
        return ledger().filter(pk__in=set(keys) - found)

    def _give_back(self, rows: list[QueuedFile]) -> None:
        """End the claims on files whose work has not begun."""
        for row in rows:
            leases.forget(row)
        settle(rows)

    # Claims

    def _claim(self) -> None:
        since = time.monotonic() - AHEAD_SECONDS
        ahead = sum(moment > since for moment in self._moments)
        wanted = self._width + ahead
        if self._in_hand + ahead // 4 >= wanted:
            return
        while room := max(wanted - self._in_hand, 0):
            if not (keys := self._keys.take(min(room, BATCH))):
                break
            self._claim_these(keys)

    def _claim_these(self, keys: list[int]) -> None:
        rows = ledger().claim_all_settled(keys)
        self._let_wait(rows)
        try:
            if rows:
                self._begin(rows)
        except BaseException:
            self._give_back(rows)
            raise
        if len(rows) < len(keys):
            for row in self._unclaimed(keys, rows):
                self._put(Job(row, partial(self._run_alone, row), AtEnd.FORGET))

    @staticmethod
    def _let_wait(rows: Iterable[QueuedFile]) -> None:
        """Have these claims renewed until a thread begins."""
        if not in_transaction():  # in which nothing else sees the claims
            for row in rows:
                leases.wait(row)

    def _put(self, job: Job[Work]) -> None:
        self._in_hand += 1
        self._enqueue(job)

    def _enqueue(self, job: Job[Work] | None) -> None:
        turn = 2 if job is None else 0 if job.is_urgent else 1
        self._waiting.put((turn, next(self._numbers), job))

    def _find(self, row: QueuedFile) -> OperableStorage:
        return self._storage

    # Results

    def _settle(self, results: list[Result[Work]]) -> None:
        """Go on with what is done, and report what is over."""
        self._in_hand -= len(results)
        over = self._advance(results)
        for each in over:
            self._moments.append(time.monotonic())
            self._count += not (each.error or each.problem)
            self._report(Step(1, each.row.size, each.error, str(each.row)))
        for each in over:
            if each.problem:
                raise each.problem
            self._on_result(each.error)

    def _forget_routes(self, rows: Iterable[QueuedFile]) -> None:
        """Let readers ask the ledger where these files are."""
        names = [row.name for row in rows]
        Routes(self._storage.alias, self._storage.cache_prefix).forget_all(names)

    # With threads, and without

    @contextmanager
    def _running(self) -> Iterator[Callable[[], list[Result[Work]]]]:
        """Yield what returns a few results."""
        threads = [
            threading.Thread(target=self._work, name="queued-storage-move")
            for _number in range(self._threads if self._threads > 1 else 0)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self._gather if threads else self._run_some
        finally:
            waiting = list(self._drain())
            for job in waiting:
                if job.at_end is AtEnd.FINISH:
                    self._enqueue(job)
            for _thread in threads:
                self._enqueue(None)
            for thread in threads:
                thread.join()
            self._give_back([job.row for job in waiting if job.at_end is AtEnd.GIVE_BACK])
            self._finish_rest()

    def _gather(self) -> list[Result[Work]]:
        found: list[Result[Work]] = []
        with suppress(Empty):
            found.append(self._done.get(timeout=LOOK_EVERY))
            if self._in_hand > 1:
                time.sleep(GATHERING)
            while len(found) < TOGETHER:
                found.append(self._done.get_nowait())
        return found

    def _run_some(self) -> list[Result[Work]]:
        """Do the work of the threads here."""
        found: list[Result[Work]] = []
        end = time.monotonic() + GATHERING
        while not found or (len(found) < TOGETHER and time.monotonic() < end):
            try:
                _turn, _number, job = self._waiting.get_nowait()
            except Empty:
                break
            assert job
            result = _run(job)
            if result.problem:
                for each in found:
                    self._done.put(each)
                raise result.problem
            found.append(result)
        return found

    def _work(self) -> None:
        try:
            while job := self._waiting.get()[-1]:
                self._done.put(_run(job))
        finally:
            connections.close_all()

    def _drain(self) -> Iterator[Job[Work]]:
        with suppress(Empty):
            while True:
                if job := self._waiting.get_nowait()[-1]:
                    yield job

    def _finish_rest(self) -> None:
        """Finish what was begun before the pass ended."""
        for job in self._drain():  # without threads
            job.run()
        results: list[Result[Work]] = []
        with suppress(Empty):
            while True:
                results.append(self._done.get_nowait())
        self._finish(results)


def settle(rows: Sequence[QueuedFile]) -> None:
    """End the claims on these files."""
    if ledger().settle_all(rows) < len(rows):
        for row in rows:
            release(row)


def _run(job: Job[Work]) -> Result[Work]:
    try:
        return job.run()
    except BaseException as problem:
        return Result(job.row, problem=problem)


class _Keys:
    """The keys of files, in order, read a thousand at a time."""

    def __init__(self, rows: QueuedFileQuerySet) -> None:
        self._rows = rows.order_by("pk").values_list("pk", flat=True)
        self._read: deque[int] = deque()
        self._last = 0
        self._is_over = False

    def take(self, count: int) -> list[int]:
        self._read_more()
        return [self._read.popleft() for _key in range(min(count, len(self._read)))]

    @property
    def are_many(self) -> bool:
        self._read_more()
        return len(self._read) >= MANY

    def _read_more(self) -> None:
        if not (self._read or self._is_over):
            found = list(self._rows.filter(pk__gt=self._last)[:READ])
            self._read.extend(found)
            self._is_over = len(found) < READ
            self._last = found[-1] if found else self._last
