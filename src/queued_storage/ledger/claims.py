"""The statements of workers, from the claim on a row to the end of the claim."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from random import shuffle
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import Case, F, Value, When

from .models import QueuedFile
from .priorities import PRIORITIES
from .rows import Rows, new_token, when_saved
from .sql.clock import DatabaseNow, seconds_from_now
from .sql.group_commit import GroupCommit
from .sql.outages import outlast
from .sql.statements import Text, returns_rows, statement
from .states import CLAIMABLE, Claim, Content, Sending, State
from .texts import (
    CLAIMED,
    Moment,
    claimed_text,
    due_text,
    form_and_values,
    numbered,
    numbered_aliases,
    padded,
    promote_text,
    rounded,
    take_text,
)

Aliases = Collection[str]
TOGETHER = 500 // len(PRIORITIES)  # aliases in one statement; SQLite takes up to 500 parts


class Claims(Rows):
    """The verbs of workers.

    A verb that needs a claim returns 0 and changes nothing if the claim is void.
    """

    # Claiming

    def claim(self, pk: int) -> QueuedFile | None:
        """Claim a due row; None if it isn't due, another host must process it, or another worker
        was faster."""
        return next(iter(self._take([pk], [])), None)

    def claim_due(
        self,
        limit: int,
        aliases: Aliases,
        trying: Aliases = (),
        without: Collection[int] = (),
        opened_lately: Aliases = (),
    ) -> list[QueuedFile]:
        """Claim up to ``limit`` due rows of ``aliases``.

        Those that have waited for ``MAX_WAIT`` are the first ones, then those of the highest
        priority, and within it those that have been due longest. Those of a remote that was
        ``opened_lately`` have not waited for so long.

        New files of ``trying`` are marked as ``mark_tried()`` does. Suspects are left out.
        """
        found = [*aliases]
        if len(found) > TOGETHER:  # then each group comes first once in a while
            shuffle(found)
        groups = (found[start : start + TOGETHER] for start in range(0, len(found), TOGETHER))
        claims = (self._claim_due(limit, each, trying, without, opened_lately) for each in groups)
        return next(filter(None, claims), [])

    def _claim_due(
        self,
        limit: int,
        aliases: Aliases,
        trying: Aliases,
        without: Collection[int],
        opened_lately: Aliases,
    ) -> list[QueuedFile]:
        lately = [alias for alias in aliases if alias in opened_lately]
        aliases = [*(alias for alias in aliases if alias not in opened_lately), *lately]
        while True:
            with self.locking():
                form = (rounded(limit + len(without)), len(aliases), len(lately))
                due = statement(self, due_text, *form, **numbered_aliases(aliases))
                pks = [pk for pk in due.first_column() if pk not in without][:limit]
                taken = self._take(pks, trying)
            # If other workers were faster with all of these rows, there may be more.
            if taken or not pks:
                return taken

    def claim_all(self, pks: Collection[int], trying: Collection[str] = ()) -> list[QueuedFile]:
        """Claim those of these rows that are due, except suspects and those that are locked."""
        rows = self.filter(pk__in=pks).exclude(state=State.TRANSFERRING)
        rows = rows.workable_here().order_by("pk")

        def take() -> list[QueuedFile]:
            with self.locking():
                return self._take(list(rows.all().unlocked_keys()), trying)

        return outlast(take, self.db)

    def _take(
        self,
        pks: Sequence[int],
        trying: Collection[str],
        *,
        build: Callable[..., Text] | None = None,
        token: str = "",
    ) -> list[QueuedFile]:
        """Claim those of a few rows that are due and can be processed by this host."""
        if not pks:
            return []
        token = token or new_token()
        keys = padded(pks)
        form = (len(keys), tuple(trying))
        take = statement(self, build or take_text, *form, token=token, **numbered(keys))
        if returns_rows(self.db):
            taken = take.instances(self.model)
        else:
            take.execute()
            taken = list(self.filter(pk__in=pks, lease_token=token))
        by_key = {row.pk: row for row in taken}
        return [by_key[pk] for pk in pks if pk in by_key]

    # During a claim

    def renew(self, row: QueuedFile, sent: int) -> int:
        """Renew the lease; ``sent`` is the number of bytes that the attempt has sent."""
        return self._update_claimed(Claim.of(row), due_at=Moment.LEASE_END, sent=sent)

    def reserve_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        """Record the name on the remote, and that the file may be there, right before it is sent.

        A name that was only reserved proves nothing: see ``QueuedFile.is_object_its_own``.
        """
        return self._update_claimed(
            Claim.of(row),
            remote_name=remote_name,
            unconfirmed=str(Sending.of(row)),
            due_at=Moment.LEASE_END,
        )

    def mark_tried(self, row: QueuedFile) -> int:
        """Record that the file may be on the remote under the name that the row has for it.

        That is for uploads that never overwrite an object, so the name need not be reserved.
        """
        return self._update_claimed(
            Claim.of(row), unconfirmed=str(Sending.of(row)), due_at=Moment.LEASE_END
        )

    def release_remote_name(self, row: QueuedFile) -> int:
        """Record that this claim has sent nothing, or that the object is not this file's."""
        return self.filter(pk=row.pk, lease_token=row.lease_token).update(
            remote_name="", unconfirmed=""
        )

    def bind(self, row: QueuedFile, place: int) -> int:
        """Record the place that the file of this claim is going to be uploaded to."""
        return self._update_claimed(Claim.of(row), place=place)

    def record_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        """Record where this claim has sent the file, even if it was deleted or overwritten since.

        The next worker must find what this claim has uploaded.
        """
        return self.filter(pk=row.pk, lease_token=row.lease_token).update(
            remote_name=remote_name, unconfirmed=""
        )

    # The end of a transfer

    def promote(
        self, row: QueuedFile, remote_name: str, content: Content, verified: str, *, evict: bool
    ) -> int:
        """Make reads use the remote. With ``evict``, the claim stays for the eviction to follow."""
        claim = Claim.of(row)
        promoted: int | None = None
        if not evict and self._can_promote_together(row, remote_name, content):
            promoted = _promotions.submit(_Promotion(self.db, claim, verified))
        if promoted is None:
            promoted = self._promote_alone(claim, remote_name, content, verified, evict=evict)
        return promoted or self._was_promoted(row, claim.token if evict else "")

    def _can_promote_together(self, row: QueuedFile, remote_name: str, content: Content) -> bool:
        """Whether the connection of another thread may promote the row with rows of its own."""
        found = (remote_name, content.size, content.checksum)
        is_as_saved = found == (row.name, row.size, row.checksum)
        return is_as_saved and returns_rows(self.db) and not connections[self.db].in_atomic_block

    def _promote_alone(
        self, claim: Claim, remote_name: str, content: Content, verified: str, *, evict: bool
    ) -> int:
        end_of_claim: dict[str, Any] = {"due_at": None, "lease_token": ""}
        return self._update_claimed(
            claim,
            state=State.TRANSFERRED,
            remote_name=remote_name,
            unconfirmed="",
            size=content.size,
            checksum=content.checksum,
            verified=verified,
            last_error="",
            transferred_at=Moment.NOW,
            **{"due_at": Moment.LEASE_END} if evict else end_of_claim,
        )

    def promote_all(
        self, pks: Sequence[int], generation: int, token: str, verified: str
    ) -> set[int]:
        """Promote files of one generation and one lease, whose remote copies are as saved.

        Returns the keys of those that were promoted. The database must ``returns_rows()``.
        """
        values = {"generation": generation, "token": token, "verified": verified}
        keys = padded(pks)
        promotion = statement(self, promote_text, len(keys), **values, **numbered(keys))
        return set(promotion.first_column())

    def _was_promoted(self, row: QueuedFile, lease_token: str) -> int:
        """Whether the row was promoted by a statement whose answer was lost.

        That is so if the connection broke, or the thread hangs that promotes for others, and no
        worker has claimed the row since.
        """
        promoted = self.filter(
            pk=row.pk,
            state=State.TRANSFERRED,
            generation=row.generation,
            attempts=row.attempts,
            lease_token=lease_token,
        )
        return int(promoted.exists())

    def mark_evicted(self, row: QueuedFile) -> int:
        """Record that the local copy of a transferred file is gone."""
        return self._update_claimed(
            Claim.of(row),
            is_local=False,
            evicted_at=Moment.NOW,
            due_at=None,
            lease_token="",
            last_error="",
        )

    def remove_tombstone(self, row: QueuedFile) -> int:
        """Delete the row of a deleted file, which frees its name."""
        rows = self.under_claim(Claim.of(row))
        return outlast(lambda: rows.delete()[0], self.db)

    # The end of an attempt

    def postpone(self, row: QueuedFile, delay: float, error: str, *, count: bool = True) -> int:
        """Release the row for the next attempt in ``delay`` seconds.

        Without ``count`` the attempt doesn't count towards ``RETRIES``.
        """
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        failures = row.failures_with(error)
        postponed = self.under_claim(Claim.of(row)).update(
            state=Case(back, default=F("state")),
            attempts=F("attempts") - (0 if count else 1),
            due_at=seconds_from_now(delay),
            lease_token="",
            last_error=error,
            failures=failures,
        )
        return postponed or self._was_recorded(row, failures)

    def mark_failed(self, row: QueuedFile, error: str) -> int:
        """End the attempts; the row keeps the error."""
        failures = row.failures_with(error)
        failed = self.under_claim(Claim.of(row)).update(
            state=State.FAILED,
            due_at=None,
            lease_token="",
            last_error=error,
            failures=failures,
        )
        return failed or self._was_recorded(row, failures)

    def _was_recorded(self, row: QueuedFile, failures: list[dict[str, Any]]) -> int:
        """Whether the last of these failures was recorded by a statement whose answer was lost."""
        same = self.filter(pk=row.pk, generation=row.generation)
        return int(failures[-1] in (same.values_list("failures", flat=True).first() or ()))

    def release_claim(self, row: QueuedFile) -> int:
        """End a void claim, so that what made it void need not wait for the end of the lease."""
        return self.filter(pk=row.pk, lease_token=row.lease_token)._release_claims()

    def _release_claims(self, **columns: Any) -> int:
        # A row that is TRANSFERRED under a lease waits for its eviction. Only a newer version knows
        # when a row in a state of its own is due.
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        # Files that nobody has tried to transfer keep their order.
        untried = When(state=State.TRANSFERRING, attempts__lte=1, then=when_saved())
        return self.update(
            due_at=Case(
                untried,
                When(state__in=CLAIMABLE, then=DatabaseNow()),
                When(state__in=[State.HELD, State.FAILED], then=Value(None)),
                default=F("due_at"),
            ),
            **columns,
            state=Case(back, default=F("state")),
            lease_token="",
        )

    # Statements with a cached text

    def _update_claimed(self, claim: Claim, **columns: Any) -> int:
        """Set these columns of the row, if the claim is valid."""
        values: dict[str, Any] = dict(zip(CLAIMED, claim, strict=True))
        form, changed = form_and_values(columns)
        return statement(self, claimed_text, *form, **values, **changed).execute()


# Promotions of several threads in one statement


class _Promotion(NamedTuple):
    database: str
    claim: Claim
    verified: str

    @property
    def group(self) -> tuple[str, int, str, str]:
        """Promotions of one group fit into one statement."""
        return self.database, self.claim.generation, self.claim.token, self.verified


def _promote_batch(promotions: Sequence[_Promotion]) -> list[int | None]:
    """Return None for what is to be promoted alone: its row may be locked, or its claim void."""
    groups = defaultdict(list)
    for promotion in promotions:
        groups[promotion.group].append(promotion.claim.pk)
    promoted: dict[Any, set[int]] = {}
    for group, pks in groups.items():
        promoted[group] = Claims(QueuedFile, using=group[0]).promote_all(pks, *group[1:])
    return [1 if each.claim.pk in promoted[each.group] else None for each in promotions]


_promotions: GroupCommit[_Promotion, int | None] = GroupCommit(_promote_batch)
