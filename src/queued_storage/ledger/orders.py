"""What an operator can have done with files."""

from django.db import models
from django.db.models import Case, F, Q, Value, When

from ..conf import settings
from .models import QueuedFile
from .rows import Rows, new_token, when_nobody_holds_it
from .sql.clock import DatabaseNow, seconds_from_now
from .states import Claim, State


class Orders(Rows):
    """The verbs behind those of the command and of the admin."""

    def retry(self) -> int:
        """Make these due, with all their retries before them."""
        back = When(state=State.FAILED, then=Value(State.PENDING))
        is_eviction = When(state=State.TRANSFERRED, then=Value(1))
        return self.retriable().update(
            due_at=when_nobody_holds_it(),
            attempts=Case(is_eviction, default=Value(0)),
            state=Case(back, default=F("state")),
        )

    def cancel(self) -> int:
        """Hold these; a worker that has one finds its claim void."""
        # The token of a transfer stays: until its worker lets go, it may be writing.
        freed = When(state=State.TRANSFERRED, then=Value(""))
        held = When(state__in=[State.PENDING, State.TRANSFERRING], then=Value(State.HELD))
        return self.cancellable().update(
            due_at=None,
            lease_token=Case(freed, default=F("lease_token")),
            state=Case(held, default=F("state")),
        )

    def claim_settled(self, pk: int, *, evicts: bool = False) -> QueuedFile | None:
        """Take a transferred file of which nothing is due, to evict, restore or repair it.

        If its holder dies, the row falls due as any other; an eviction is then finished. Its
        attempts are never below 1, by which whoever takes it over tells it from the rest.
        """
        token = new_token()
        settled = self.filter(pk=pk, state=State.TRANSFERRED, due_at=None)
        if not settled.update(
            due_at=seconds_from_now(settings.lease),
            attempts=1 if evicts else 0,
            lease_token=token,
            sent=0,
        ):
            return None
        return self.filter(pk=pk, lease_token=token).first()

    def settle(self, row: QueuedFile, error: str = "") -> int:
        """End a claim on a transferred file that changed nothing."""
        failures = {"failures": row.failures_with(error)} if error else {}
        return self.under_claim(Claim.of(row)).update(
            due_at=None, lease_token="", last_error=error, **failures
        )

    def retransfer(self, row: QueuedFile) -> int:
        """Turn reads back to the local copy, and have it transferred once more."""
        return self.under_claim(Claim.of(row)).update(
            due_at=DatabaseNow(),
            state=State.PENDING,
            attempts=0,
            verified="",
            transferred_at=None,
            lease_token="",
            last_error="",
        )

    def mark_restored(self, row: QueuedFile) -> int:
        """Note that this host has a local copy again."""
        return self.under_claim(Claim.of(row)).update(
            is_local=True,
            host=settings.host,
            evicted_at=None,
            due_at=None,
            lease_token="",
            last_error="",
        )

    def give_up(self, host: str) -> int:
        """Take the disk of ``host`` for lost: what only it had is parked, the rest goes on."""
        lost = self.with_local_copy_on(host)
        text = f"The only copy was on the host {host!r}, which was given up."
        reason = Value(text, output_field=models.TextField())
        is_only_copy = Q(state__in=[State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED])
        return lost.update(
            due_at=Case(When(state=State.DELETING, then=DatabaseNow()), default=None),
            evicted_at=Case(When(state=State.TRANSFERRED, then=DatabaseNow()), default=None),
            last_error=Case(When(is_only_copy, then=reason), default=F("last_error")),
            is_local=Case(When(is_only_copy, then=Value(True)), default=Value(False)),
            state=Case(When(is_only_copy, then=Value(State.FAILED)), default=F("state")),
            lease_token="",
        )
