"""The statements behind what an operator asks for."""

from collections import defaultdict
from collections.abc import Collection

from django.db import models
from django.db.models import Case, F, Q, Value, When

from ..conf import settings
from .models import QueuedFile
from .rows import Rows, is_unclaimed, new_token, when_unclaimed
from .sql.clock import DatabaseNow, seconds_from_now
from .sql.outages import outlast
from .states import UNPUBLISHED, Claim, Content, State

LOST = "The only copy was"  # begins the error of a file that is lost with its disk or remote


class Orders(Rows):
    """The verbs of the command ``queued_storage`` and of the admin."""

    def retry(self) -> int:
        """Make these files due now and reset their retry count."""
        back = When(state=State.FAILED, then=Value(State.PENDING))
        is_eviction = When(state=State.TRANSFERRED, then=Value(1))
        return self.retriable().update(
            due_at=when_unclaimed(),
            attempts=Case(is_eviction, default=Value(0)),
            state=Case(back, default=F("state")),
        )

    def prioritize(self, priority: int) -> int:
        """Give these files another priority. Claims on them stay valid."""
        return self.prioritizable().exclude(priority=priority).update(priority=priority)

    def cancel(self) -> int:
        """Hold these files; the claim of a worker on one of them becomes void."""
        # The token of a transfer stays: its worker may be writing until it releases the row.
        released = When(state=State.TRANSFERRED, then=Value(""))
        held = When(state__in=[State.PENDING, State.TRANSFERRING], then=Value(State.HELD))
        return self.cancellable().update(
            due_at=None,
            lease_token=Case(released, default=F("lease_token")),
            state=Case(held, default=F("state")),
        )

    def hurry(self) -> int:
        """Let an eviction or a delete that waits for its next attempt be due now."""
        waits = self.filter(state__in=[State.TRANSFERRED, State.DELETING], lease_token="")
        return waits.filter(due_at__gt=DatabaseNow()).update(due_at=DatabaseNow())

    def claim_settled(self, pk: int, *, evicts: bool = False) -> QueuedFile | None:
        """Claim a transferred file that no worker has claimed, to evict, restore or repair it.

        If this process dies, the row becomes due at the end of the lease, and a worker finishes an
        eviction. It recognizes one by ``attempts``, which is at least 1 only for evictions.
        """
        token = new_token()
        settled = self.filter(pk=pk, state=State.TRANSFERRED, lease_token="")
        if not settled.update(
            due_at=seconds_from_now(settings.lease),
            attempts=1 if evicts else 0,
            lease_token=token,
            sent=0,
        ):
            return None
        return self.filter(pk=pk, lease_token=token).first()

    def claim_all_settled(self, pks: Collection[int]) -> list[QueuedFile]:
        """Do the same for several files under one lease, past the rows that somebody has locked."""
        token = new_token()
        settled = self.filter(pk__in=pks, state=State.TRANSFERRED, lease_token="").order_by("pk")

        def claim() -> int:
            with self.locking():
                unlocked = self.filter(pk__in=list(settled.unlocked_keys()), lease_token="")
                return unlocked.filter(state=State.TRANSFERRED).update(
                    due_at=seconds_from_now(settings.lease),
                    attempts=0,
                    lease_token=token,
                    sent=0,
                )

        outlast(claim, self.db)
        return list(self.filter(pk__in=pks, lease_token=token).order_by("pk"))

    def settle_all(self, rows: Collection[QueuedFile]) -> int:
        """End claims on transferred files whose work has not begun."""
        claims = defaultdict(list)
        for row in rows:
            claims[row.lease_token, row.generation].append(row.pk)
        ended = 0
        for (token, generation), pks in claims.items():
            valid = self.filter(
                pk__in=pks, lease_token=token, generation=generation, state=State.TRANSFERRED
            )
            ended += valid.update(due_at=None, lease_token="")
        return ended

    def settle(self, row: QueuedFile, error: str = "") -> int:
        """End a claim on a transferred file without changing its copies."""
        failures = {"failures": row.failures_with(error)} if error else {}
        return self.under_claim(Claim.of(row)).update(
            due_at=None, lease_token="", last_error=error, **failures
        )

    def retransfer(self, row: QueuedFile, content: Content) -> int:
        """Make reads use the local copy again, which has these bytes, and transfer it once more."""
        return self.under_claim(Claim.of(row)).update(
            due_at=DatabaseNow(),
            state=State.PENDING,
            size=content.size,
            checksum=content.checksum,
            attempts=0,
            verified="",
            transferred_at=None,
            lease_token="",
            last_error="",
        )

    def promote_found(
        self,
        row: QueuedFile,
        remote_name: str,
        content: Content,
        verified: str,
        *,
        is_local: bool,
        place: int | None = None,
    ) -> int:
        """Make reads use a remote copy that was found at ``place``, unless the row was claimed or
        changed."""
        return (
            self.under_claim(Claim.of(row))
            .filter(is_unclaimed())
            .update(
                due_at=None,
                state=State.TRANSFERRED,
                remote_name=remote_name,
                unconfirmed="",
                place=place,
                is_local=is_local,
                size=content.size,
                checksum=content.checksum,
                verified=verified,
                attempts=0,
                lease_token="",
                last_error="",
                transferred_at=DatabaseNow(),
                evicted_at=None if is_local else DatabaseNow(),
            )
        )

    def mark_restored(self, row: QueuedFile) -> int:
        """Record that this host has a local copy again."""
        return self.under_claim(Claim.of(row)).update(
            is_local=True,
            host=settings.host,
            evicted_at=None,
            due_at=None,
            lease_token="",
            last_error="",
        )

    def give_up(self, host: str) -> int:
        """Declare the disk of ``host`` lost; files stored only there become failed."""
        lost = self.with_local_copy_on(host)
        reason = _reason(host)
        untransferred = [State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED]
        is_only_copy = Q(state__in=[*untransferred, State.PREPARING])
        return lost.update(
            due_at=Case(When(state=State.DELETING, then=DatabaseNow()), default=None),
            evicted_at=Case(When(state=State.TRANSFERRED, then=DatabaseNow()), default=None),
            last_error=Case(When(is_only_copy, then=reason), default=F("last_error")),
            is_local=Case(When(is_only_copy, then=Value(True)), default=Value(False)),
            state=Case(When(is_only_copy, then=Value(State.FAILED)), default=F("state")),
            lease_token="",
        )

    def give_up_unpublished(self, pks: Collection[int], host: str) -> int:
        """Let files fail whose only content was not published, and lay on the disk of ``host``."""
        lost = self.filter(pk__in=pks, is_local=False, state__in=UNPUBLISHED)
        return lost.update(state=State.FAILED, is_local=True, last_error=_reason(host))


def _reason(host: str) -> Value:
    text = f"{LOST} on the host {host!r}, which was given up."
    return Value(text, output_field=models.TextField())
