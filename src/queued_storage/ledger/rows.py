"""Chooses rows of the ledger."""

import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce

from ..conf import settings
from .models import QueuedFile
from .sql.clock import DatabaseNow, seconds_from_now
from .sql.outages import outlast
from .states import CLAIM_COLUMNS, Claim, State

LEASE_GRACE = 5  # seconds past the end of a lease before its holder is taken for dead


def new_token() -> str:
    return uuid.uuid4().hex


def when_nobody_holds_it() -> Case:
    """Now, or where a worker may still be writing: when its lease has ended for certain."""
    nobody = Q(lease_token="") | Q(due_at__lte=DatabaseNow())
    return Case(
        When(nobody, then=DatabaseNow()),
        default=seconds_from_now(settings.lease + LEASE_GRACE),
    )


class Rows(models.QuerySet[QueuedFile]):
    """What the verbs of the ledger are about.

    Each verb is one conditional UPDATE (or INSERT, or DELETE) that says in its answer whether it
    took place. In an UPDATE an expression stands before the columns that it reads: MySQL evaluates
    assignments from left to right, with the new values.
    """

    # Which

    def named(self, alias: str, name: str) -> Self:
        return self.filter(alias=alias, name=name)

    def untransferred(self) -> Self:
        """Files that are on their local side only, and that nobody moves."""
        return self.filter(state__in=[State.HELD, State.PENDING, State.FAILED])

    def due(self) -> Self:
        """Rows to look at now: due ones, and those whose lease has ended."""
        return self.filter(due_at__lte=DatabaseNow())

    def of_aliases(self, aliases: Collection[str]) -> Self:
        """Rows of these aliases, among few that are due. Without statistics SQLite would rather
        read all rows of the alias."""
        return self.alias(whose=Coalesce("alias", Value(""))).filter(whose__in=aliases)

    def workable_here(self) -> Self:
        """Rows for which no copy is needed that only another host can see."""
        if not settings.local_per_host:
            return self
        return self.filter(Q(host=settings.host) | Q(is_local=False))

    def under_claim(self, claim: Claim) -> Self:
        """The row of a claim, if the claim is valid: no other worker has claimed the row since,
        and it was neither deleted nor overwritten nor cancelled."""
        return self.filter(**dict(zip(CLAIM_COLUMNS, claim, strict=True)))

    # What an operator asks about

    def retriable(self) -> Self:
        """Files that failed or wait for their next try; of deletes and evictions, too."""
        waits = Q(state__in=[State.DELETING, State.TRANSFERRED], lease_token="")
        waits &= Q(due_at__isnull=False)
        return self.filter(waits | Q(state__in=[State.PENDING, State.FAILED]))

    def cancellable(self) -> Self:
        """Files that are to be transferred or just being so, or whose eviction is to come."""
        is_evicted = Q(state=State.TRANSFERRED, due_at__isnull=False)
        return self.filter(is_evicted | Q(state__in=[State.PENDING, State.TRANSFERRING]))

    def evictable(self) -> Self:
        """Transferred files whose local copy is here, and with which nobody has anything to do."""
        return self.filter(state=State.TRANSFERRED, due_at=None, is_local=True).workable_here()

    def restorable(self) -> Self:
        """Transferred files without a local copy, the same."""
        return self.filter(state=State.TRANSFERRED, due_at=None, is_local=False)

    def prunable(self) -> Self:
        """Files that may have no copy any more: those that nobody works on, and whose local copy,
        if there is one, would be here."""
        waits = Q(state__in=[State.HELD, State.PENDING, State.FAILED], lease_token="")
        settled = Q(state=State.TRANSFERRED, due_at=None)
        return self.filter(waits | settled).workable_here()

    def with_local_copy_on(self, host: str) -> Self:
        """The rows that miss something if the disk of ``host`` is gone; not those that a worker
        has at this moment, since then it is not gone."""
        nobody = Q(lease_token="") | Q(due_at__lte=DatabaseNow())
        return self.filter(nobody, host=host, is_local=True)

    def with_other_remote_name(self) -> Self:
        """Files that have another name on their remote."""
        return self.exclude(remote_name=F("name")).exclude(remote_name="")

    def with_remote_name(self, remote_name: str) -> Self:
        """The files that have this name on their remote, and those that may have it: they are just
        being sent there, or were when their worker died."""
        may_have = Q(name=remote_name) & ~Q(unconfirmed="")
        found = self.filter(Q(remote_name=remote_name) | may_have)
        pks = [
            pk
            for pk, *names, unconfirmed in found.values_list(
                "pk", "remote_name", "name", "unconfirmed"
            )
            if remote_name in (names if unconfirmed else names[:1])  # MySQL compares without case
        ]
        return self.filter(pk__in=pks)

    # How

    def in_batches(self, size: int) -> Iterator[Sequence[QueuedFile]]:
        """All of these rows, each once, the oldest first, and no more than ``size`` at a time."""
        rows = list(self.order_by("pk")[:size])
        while rows:
            yield rows
            is_full = len(rows) == size
            rows = list(self.filter(pk__gt=rows[-1].pk).order_by("pk")[:size]) if is_full else []

    def update(self, **columns: Any) -> int:
        """The same, past an outage."""
        return outlast(lambda: super(Rows, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # no template may call it
