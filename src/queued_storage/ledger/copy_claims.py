"""The statements of a worker that makes a copy, under its claim on the copy."""

from collections.abc import Sequence
from typing import Self

from django.db import models
from django.db.models import Case, F, When

from ..conf import settings
from .copies import Copies, Copy, CopyState
from .database import ledger, ledger_database
from .models import QueuedFile
from .sql.clock import seconds_from_now
from .states import Sending, State


class CopyClaims(Copies):
    """The verbs of a worker that makes a copy, under the claim on the copy.

    A row is the one that ``claimed_row()`` returns. A verb returns 0 and changes nothing if the
    claim is void, which it also is if the file was changed or deleted.
    """

    def renew(self, row: QueuedFile, sent: int) -> int:
        return self._current(row).update(due_at=seconds_from_now(settings.lease))

    def renew_unlocked(self, claims: Sequence[tuple[QueuedFile, int]]) -> list[bool | None]:
        """Renew several leases; return for each whether its claim is valid."""
        return [bool(self.renew(row, sent)) for row, sent in claims]

    def mark_tried(self, row: QueuedFile) -> int:
        return self.reserve_remote_name(row, row.remote_name)

    def reserve_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        """Record the name of the copy, and that it may be there, right before it is sent."""
        return self._current(row).update(
            remote_name=remote_name,
            unconfirmed=str(Sending.of(row)),
            due_at=seconds_from_now(settings.lease),
        )

    def record_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        """Record where the copy was sent, even if the file was changed since."""
        return self._of_claim(row).update(remote_name=remote_name, unconfirmed="")

    def release_remote_name(self, row: QueuedFile) -> int:
        """Record that nothing was sent, or that the object is not this file's."""
        return self._of_claim(row).update(remote_name="", unconfirmed="")

    def finish(self, row: QueuedFile, verified: str) -> int:
        """Let readers use the copy, which was verified."""
        return self._current(row).update(
            state=CopyState.TRANSFERRED,
            generation=row.generation,
            verified=verified,
            due_at=None,
            lease_token="",
            attempts=0,
            last_error="",
        )

    def give_back(
        self, row: QueuedFile, delay: float = 0, error: str = "", *, count: bool = True
    ) -> int:
        """End the claim until the next attempt in ``delay`` seconds."""
        texts = {"last_error": error} if error else {}
        # New content, whose attempts begin anew, may have been transferred meanwhile.
        is_taken_back = When(attempts__gt=0, then=F("attempts") - (0 if count else 1))
        return self._of_claim(row).update(
            due_at=seconds_from_now(delay),
            lease_token="",
            attempts=Case(
                is_taken_back, default=F("attempts"), output_field=models.PositiveIntegerField()
            ),
            **texts,
        )

    def mark_failed(self, row: QueuedFile, error: str) -> int:
        """End the attempts, unless the file was changed meanwhile."""
        return self._current(row).update(
            state=CopyState.FAILED, due_at=None, lease_token="", last_error=error
        )

    def _of_claim(self, row: QueuedFile) -> Self:
        return self.filter(file=row.pk, place=row.place, lease_token=row.lease_token)

    def _current(self, row: QueuedFile) -> Self:
        content = {"generation": row.generation, "size": row.size, "checksum": row.checksum}
        file = ledger().using(self.db).filter(pk=row.pk, state=State.TRANSFERRED, **content)
        return self._of_claim(row).filter(state=CopyState.PENDING, file__in=file.values("pk"))


def copy_claims() -> CopyClaims:
    return CopyClaims(Copy, using=ledger_database())
