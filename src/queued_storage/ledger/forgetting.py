"""The statements that take a place out of the ledger that is lost for good.

Each changes only files that no worker has claimed, and that are still bound to the place.
"""

from collections.abc import Collection
from typing import Any

from django.db import models, transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce

from .bindings import digest_of
from .copies import Copies, CopyState, copies
from .database import QueuedFileQuerySet, ledger, ledger_database
from .orders import LOST
from .rows import is_unclaimed
from .sql.clock import DatabaseNow
from .sql.outages import outlast
from .states import KNOWN, State

Keys = Collection[int]
NOT_THERE = tuple(KNOWN - {State.TRANSFERRED})


def files_at(alias: str, place: int) -> QueuedFileQuerySet:
    """The files whose first copy is at a place, or is to be there; this reads all rows of the
    alias."""
    its = Q(place=place)
    if digest_of(alias, None) == place:
        its |= Q(place=None)
    return ledger().filter(its, alias=alias)


def copies_at(alias: str, place: int) -> Copies:
    """The further copies at a place."""
    return copies().filter(file__alias=alias, place=place)


def switch(lost: QueuedFileQuerySet, pks: Keys, place: int) -> int:
    """Let the verified copies of transferred files at another place be the first ones."""
    verified = _copy_at(place).filter(
        state=CopyState.TRANSFERRED, generation=OuterRef("generation"), lease_token=""
    )
    rows = lost.filter(Exists(verified), pk__in=pks, state=State.TRANSFERRED)
    level = Subquery(verified.values("verified")[:1])
    return _bind(rows, pks, place, verified=level, last_error="")


def upload_again(lost: QueuedFileQuerySet, pks: Keys, place: int) -> int:
    """Let transferred files be uploaded to another place from their local copies, which readers use
    until then."""
    rows = lost.filter(pk__in=pks, state=State.TRANSFERRED, is_local=True)
    return _bind(
        rows,
        pks,
        place,
        due_at=DatabaseNow(),
        state=State.PENDING,
        attempts=0,
        verified="",
        transferred_at=None,
        last_error="",
    )


def lose(lost: QueuedFileQuerySet, pks: Keys, place: int, description: str) -> int:
    """Mark transferred files as failed that had no other copy."""
    verified = copies().filter(
        file=OuterRef("pk"), state=CopyState.TRANSFERRED, generation=OuterRef("generation")
    )
    rows = lost.filter(~Exists(verified), pk__in=pks, state=State.TRANSFERRED)
    error = Value(f"{LOST} at {description}, which was given up.", models.TextField())
    return _bind(
        rows,
        pks,
        place,
        due_at=None,
        state=State.FAILED,
        is_local=True,  # as of all failed files: it isn't read from a remote
        verified="",
        transferred_at=None,
        last_error=error,
    )


def leave(lost: QueuedFileQuerySet, pks: Keys, place: int) -> int:
    """Bind files to another place that are not transferred yet, and deletes, which go on at once;
    what may lie at the lost place is forgotten."""
    count = _bind(lost.filter(pk__in=pks, state__in=NOT_THERE), pks, place)
    ledger().filter(pk__in=pks).hurry()
    return count


def _copy_at(place: int) -> Copies:
    return copies().filter(file=OuterRef("pk"), place=place)


def _bind(rows: QueuedFileQuerySet, pks: Keys, place: int, **columns: Any) -> int:
    """Let files be at another place, with the object that a further copy may have there."""
    its = _copy_at(place)
    is_removed = Exists(its.exclude(lease_token=""))
    empty = Value("", models.CharField())

    def bind() -> int:
        with transaction.atomic(using=ledger_database()):
            count = rows.filter(~is_removed, is_unclaimed()).update(
                remote_name=Coalesce(Subquery(its.values("remote_name")[:1]), empty),
                unconfirmed=Coalesce(Subquery(its.values("unconfirmed")[:1]), empty),
                place=place,
                lease_token="",  # that of a dead worker becomes void
                **columns,
            )
            bound = ledger().filter(pk__in=pks, place=place).values_list("pk", flat=True)
            copies().filter(file__in=list(bound), place=place, lease_token="").delete()
        return count

    return outlast(bind, ledger_database())


# Further copies


def guarded(alias: str, place: int) -> Copies:
    """The copies at a place that may be the only good ones of their files: those files have no
    transferred first copy."""
    usable = copies_at(alias, place).filter(
        state=CopyState.TRANSFERRED, generation=F("file__generation")
    )
    return usable.exclude(file__state__in=[State.TRANSFERRED, State.DELETING])


def drop(pks: Keys) -> int:
    """Forget copies that no worker has claimed; deletes that waited for them go on at once."""
    found = copies().filter(is_unclaimed(), pk__in=pks)
    files = list(found.values_list("file_id", flat=True))
    with transaction.atomic(using=ledger_database()):
        count, _by_model = found.delete()
        ledger().filter(pk__in=files, state=State.DELETING).hurry()
    return count
