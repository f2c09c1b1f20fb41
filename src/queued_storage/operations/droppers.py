"""Removes the old copies of many files that were moved."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..conf import settings
from ..exceptions import LeaseLost
from ..ledger.copies import Copies, Copy, copies
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..transfers import leases, surplus
from ..transfers.copies import verify_remote
from ..transfers.leases import Lease
from ..transfers.surplus import Batch
from ..transfers.writers import PlaceMarker
from .batching import AtEnd, BatchedPass, Job, Result, settle
from .errands import CHANGED, Errand, release
from .passes import Report
from .storages import OperableStorage


@dataclass(eq=False)
class Drop:
    """The removal of the old copies of one claimed file."""

    row: QueuedFile
    old: list[Copy]
    batch: Batch | None = None  # under whose claims they are removed, after the verification
    gone: list[Copy] = field(default_factory=list)  # copies without an object
    errors: list[str] = field(default_factory=list)


Dropped = Result[Drop]


class Droppers(BatchedPass[Drop]):
    """Removes copies: the threads verify the files at the present remote, and remove objects.

    Between the two, copies of several files are claimed together, if the claims on the files are
    still valid.
    """

    def __init__(
        self,
        storage: OperableStorage,
        old: Copies,
        report: Report,
        *,
        threads: int,
        require_open: Callable[[], object],
        on_result: Callable[[str], object],
    ) -> None:
        super().__init__(
            storage,
            ledger().filter(pk__in=old.values("file")),
            report,
            threads=threads,
            require_open=require_open,
            on_result=on_result,
        )
        self._old = old
        self._begun: dict[int, Drop] = {}  # whose copies are claimed

    # Claims

    def _begin(self, rows: list[QueuedFile]) -> None:
        old = self._old_of(rows)
        if gone := [row for row in rows if not old[row.pk]]:  # another process was faster
            self._give_back(gone)
        for row in (row for row in rows if old[row.pk]):
            run = partial(self._verify, Drop(row, old[row.pk]))
            if any(copy.unconfirmed or copy.lease_token for copy in old[row.pk]):
                run = partial(self._drop_claimed, row)
            self._put(Job(row, run, AtEnd.GIVE_BACK))

    def _old_of(self, rows: Sequence[QueuedFile]) -> dict[int, list[Copy]]:
        found: dict[int, list[Copy]] = defaultdict(list)
        for copy in self._old.filter(file__in=[row.pk for row in rows]):
            found[copy.file_id].append(copy)
        return found

    def _claim_copies(self, drops: Sequence[Drop]) -> list[Dropped]:
        """Have the objects of these copies removed; return the files of which that is not done."""
        rows = [drop.row for drop in drops]
        self._forget_routes(rows)
        keys = [copy.pk for drop in drops for copy in drop.old]
        batch = Batch(partial(copies().claim_old, rows, keys))
        claimed = defaultdict(list)
        for copy in batch.copies:
            claimed[copy.file_id].append(copy)
        over = []
        waiting = []
        for row, old in ((drop.row, drop.old) for drop in drops):
            mine = claimed[row.pk]
            if len(mine) < len(old):
                copies().release_all(mine)
                release(row)
                over.append(Result[Drop](row, CHANGED))
            else:
                self._begun[row.pk] = drop = Drop(row, mine, batch)
                waiting.append(drop)
        self._let_wait(drop.row for drop in waiting)
        return over + self._remove_together(waiting, batch)

    def _remove_together(self, drops: Sequence[Drop], batch: Batch) -> list[Dropped]:
        """Remove objects by one request, if the remote can do that; threads remove the others."""
        answers, done = batch.remove_together(), []
        for drop in drops:
            for copy in [copy for copy in drop.old if copy.pk in answers]:
                drop.old.remove(copy)
                if error := answers[copy.pk]:
                    drop.errors.append(error)
                else:
                    drop.gone.append(copy)
            if drop.old:
                run = partial(self._remove, drop, batch)
                self._put(Job(drop.row, run, AtEnd.GIVE_BACK, is_urgent=True))
            else:
                leases.forget(drop.row)
                done.append(Result(drop.row, "".join(drop.errors[:1]), drop))
        return self._finished(done)

    def _give_back(self, rows: list[QueuedFile]) -> None:
        """End the claims on files that wait for a thread, and on their copies, if those were
        claimed already; workers remove them."""
        begun = [drop for row in rows if (drop := self._begun.pop(row.pk, None))]
        copies().release_all([copy for drop in begun for copy in drop.old])
        copies().drop_all([copy for drop in begun for copy in drop.gone])
        super()._give_back(rows)

    # What the threads do

    def _verify(self, drop: Drop) -> Dropped:
        error = Errand(partial(self._check, drop), find=self._find).run_claimed(drop.row)
        return Result(drop.row, error, None if error else drop)

    def _check(self, drop: Drop, its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
        """Raise an error unless the file is at the present remote, and its old copies are ours."""
        verify_remote(its, row, settings.verify, lease.progress)
        for copy in drop.old:
            PlaceMarker(its.with_remote_of(copy)).require_own()

    def _remove(self, drop: Drop, batch: Batch) -> Dropped:
        def remove(its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
            untried = deque(drop.old)
            try:
                while untried:
                    lease.require()
                    copy = untried.popleft()
                    if error := batch.remove(copy):
                        drop.errors.append(error)
                    else:
                        drop.gone.append(copy)
            finally:
                copies().release_all(untried)

        error = Errand(remove, find=self._find).run_claimed(drop.row)
        return Result(drop.row, error or "".join(drop.errors[:1]), drop)

    def _drop_claimed(self, row: QueuedFile) -> Dropped:
        return Result(row, Errand(self._drop, find=self._find).run_claimed(row))

    def _run_alone(self, row: QueuedFile) -> Dropped:
        return Result(row, Errand(self._drop, find=self._find).run(row.pk))

    def _drop(self, its: OperableStorage, row: QueuedFile, lease: Lease) -> None:
        """Do all of it, without other files: an object may need a proof that it is the file's."""
        verify_remote(its, row, settings.verify, lease.progress)
        lease.confirm()
        found = self._old_of([row])[row.pk]
        self._forget_routes([row])
        for copy in found:
            copies().filter(pk=copy.pk).discard()
            claimed = copies().claim(copy)
            if claimed is None or not surplus.dispose(claimed):
                raise LeaseLost(f"An old copy of {row} is removed later.")
        lease.ledger.settle(row)

    # Results

    def _advance(self, results: Sequence[Dropped]) -> list[Dropped]:
        over = [each for each in results if not each.work]
        over += self._finished([each for each in results if each.work and each.work.batch])
        if verified := [each.work for each in results if each.work and not each.work.batch]:
            over += self._claim_copies(verified)
        return over

    def _finished(self, results: Sequence[Dropped]) -> list[Dropped]:
        """Forget the copies whose objects are gone, and end the claims on their files."""
        if not results:
            return []
        drops = [each.work for each in results if each.work]
        void = copies().drop_all([copy for drop in drops for copy in drop.gone])
        settle([drop.row for drop in drops])
        over = []
        for each, drop in zip(results, drops, strict=True):
            self._begun.pop(drop.row.pk, None)
            is_void = any(copy.pk in void for copy in drop.gone)
            over.append(Result[Drop](each.row, each.error or (CHANGED if is_void else "")))
        return over

    def _finish(self, results: Sequence[Dropped]) -> None:
        self._finished([each for each in results if each.work and each.work.batch])
        self._give_back([each.row for each in results if each.work and not each.work.batch])
