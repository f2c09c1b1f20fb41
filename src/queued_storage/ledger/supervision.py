"""The statements by which a process supervises its claims, and the files whose worker died."""

from collections.abc import Collection, Sequence
from typing import Any, Self

from django.db import connections, models, transaction
from django.db.models import Case, F, Q, Value, When

from .claims import Claims
from .models import QueuedFile
from .rows import LEASE_GRACE, new_token
from .sql.clock import DatabaseNow, seconds_from_now
from .sql.outages import outlast
from .sql.statements import Text
from .states import Claim, State
from .texts import take_text

_NUMBER = models.PositiveIntegerField()
ALONE = "s"  # begins the lease of a file that is processed alone; others are hexadecimal


def is_alone(row: QueuedFile) -> bool:
    """Whether the worker that claimed the row processes nothing else."""
    return row.lease_token.startswith(ALONE)


class Supervision(Claims):
    """The verbs of a process for what it has claimed, and for suspects.

    A suspect is a file whose transfer ended without a word: the worker died, and perhaps because
    of this file. It is claimed alone. An attempt that died counts only if it was made alone, so
    that files fail only for what they caused themselves.
    """

    # Files that may have caused the death of their worker

    def suspects(self) -> Self:
        """Files whose transfer has a lease that expired."""
        # Few rows are being transferred. As an expression, the condition keeps databases from
        # reading all due rows instead.
        expired = Case(When(due_at__lte=DatabaseNow(), then=Value(True)), default=Value(False))
        return self.in_state(State.TRANSFERRING).alias(is_suspect=expired).filter(is_suspect=True)

    def deadly(self) -> Self:
        """Those of these suspects, or of files in progress, whose worker died while alone."""
        return self.filter(lease_token__startswith=ALONE, attempts__gt=1)

    def claim_suspect(self, suspects: "Supervision") -> QueuedFile | None:
        """Claim one of these suspects for a worker that processes nothing else; None if others
        were faster. Those come first that died least often."""
        rows = suspects.workable_here().order_by("attempts", "due_at")
        with self.locking():
            pks = list(rows.unlocked_keys()[:1])
            token = ALONE + new_token()[1:]
            return next(iter(self._take(pks, [], build=_take_suspect_text, token=token)), None)

    # New claims

    def claim_new(self, pk: int) -> QueuedFile | None:
        """Claim a due row unless it is a suspect, or somebody has locked it."""
        connection = connections[self.db]
        can_skip = connection.features.has_select_for_update_skip_locked
        if can_skip and connection.vendor != "postgresql":
            return next(iter(self.claim_all([pk])), None)
        return next(iter(self._take([pk], [], build=_take_new_text)), None)

    # Claims of this process

    def renew_unlocked(self, claims: Sequence[tuple[QueuedFile, int]]) -> list[bool | None]:
        """Renew leases, each with the number of bytes sent, past the rows that somebody has locked.

        Return for each whether the claim is valid; None if the row is locked, so that nobody else
        can claim it.
        """
        if not claims:
            return []
        return outlast(lambda: self._renew_unlocked(claims), self.db)

    def _renew_unlocked(self, claims: Sequence[tuple[QueuedFile, int]]) -> list[bool | None]:
        with transaction.atomic(using=self.db):
            unlocked = self._unlocked_of([row for row, _sent in claims])
            return [
                bool(self.renew(row, sent)) if row.pk in unlocked else self._if_locked(row)
                for row, sent in claims
            ]

    def _if_locked(self, row: QueuedFile) -> bool | None:
        return None if self.under_claim(Claim.of(row)).exists() else False

    def _unlocked_of(self, rows: Collection[QueuedFile]) -> set[int]:
        pks = [row.pk for row in rows]
        if not connections[self.db].features.has_select_for_update_skip_locked:
            return set(pks)  # SQLite has one lock, which the transaction waits for
        return set(self.filter(pk__in=pks).order_by("pk").unlocked_keys())

    def return_claims(self, rows: Collection[QueuedFile]) -> int:
        """End claims whose work has not begun, as if the rows had never been claimed."""
        tokens = {row.lease_token for row in rows}
        claimed = [State.TRANSFERRING, State.TRANSFERRED, State.DELETING]
        counted = When(state__in=claimed, attempts__gt=0, then=F("attempts") - 1)
        with transaction.atomic(using=self.db):
            claims = self.filter(pk__in=self._unlocked_of(rows), lease_token__in=tokens)
            return claims._release_claims(
                attempts=Case(counted, default=F("attempts"), output_field=_NUMBER),
                unconfirmed=Case(
                    *(When(unconfirmed__endswith=f" {token}", then=Value("")) for token in tokens),
                    default=F("unconfirmed"),
                ),
            )

    def hand_back(self, rows: Collection[QueuedFile]) -> int:
        """End claims because this process ends; the attempts don't count.

        The files are due after a few seconds, since a thread may be writing until the very end.
        Rows that somebody has locked are left out: their leases expire.
        """
        counted = When(state=State.TRANSFERRING, attempts__gt=0, then=F("attempts") - 1)
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        with transaction.atomic(using=self.db):
            claimed = Q()
            unlocked = self._unlocked_of(rows)
            for row in rows:
                if row.pk in unlocked:
                    claimed |= Q(pk=row.pk, lease_token=row.lease_token)
            if not claimed:
                return 0
            working = [State.TRANSFERRING, State.TRANSFERRED, State.DELETING]
            return self.filter(claimed, state__in=working).update(
                attempts=Case(counted, default=F("attempts"), output_field=_NUMBER),
                state=Case(back, default=F("state")),
                due_at=seconds_from_now(LEASE_GRACE),
            )


def _take_new_text(rows: Claims, count: int, trying: Collection[str]) -> Text:
    def chosen(due: Any) -> Any:
        return due.exclude(state=State.TRANSFERRING)

    return take_text(rows, count, trying, chosen, skips_locked=True)


def _take_suspect_text(rows: Claims, count: int, trying: Collection[str]) -> Text:
    is_innocent = Q(state=State.TRANSFERRING, attempts__gt=0)
    is_innocent &= ~Q(lease_token__startswith=ALONE)
    attempts = Case(
        When(is_innocent, then=F("attempts")), default=F("attempts") + 1, output_field=_NUMBER
    )
    return take_text(
        rows, count, trying, lambda due: due.filter(state=State.TRANSFERRING), attempts=attempts
    )
