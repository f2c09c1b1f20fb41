"""The statements that undo attempts which failed only because a remote was closed."""

from collections.abc import Mapping

from django.db.models import Case, F, PositiveIntegerField, Value, When

from .models import QueuedFile
from .rows import when_saved
from .sql.clock import DatabaseNow
from .states import Claim, State
from .supervision import Supervision


class Undoing(Supervision):
    """The verbs of a process that finds a remote closed.

    The files are due again as they were when they were saved, so that the oldest one is processed
    first once the remote is open.
    """

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
