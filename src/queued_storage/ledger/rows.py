"""Filters for the rows of the ledger, which all verbs share."""

import contextlib
import uuid
from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any, Self

from django.db import connections, models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce, Least

from ..conf import settings
from .models import QueuedFile
from .priorities import PRIORITIES
from .sql.clock import DatabaseNow, UTCDateTimeField, seconds_from_now
from .sql.outages import outlast
from .states import CLAIM_COLUMNS, CLAIMABLE, KNOWN, Claim, State

EVER = 1_000_000_000  # seconds, longer than any file has been due
OVERDUE_ANYWAY = 24  # times MAX_WAIT, of which the remote may have been closed for a part
LEASE_GRACE = 5  # seconds after the end of a lease in which its worker may still be writing


def new_token() -> str:
    return uuid.uuid4().hex


def is_unclaimed() -> Q:
    return Q(lease_token="") | Q(due_at__lte=DatabaseNow())


def is_overdue(*, was_opened_lately: bool) -> Q:
    """Whether a due row has its turn before those of a higher priority.

    The time for which its remote was closed does not count. But if a remote opens and closes again
    and again, no file would ever have waited long enough since it opened.
    """
    wait = settings.max_wait * (OVERDUE_ANYWAY if was_opened_lately else 1)
    return Q(due_at__lte=seconds_from_now(-min(wait, EVER)))


def when_unclaimed() -> Case:
    """Now, or for a row with a running lease, when its worker has certainly stopped writing."""
    return Case(
        When(is_unclaimed(), then=DatabaseNow()),
        default=seconds_from_now(settings.lease + LEASE_GRACE),
    )


def when_saved() -> Least:
    """When the file was saved. The time of one that predates the ledger may be in the future."""
    return Least(F("saved_at"), DatabaseNow(), output_field=UTCDateTimeField())


def unlocked_in(found: Any) -> Any:
    """Those of a queryset that no other process has locked, if the database can skip the others."""
    if connections[found.db].features.has_select_for_update_skip_locked:
        return found.select_for_update(skip_locked=True)
    return found


class Rows(models.QuerySet[QueuedFile]):
    """The filters that the verbs of the ledger start from.

    Each verb is one conditional UPDATE (or INSERT, or DELETE) whose return value tells whether it
    took place. In an UPDATE, an expression must precede the columns that it reads, because MySQL
    evaluates assignments from left to right and reads the new values.
    """

    # Filters

    def named(self, alias: str, name: str) -> Self:
        return self.filter(alias=alias, name=name)

    def untransferred(self) -> Self:
        """Files that have no copy on the remote and that no worker is transferring."""
        return self.filter(state__in=[State.HELD, State.PENDING, State.FAILED])

    def due(self) -> Self:
        """Rows to process now, including those whose lease has expired."""
        return self.filter(due_at__lte=DatabaseNow())

    def scheduled(self) -> Self:
        """Rows to process now or later. With "is not NULL", SQLite would read all rows."""
        return self.filter(due_at__gt=seconds_from_now(-EVER))

    def claimable(self) -> Self:
        """Rows in a state whose work this version knows, for a queryset of due rows.

        The others belong to processes of a newer version. The expression keeps databases from
        using the index of states instead of that of due rows.
        """
        return self.alias(its_state=Coalesce("state", Value(""))).filter(its_state__in=CLAIMABLE)

    def unsettled(self) -> Self:
        """Files that aren't transferred, including those in unknown states."""
        return self.filter(Q(state__lt=State.TRANSFERRED) | Q(state__gt=State.TRANSFERRED))

    def in_unknown_state(self) -> Self:
        """Files in a state that a newer version wrote.

        The condition consists of ranges of an index, so files in other states aren't read.
        """
        known = sorted(KNOWN)
        outside = Q(state__lt=known[0]) | Q(state__gt=known[-1])
        between = (Q(state__gt=low, state__lt=high) for low, high in pairwise(known))
        return self.filter(reduce(or_, between, outside))

    def in_state(self, state: State) -> Self:
        """Files in one state, for a search without an order.

        Once all files were transferred when SQLite analyzed the table, it expects as many in every
        state, and would read the table instead of the index. It knows nothing of ranges.
        """
        return self.filter(state__range=(state, state))

    def ranges(self, aliases: Collection[str]) -> list[Self]:
        """Rows of these aliases, by priority, for a queryset with a condition on ``due_at``.

        That makes one range of an index for each alias. Without an alias and a priority, a database
        would read all rows; with several priorities, SQLite would use the index of states.
        """
        return [self.filter(alias__in=aliases, priority=priority) for priority in PRIORITIES]

    def workable_here(self) -> Self:
        """Rows that don't need a local copy on another host."""
        if not settings.local_per_host:
            return self
        return self.filter(Q(host=settings.host) | Q(is_local=False))

    def under_claim(self, claim: Claim) -> Self:
        """The row of a claim, if the claim is valid: no other worker has claimed the row since,
        and it was neither deleted nor overwritten nor cancelled."""
        return self.filter(**dict(zip(CLAIM_COLUMNS, claim, strict=True)))

    # Filters for operators

    def retriable(self) -> Self:
        """Failed files, and those whose transfer, delete or eviction waits for its next attempt."""
        is_waiting = Q(state__in=[State.DELETING, State.TRANSFERRED], lease_token="")
        is_waiting &= Q(due_at__isnull=False)
        return self.filter(is_waiting | Q(state__in=[State.PENDING, State.FAILED]))

    def cancellable(self) -> Self:
        """Files with a pending or running transfer, or a pending eviction."""
        is_evicted = Q(state=State.TRANSFERRED, due_at__isnull=False)
        return self.filter(is_evicted | Q(state__in=[State.PENDING, State.TRANSFERRING]))

    def prioritizable(self) -> Self:
        """Files that are not transferred yet."""
        states = [State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED]
        return self.filter(state__in=states)

    def evictable(self) -> Self:
        """Transferred files with a local copy on this host that no worker is evicting."""
        unclaimed = self.filter(state=State.TRANSFERRED, lease_token="", is_local=True)
        return unclaimed.workable_here()

    def with_local_copy(self) -> Self:
        """Files with a local copy on any host, from the index of local copies.

        For "= True", Django would write the column alone, which is no condition of an index.
        """
        return self.filter(is_local__in=[True])

    def with_local_copy_here(self) -> Self:
        """Living files with a local copy that this host can read."""
        return self.exclude(state=State.DELETING).filter(is_local=True).workable_here()

    def restorable(self) -> Self:
        """Transferred files without pending work that have no local copy."""
        return self.filter(state=State.TRANSFERRED, due_at=None, is_local=False)

    def prunable(self) -> Self:
        """Files that no worker is processing, and whose local copy, if any, is on this host."""
        waits = Q(state__in=[State.HELD, State.PENDING, State.FAILED], lease_token="")
        settled = Q(state=State.TRANSFERRED, due_at=None)
        return self.filter(waits | settled).workable_here()

    def with_local_copy_on(self, host: str) -> Self:
        """The rows that are affected if the disk of ``host`` is lost.

        Rows that a worker is processing are left out, because the host of that worker is running.
        """
        return self.filter(is_unclaimed(), host=host, is_local=True, state__in=KNOWN)

    def with_other_remote_name(self) -> Self:
        """Files with a different name on their remote."""
        return self.exclude(remote_name=F("name")).exclude(remote_name="")

    def with_object(self, names: Collection[str]) -> list[QueuedFile]:
        """Files that have an object of one of these names on their remote, or may have it.

        A file may have it while it is uploaded, or if an upload ended without an answer. No index
        helps with names that differ from the file's own.
        """
        may_have = Q(name__in=names, remote_name="") & ~Q(unconfirmed="")
        found = self.filter(Q(remote_name__in=names) | may_have)
        return [row for row in found if row.object_name in names]  # MySQL ignores case

    # Reading

    def in_batches(self, size: int) -> Iterator[Sequence[QueuedFile]]:
        """Yield all of these rows once, oldest first, in batches of at most ``size`` rows."""
        rows = list(self.order_by("pk")[:size])
        while rows:
            yield rows
            is_full = len(rows) == size
            rows = list(self.filter(pk__gt=rows[-1].pk).order_by("pk")[:size]) if is_full else []

    def unlocked_keys(self) -> Any:
        """The keys of these rows, except those that another worker is claiming."""
        return self.unlocked("pk", flat=True)

    def unlocked(self, *columns: str, flat: bool = False) -> Any:
        """Columns of these rows, except of those that another worker is claiming."""
        return unlocked_in(self.values_list(*columns, flat=flat))

    # Writing

    def locking(self) -> contextlib.AbstractContextManager[object]:
        """A transaction to hold the locks of ``unlocked()``, if the database can skip locked rows.

        On other databases the UPDATE that follows decides which worker was first.
        """
        can_skip = connections[self.db].features.has_select_for_update_skip_locked
        return transaction.atomic(using=self.db) if can_skip else contextlib.nullcontext()

    def update(self, **columns: Any) -> int:
        """Do the same as Django's method, despite a short outage of the database."""
        return outlast(lambda: super(Rows, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # templates must not call it
