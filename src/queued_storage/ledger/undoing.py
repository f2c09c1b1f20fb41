"""The statements that undo attempts which failed only because a remote was closed."""

from collections.abc import Collection, Mapping
from typing import Any, Self

from django.db.models import Case, F, PositiveIntegerField, Value, When

from .claims import Claims
from .models import QueuedFile
from .rows import new_token, when_saved
from .sql.clock import DatabaseNow
from .sql.statements import Text
from .states import Claim, State
from .supervision import Supervision
from .texts import take_text

PROBE = "p"  # begins the lease of a file by which a remote is probed; others are hexadecimal


class Undoing(Supervision):
    """The verbs of a process that finds a remote closed.

    The files are due again as they were when they were saved, so that the oldest one is processed
    first once the remote is open.
    """

    # Files by which a closed remote is probed

    def probes(self) -> Self:
        """Files of this query by which a remote is being probed now."""
        return self.filter(
            state=State.TRANSFERRING, lease_token__startswith=PROBE, due_at__gt=DatabaseNow()
        )

    def claim_probe(self, files: "Undoing") -> QueuedFile | None:
        """Claim the first of these pending files; None if none is due, or others were faster."""
        with self.locking():
            pks = list(files.unlocked_keys()[:1])
            token = PROBE + new_token()[1:]
            return next(iter(self._take(pks, [], build=_take_pending_text, token=token)), None)

    def note_failed_probe(self, row: QueuedFile, error: str) -> int:
        """Record the error of a file by which a remote was probed, so that others are preferred.

        The attempt doesn't count. Only the first one is kept in ``failures``.
        """
        same = self.filter(pk=row.pk, generation=row.generation, state=State.PENDING)
        failures = row.failures or row.failures_with(error)
        return same.update(last_error=error, failures=failures)

    # What failed

    def undo_attempt(self, row: QueuedFile) -> int:
        """Release a claim as if it had not been made."""
        counted = When(state=State.TRANSFERRING, attempts__gt=0, then=F("attempts") - 1)
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        saved = When(state=State.TRANSFERRING, then=when_saved())
        return self.under_claim(Claim.of(row)).update(
            attempts=Case(counted, default=F("attempts"), output_field=PositiveIntegerField()),
            due_at=Case(saved, default=DatabaseNow()),
            state=Case(back, default=F("state")),
            lease_token="",
        )

    def undo_failures(self, failed: Mapping[int, bool]) -> int:
        """Take back the last failure of files that failed before the remote was found closed.

        The values say whether it was counted as an attempt.
        """
        waiting = self.filter(
            pk__in=failed, state__in=[State.PENDING, State.FAILED], lease_token=""
        )
        counted = [pk for pk, was_counted in failed.items() if was_counted]
        was_counted = When(pk__in=counted, attempts__gt=0, then=F("attempts") - 1)
        return waiting.update(
            attempts=Case(was_counted, default=F("attempts"), output_field=PositiveIntegerField()),
            due_at=when_saved(),
            state=State.PENDING,
            last_error="",
        )


def _take_pending_text(rows: Claims, count: int, trying: Collection[str]) -> Text:
    def chosen(due: Any) -> Any:
        return due.filter(state=State.PENDING)

    return take_text(rows, count, trying, chosen)
