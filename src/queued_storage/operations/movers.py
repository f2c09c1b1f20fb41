"""The threads that move files, and the one that asks the ledger for all of them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

from django.db import connections

from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..storage.routes import Routes
from ..transfers import leases, moving
from ..transfers.leases import Lease
from ..transfers.moving import Move
from ..transfers.sending import Throttle
from .errands import Errand, release
from .passes import BATCH, Report, Step
from .storages import OperableStorage

READ = 1000  # keys that are read at once
MANY = 20  # files, for which it pays to try out what the remote can do
TOGETHER = 50  # moves that are finished by one transaction, at most
GATHERING = 0.1  # seconds that a file that was sent waits for others
AHEAD_SECONDS = 1.0  # as many files are claimed ahead as were sent in that time
LOOK_EVERY = 0.5  # seconds until the gates are asked again while no file is done


class Sent(NamedTuple):
    """What was done with a file."""

    row: QueuedFile
    error: str = ""
    move: Move | None = None  # which is to be finished
    problem: BaseException | None = None  # that ends the pass


class AtEnd(Enum):
    """What becomes of a job that waits for a thread when the pass ends."""

    GIVE_BACK = "the claim on its file ends"
    FINISH = "a thread does it nevertheless"
    FORGET = "nothing is to be done"


class Job(NamedTuple):
    """A step that a thread makes with a file."""

    row: QueuedFile
    run: Callable[[], Sent]
    at_end: AtEnd


class Movers:
    """Moves the files of a queryset to the present remote of a storage.

    The threads read and send files. The calling thread asks the ledger for all of them: it claims
    files in batches, no more than the threads will soon need, and finishes several moves at once.
    ``require_open`` is called now and then; the pass ends with what it raises, and with what
    ``on_result`` raises, which is called for each file with its error.
    """

    def __init__(
        self,
        storage: OperableStorage,
        rows: QueuedFileQuerySet,
        report: Report,
        *,
        threads: int,
        is_kept: bool,
        throttle: Throttle | None,
        require_open: Callable[[], object],
        on_result: Callable[[str], object],
    ) -> None:
        self._storage = storage
        self._report = report
        self._threads = threads
        self._begin = partial(moving.begin, storage, is_kept=is_kept, throttle=throttle)
        self._require_open = require_open
        self._on_result = on_result
        self._keys = _Keys(rows)
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        self._done: SimpleQueue[Sent] = SimpleQueue()
        self._in_hand = 0  # files
        self._width = 1  # files at once: the first one finds out what the remote can do
        self._moments: deque[float] = deque(maxlen=BATCH)  # of the last files that were done
        self._count = 0

    def run(self) -> int:
        """Move all files; return how many were moved."""
        if self._keys.are_many:
            self._storage.uploader.expect_many()
        with self._running() as gather:
            while True:
                self._require_open()
                self._claim()
                if not self._in_hand:
                    return self._count
                self._settle(gather())

    # Claims

    def _claim(self) -> None:
        since = time.monotonic() - AHEAD_SECONDS
        ahead = sum(moment > since for moment in self._moments)
        wanted = self._width + ahead
        if self._in_hand + ahead // 2 >= wanted:
            return
        while self._in_hand < wanted and (keys := self._keys.take(wanted - self._in_hand)):
            self._claim_these(keys)

    def _claim_these(self, keys: list[int]) -> None:
        rows = ledger().claim_all_settled(keys)
        for row in rows:
            leases.wait(row)
        try:
            moves = self._begin(rows) if rows else []
        except BaseException:
            self._give_back(rows)
            raise
        for move in moves:
            self._put(Job(move.row, partial(self._send, move), AtEnd.GIVE_BACK))
        if len(rows) < len(keys):
            others = ledger().filter(pk__in=keys, state=State.TRANSFERRED, lease_token="")
            for row in others:  # somebody has locked it, so a thread waits for it
                self._put(Job(row, partial(self._move_alone, row), AtEnd.FORGET))

    def _put(self, job: Job) -> None:
        self._in_hand += 1
        self._waiting.put(job)

    def _give_back(self, rows: list[QueuedFile]) -> None:
        """End the claims on files of which nothing was sent."""
        for row in rows:
            leases.forget(row)
        moving.give_back(self._storage, rows)
        if ledger().settle_all(rows) < len(rows):
            for row in rows:
                release(row)

    # What the threads do

    def _send(self, move: Move) -> Sent:
        def send(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            move.send(lease)

        error = Errand(send).run_claimed(move.row)
        return Sent(move.row, error, None if error else move)

    @staticmethod
    def _finish_alone(move: Move) -> Sent:
        def finish(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            move.finish()

        return Sent(move.row, Errand(finish).run_claimed(move.row))

    def _move_alone(self, row: QueuedFile) -> Sent:
        def move(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            for each in self._begin([row]):
                each.send(lease)
                each.finish()

        return Sent(row, Errand(move).run(row.pk))

    # Results

    def _settle(self, results: list[Sent]) -> None:
        """Finish what was sent, and report what is done."""
        alone = moving.finish_all([each.move for each in results if each.move])
        for move in alone:
            self._put(Job(move.row, partial(self._finish_alone, move), AtEnd.FINISH))
        again = {move.row.pk for move in alone}
        self._in_hand -= len(results)
        over = [each for each in results if each.row.pk not in again]
        if over:
            self._width = self._threads
            names = [each.row.name for each in over]
            Routes(self._storage.alias, self._storage.cache_prefix).forget_all(names)
        for each in over:
            self._moments.append(time.monotonic())
            self._count += not (each.error or each.problem)
            self._report(Step(1, each.row.size, each.error, str(each.row)))
        for each in over:
            if each.problem:
                raise each.problem
            self._on_result(each.error)

    # With threads, and without

    @contextmanager
    def _running(self) -> Iterator[Callable[[], list[Sent]]]:
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
                    self._waiting.put(job)
            for _thread in threads:
                self._waiting.put(None)
            for thread in threads:
                thread.join()
            self._give_back([job.row for job in waiting if job.at_end is AtEnd.GIVE_BACK])
            self._finish_rest()

    def _gather(self) -> list[Sent]:
        found: list[Sent] = []
        with suppress(Empty):
            found.append(self._done.get(timeout=LOOK_EVERY))
            if self._in_hand > 1:
                time.sleep(GATHERING)
            while len(found) < TOGETHER:
                found.append(self._done.get_nowait())
        return found

    def _run_some(self) -> list[Sent]:
        """Do the work of the threads here."""
        found: list[Sent] = []
        end = time.monotonic() + GATHERING
        while not found or (len(found) < TOGETHER and time.monotonic() < end):
            try:
                job = self._waiting.get_nowait()
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
            while job := self._waiting.get():
                self._done.put(_run(job))
        finally:
            connections.close_all()

    def _drain(self) -> Iterator[Job]:
        with suppress(Empty):
            while True:
                if job := self._waiting.get_nowait():
                    yield job

    def _finish_rest(self) -> None:
        """Finish what was sent before the pass ended."""
        for job in self._drain():  # without threads
            job.run()
        results: list[Sent] = []
        with suppress(Empty):
            while True:
                results.append(self._done.get_nowait())
        for move in moving.finish_all([each.move for each in results if each.move]):
            self._finish_alone(move)


def _run(job: Job) -> Sent:
    try:
        return job.run()
    except BaseException as problem:
        return Sent(job.row, problem=problem)


class _Keys:
    """The keys of files that nobody has claimed, in order, read a thousand at a time."""

    def __init__(self, rows: QueuedFileQuerySet) -> None:
        self._rows = rows.filter(lease_token="").order_by("pk").values_list("pk", flat=True)
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
