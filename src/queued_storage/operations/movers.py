"""Moves many files to the present remote of a storage."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..exceptions import LeaseLost
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..transfers import moving
from ..transfers.leases import Lease
from ..transfers.moving import Move
from ..transfers.sending import Throttle
from .batching import AtEnd, BatchedPass, Job, Result
from .errands import Errand
from .passes import Report
from .storages import OperableStorage

ALONE_SECONDS = 10.0  # in which no other file is begun until the first one is moved

Moved = Result[Move]


class Movers(BatchedPass[Move]):
    """Moves the files of a queryset: the threads read and send them."""

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
        super().__init__(
            storage,
            rows.filter(lease_token=""),
            report,
            threads=threads,
            require_open=require_open,
            on_result=on_result,
        )
        self._begin_moves = partial(moving.begin, storage, is_kept=is_kept, throttle=throttle)
        self._width = 1  # the first file finds out what the remote can do
        self._alone_until = 0.0

    def run(self) -> int:
        """Move all files; return how many were moved."""
        if self._keys.are_many:
            self._storage.uploader.expect_many()
        self._alone_until = time.monotonic() + ALONE_SECONDS
        return super().run()

    # Claims

    def _claim(self) -> None:
        if time.monotonic() > self._alone_until:
            self._width = self._threads
        super()._claim()

    def _begin(self, rows: list[QueuedFile]) -> None:
        moves = self._begin_moves(rows)
        begun = {move.row.pk for move in moves}
        super()._give_back([row for row in rows if row.pk not in begun])  # others have moved them
        for move in moves:
            self._put(Job(move.row, partial(self._send, move), AtEnd.GIVE_BACK))

    def _unclaimed(self, keys: list[int], rows: list[QueuedFile]) -> Iterable[QueuedFile]:
        """Return those that somebody has locked, so that a thread waits for them."""
        return ledger().filter(pk__in=keys, state=State.TRANSFERRED, lease_token="")

    def _give_back(self, rows: list[QueuedFile]) -> None:
        """End the claims on files of which nothing was sent."""
        moving.give_back(self._storage, rows)
        super()._give_back(rows)

    # What the threads do

    def _send(self, move: Move) -> Moved:
        def send(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            move.send(lease)

        error = Errand(send, find=self._find).run_claimed(move.row)
        return Result(move.row, error, None if error else move)

    def _finish_alone(self, move: Move) -> Moved:
        def finish(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            move.finish()

        return Result(move.row, Errand(finish, find=self._find).run_claimed(move.row))

    def _run_alone(self, row: QueuedFile) -> Moved:
        def move(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            moves = self._begin_moves([row])
            if not moves:
                raise LeaseLost(f"Another process has moved {row}.")
            moves[0].send(lease)
            moves[0].finish()

        return Result(row, Errand(move, find=self._find).run(row.pk))

    # Results

    def _advance(self, results: Sequence[Moved]) -> list[Moved]:
        """Finish what was sent, as far as that can be done together; return what is over."""
        alone = moving.finish_all([each.work for each in results if each.work])
        for move in alone:
            self._put(Job(move.row, partial(self._finish_alone, move), AtEnd.FINISH))
        again = {move.row.pk for move in alone}
        over = [each for each in results if each.row.pk not in again]
        if over:
            self._width = self._threads
            self._forget_routes(each.row for each in over)
        return over

    def _finish(self, results: Sequence[Moved]) -> None:
        for move in moving.finish_all([each.work for each in results if each.work]):
            self._finish_alone(move)
