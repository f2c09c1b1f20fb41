"""The statements of a worker that runs the steps of a file, under its claim on the preparation."""

import copy as shallow
from collections.abc import Sequence
from typing import Any, Self

from django.db import models, transaction
from django.db.models import Case, F, When

from ..conf import settings
from .database import ledger, ledger_database
from .models import QueuedFile
from .preparation_texts import claim_text, claimed_text, current_text, drop_text
from .preparations import Preparation, Preparations, PreparationState, living
from .rows import new_token
from .sql.clock import seconds_from_now
from .sql.statements import returns_rows, statement
from .states import Content, State
from .supervision import ALONE
from .texts import Moment, form_and_values, passed_text, row_text


def prepared_row(preparation: Preparation) -> QueuedFile:
    """Return the file's row with the claim on the preparation in place of its own."""
    row = shallow.copy(preparation.file)
    row.lease_token = preparation.lease_token
    row.generation = preparation.generation
    return row


class PreparationClaims(Preparations):
    """The verbs of a worker under the claim on a preparation.

    A row is the one that ``prepared_row()`` returns. A verb returns 0 and changes nothing if the
    claim is void, which it also is if the file was overwritten or deleted.
    """

    def claim(self, pk: int, *, suspect: bool = False) -> Preparation | None:
        """Claim one that is due; None if it is not, or if another worker was faster."""
        token = ALONE + new_token()[1:] if suspect else new_token()
        claim = statement(self, claim_text, suspect, id=pk, lease_token=token)
        if not returns_rows(self.db):
            claim.execute()
            claim = statement(self, claimed_text, id=pk, lease_token=token)
        for preparation in claim.instances(Preparation):
            file = statement(ledger(), row_text, id=preparation.file_id).instances(QueuedFile)
            if file:  # otherwise it was deleted meanwhile
                [preparation.file] = file
                return preparation
        return None

    def renew(self, row: QueuedFile, sent: int) -> int:
        return self._update_current(row, due_at=Moment.LEASE_END)

    def renew_unlocked(self, claims: Sequence[tuple[QueuedFile, int]]) -> list[bool | None]:
        """Renew several leases; return for each whether its claim is valid."""
        return [bool(self.renew(row, sent)) for row, sent in claims]

    def advance(self, row: QueuedFile, step: int, plan: str, **columns: Any) -> int:
        """Record that so many steps have passed; the attempts of the next one begin anew."""
        return self._update_current(
            row,
            step=step,
            plan=plan,
            attempts=1,
            last_error="",
            due_at=Moment.LEASE_END,
            **columns,
        )

    def replace_hidden(
        self, row: QueuedFile, step: int, plan: str, hidden: str, content: Content
    ) -> int:
        """Record the same, and that other bytes, under a hidden name, are the content now."""
        return self.advance(
            row, step, plan, hidden=hidden, size=content.size, checksum=content.checksum
        )

    def pass_published(self, row: QueuedFile, *, held: bool) -> int:
        """Let the file, which is published already, be transferred: all steps have passed."""
        with transaction.atomic(using=self.db):
            passed = statement(ledger(), passed_text, held, id=row.pk, generation=row.generation)
            return passed.execute() and self._require(self.drop(row))

    def reject(self, row: QueuedFile, reason: str, hidden: str, *, is_published: bool) -> int:
        """Close the doors. Bytes that are published are to be moved to their hidden name, under the
        same claim; others lie there already.

        URLs that were signed for the content become void, also after a release.
        """
        with transaction.atomic(using=self.db):
            file = living(row.pk, row.generation)
            is_new = file.filter(state=State.PREPARING).update(
                state=State.REJECTED, is_local=False, generation=F("generation") + 1
            )
            if is_published and not is_new:
                return 0
            return self._require(
                self._of_claim(row).update(
                    state=PreparationState.REJECTED,
                    generation=F("generation") + (1 if is_new else 0),
                    hidden=hidden,
                    reason=reason,
                    last_error="",
                    lease_token=row.lease_token if is_published else "",
                    due_at=seconds_from_now(settings.lease) if is_published else None,
                )
            )

    def _require(self, changed: int) -> int:
        """Undo the transaction if the claim is void."""
        if not changed:
            transaction.set_rollback(True, using=self.db)
        return changed

    def settle(self, row: QueuedFile) -> int:
        """Record that the rejected bytes are in quarantine."""
        return self._of_claim(row).update(lease_token="", due_at=None, attempts=0)

    def drop(self, row: QueuedFile) -> int:
        """Forget the preparation."""
        values: dict[str, Any] = {"claimed file": row.pk, "claimed token": row.lease_token}
        return statement(self, drop_text, **values).execute()

    # The end of an attempt

    def give_back(
        self,
        row: QueuedFile,
        delay: float = 0,
        error: str = "",
        *,
        count: bool = True,
        **columns: Any,
    ) -> int:
        """End the claim until the next attempt in ``delay`` seconds; ``columns`` are the progress
        that was not recorded yet."""
        if error:
            columns["last_error"] = error
        taken_back = When(attempts__gt=0, then=F("attempts") - 1)
        attempts = Case(
            taken_back, default=F("attempts"), output_field=models.PositiveIntegerField()
        )
        if "attempts" not in columns:
            columns["attempts"] = F("attempts") if count else attempts
        return self._of_claim(row).update(due_at=seconds_from_now(delay), lease_token="", **columns)

    def hold(self, row: QueuedFile, error: str, **columns: Any) -> int:
        """End the attempts: a step cannot be run."""
        return self._update_current(
            row,
            state=PreparationState.HELD,
            due_at=None,
            lease_token="",
            last_error=error,
            **columns,
        )

    def _of_claim(self, row: QueuedFile) -> Self:
        return self.filter(file=row.pk, lease_token=row.lease_token)

    def _update_current(self, row: QueuedFile, **columns: Any) -> int:
        """Set these columns, if the claim is valid."""
        values: dict[str, Any] = {
            "claimed file": row.pk,
            "claimed token": row.lease_token,
            "claimed generation": row.generation,
        }
        form, changed = form_and_values(columns)
        return statement(self, current_text, *form, **values, **changed).execute()


def preparation_claims() -> PreparationClaims:
    return PreparationClaims(Preparation, using=ledger_database())
