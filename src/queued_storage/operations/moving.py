"""Moves the files of a storage from its previous remotes to its present one."""

from functools import partial

from django.db import connections
from django.db.models import Q

from ..ledger import bindings
from ..ledger.copies import Copies, CopyState, copies
from ..ledger.database import (
    QueuedFileQuerySet,
    in_transaction,
    is_in_memory,
    ledger,
    ledger_database,
)
from ..ledger.states import State
from ..transfers.gates import gates
from ..transfers.sending import Throttle
from .droppers import Droppers
from .errands import CHANGED
from .movers import Movers
from .passes import Report, ignore
from .storages import OperableStorage

FAILURES = 10  # in a row, after which a pass ends


class Unfinished(Exception):
    """The pass ended early, because it would fail for all other files."""


def left(storage: OperableStorage) -> QueuedFileQuerySet:
    """The transferred files whose first copy is at a previous remote, or at a mirror since that one
    was forgotten; this reads all rows of the storage."""
    mirrors = [each.remote_place.digest for each in storage.with_each_mirror]
    its = _is_at(storage, [*_previous_digests(storage), *mirrors])
    return ledger().filter(its, alias=storage.alias, state=State.TRANSFERRED)


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


def _is_at(storage: OperableStorage, digests: list[int]) -> Q:
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

    The copy at the present remote is verified before. Several processes may do that at once. Files
    that are changed or deleted meanwhile, or that a worker has in hand, keep theirs. ``Unfinished``
    is raised as by ``move()``.
    """
    droppers = Droppers(
        storage,
        old_copies(storage),
        report,
        threads=_possible(threads),
        require_open=partial(_require_open, storage),
        on_result=_Failures(),
    )
    return droppers.run()


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
            raise Unfinished(f"{FAILURES} files in a row failed: {error.rstrip('.')}.")


def _possible(threads: int) -> int:
    """How many threads can use the ledger at once."""
    is_alone = in_transaction() or is_in_memory(connections[ledger_database()])
    return 1 if is_alone else threads


def _require_open(storage: OperableStorage) -> None:
    # A file that has a copy on the present remote, which was its mirror, needs no other one.
    others = () if storage.with_each_mirror else gates.closed_places()
    if gates.is_closed(storage.alias) or storage.alias in {each for each, _place in others}:
        raise Unfinished(f"A remote of {storage.alias!r} is closed.")
