"""Moves the files of a storage from its previous remotes to its present one."""

import threading
from collections.abc import Iterator
from functools import partial
from queue import Queue

from django.db import connections
from django.db.models import Q

from ..conf import settings
from ..exceptions import LeaseLost
from ..ledger import bindings
from ..ledger.copies import Copies, CopyState, copies
from ..ledger.database import (
    QueuedFileQuerySet,
    in_transaction,
    is_in_memory,
    ledger,
    ledger_database,
)
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..storage.routes import Routes
from ..transfers import disposal
from ..transfers.copies import verify_remote
from ..transfers.gates import gates
from ..transfers.leases import Lease
from ..transfers.sending import Throttle
from .errands import CHANGED, Errand
from .movers import Movers
from .passes import Report, Step, each, ignore
from .storages import OperableStorage

FAILURES = 10  # in a row, after which a pass ends


class Unfinished(Exception):
    """The pass ended early, because it would fail for all other files."""


def left(storage: OperableStorage) -> QueuedFileQuerySet:
    """The transferred files that are at a previous remote; this reads all rows of the storage."""
    return ledger().filter(_is_at_previous(storage), alias=storage.alias, state=State.TRANSFERRED)


def old_copies(storage: OperableStorage) -> Copies:
    """The copies at previous remotes of files that were moved, except those that are kept.

    They include what is left of moves that were interrupted before the names were swapped back.
    """
    present = storage.remote_place.digest
    its = copies().filter(file__alias=storage.alias, file__place=present)
    return its.filter(
        file__state=State.TRANSFERRED,
        place__in=_previous_digests(storage),
        state__in=[CopyState.TRANSFERRED, CopyState.PENDING],
        is_kept=False,
    )


def _is_at_previous(storage: OperableStorage) -> Q:
    digests = _previous_digests(storage)
    its_place = Q(place__in=digests)
    is_first = bindings.digest_of(storage.alias, None) in digests
    return its_place | Q(place=None) if is_first else its_place


def _previous_digests(storage: OperableStorage) -> list[int]:
    _present, *previous = (each.remote_place.digest for each in storage.with_each_remote)
    return [digest for digest in previous if digest != bindings.UNKNOWN]


def move(
    storage: OperableStorage,
    report: Report = ignore,
    *,
    is_kept: bool = False,
    limit: Throttle | None = None,
    threads: int = 1,
) -> int:
    """Move all files that are at a previous remote; return how many.

    Several processes may do that at once. Files that are changed or deleted meanwhile, or that a
    worker has in hand, are left out. ``Unfinished`` is raised if the remote is closed, or after
    ``FAILURES`` failures in a row.
    """

    movers = Movers(
        storage,
        left(storage),
        report,
        threads=_possible(threads),
        is_kept=is_kept,
        throttle=limit,
        require_open=partial(_require_open, storage),
        on_result=_Failures(),
    )
    return movers.run()


def drop_old(storage: OperableStorage, report: Report = ignore, *, threads: int = 1) -> int:
    """Remove the old copies of files that were moved; return how many are gone.

    The copy at the present remote is verified before.
    """
    rows = ledger().filter(pk__in=old_copies(storage).values("file"))
    action = partial(_drop_old, storage)
    return _Pass(storage, Errand(action), report, threads).run(each(rows))


def _drop_old(
    storage: OperableStorage, its: OperableStorage, row: QueuedFile, lease: Lease
) -> None:
    verify_remote(storage, row, settings.verify, lease.progress)
    lease.confirm()
    found = list(old_copies(storage).filter(file=row.pk))
    Routes(row.alias, storage.cache_prefix).forget(row.name)
    for copy in found:
        copies().filter(pk=copy.pk).discard()
        claimed = copies().claim(copy)
        if claimed is None or not disposal.dispose(claimed):
            raise LeaseLost(f"An old copy of {row} is removed later.")
    lease.ledger.settle(row)


class _Pass:
    """An errand for each of many files, in several threads."""

    def __init__(
        self, storage: OperableStorage, errand: Errand, report: Report, threads: int
    ) -> None:
        self._storage = storage
        self._errand = errand
        self._report = report
        self._threads = _possible(threads)
        self._lock = threading.Lock()
        self._done = 0
        self._failures = _Failures()
        self._problem: BaseException | None = None

    def run(self, rows: Iterator[QueuedFile]) -> int:
        if self._threads > 1:
            self._run_in_threads(rows)
        else:
            for row in rows:
                self._run_one(row)
                if self._problem:
                    break
        if self._problem:
            raise self._problem
        return self._done

    def _run_in_threads(self, rows: Iterator[QueuedFile]) -> None:
        waiting: Queue[QueuedFile | None] = Queue(maxsize=self._threads)
        threads = [
            threading.Thread(target=self._work, args=[waiting], name="queued-storage-move")
            for _number in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        try:
            for row in rows:
                waiting.put(row)
                if self._problem:
                    break
        finally:
            for _thread in threads:
                waiting.put(None)
            for thread in threads:
                thread.join()

    def _work(self, waiting: "Queue[QueuedFile | None]") -> None:
        try:
            while (row := waiting.get()) is not None:
                if not self._problem:
                    self._run_one(row)
        finally:
            connections.close_all()

    def _run_one(self, row: QueuedFile) -> None:
        try:
            _require_open(self._storage)
            error = self._errand.run(row.pk)
            with self._lock:
                self._report(Step(1, row.size, error, str(row)))
                self._done += not error
                self._failures(error)
        except BaseException as problem:
            self._problem = problem


class _Failures:
    """Ends a pass after ``FAILURES`` failures in a row.

    That a file was changed meanwhile says nothing of the others.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def __call__(self, error: str) -> None:
        if error != CHANGED:
            self._in_a_row = self._in_a_row + 1 if error else 0
        if self._in_a_row >= FAILURES:
            raise Unfinished(f"{FAILURES} files in a row failed: {error}")


def _possible(threads: int) -> int:
    """How many threads can use the ledger at once."""
    is_alone = in_transaction() or is_in_memory(connections[ledger_database()])
    return 1 if is_alone else threads


def _require_open(storage: OperableStorage) -> None:
    # A file that has a copy on the present remote, which was its mirror, needs no other one.
    others = () if storage.with_each_mirror else gates.closed_places()
    if gates.is_closed(storage.alias) or storage.alias in {each for each, _place in others}:
        raise Unfinished(f"A remote of {storage.alias!r} is closed.")
