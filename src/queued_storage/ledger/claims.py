"""The claims of workers on rows, and what becomes of them."""

import contextlib
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

from django.db import connections, models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Cast, Concat

from ..conf import settings
from .models import QueuedFile
from .rows import Rows, new_token
from .sql.clock import DatabaseNow, now_in_sql, seconds_from_now
from .sql.outages import outlast
from .sql.statements import returns_rows, statement
from .sql.together import Together
from .states import Content, State


class Claims(Rows):
    """What workers do with a row, from the claim on it to its end."""

    # How it begins

    def claim(self, pk: int) -> QueuedFile | None:
        """Take a due row under a lease; None if it is not due, is another host's to work on, or
        somebody else was quicker."""
        return next(iter(self._take([pk], [])), None)

    def claim_due(
        self, limit: int, aliases: Collection[str], trying: Collection[str] = ()
    ) -> list[QueuedFile]:
        """Take up to ``limit`` due rows of ``aliases``, the longest due first.

        New files of the aliases in ``trying`` are noted as ``mark_tried()`` does it.
        """

        def first() -> list[int]:
            rows = self.due().of_aliases(aliases).workable_here().order_by("due_at")
            return list(self._lock(rows)[:limit])

        if not aliases:
            return []
        key = partial(self._key, "due", limit, tuple(aliases))
        while True:
            with self._claiming():
                pks = statement(self.db, key, first).values()
                taken = self._take(pks, trying)
            if taken or not pks:  # else others were quicker with all of them, but not with the rest
                return taken

    def claim_all(self, pks: Collection[int], trying: Collection[str] = ()) -> list[QueuedFile]:
        """Take those of these rows that are due, and that nobody else is taking."""
        rows = self.filter(pk__in=pks).workable_here().order_by("pk")
        with self._claiming():
            return self._take(list(self._lock(rows)), trying)

    def _claiming(self) -> contextlib.AbstractContextManager[object]:
        """A transaction, for its locks; without such locks the UPDATE tells who was first."""
        has_locks = connections[self.db].features.has_select_for_update_skip_locked
        return transaction.atomic(using=self.db) if has_locks else contextlib.nullcontext()

    def _lock(self, rows: Self) -> Any:
        """The keys of these rows, without those that others are just claiming."""
        connection = connections[self.db]
        keys = rows.values_list("pk", flat=True)
        if connection.features.has_select_for_update_skip_locked:
            keys = keys.select_for_update(skip_locked=True)
        return keys

    def _take(self, pks: Sequence[int], trying: Collection[str]) -> list[QueuedFile]:
        """Claim those of a few rows that are due, and can be worked on here.

        No index serves the condition. MariaDB would at times prefer that of ``due_at`` to the
        keys, lock every due row, and break the transactions of other people off as deadlocked.
        """
        if not pks:
            return []

        def take(token: str, *pks: int) -> int:
            is_due = Case(When(due_at__lte=DatabaseNow(), then=Value(True)), default=Value(False))
            in_transfer = When(state=State.PENDING, then=Value(State.TRANSFERRING))
            due = self.filter(pk__in=pks).workable_here().alias(is_due=is_due).filter(is_due=True)
            return due.update(
                unconfirmed=_noted_as_tried(trying, token),
                state=Case(in_transfer, default=F("state")),
                attempts=F("attempts") + 1,
                due_at=seconds_from_now(settings.lease),
                lease_token=token,
                sent=0,
            )

        token = new_token()
        key = partial(self._key, "take", len(pks), tuple(trying))
        update = statement(self.db, key, take, token, *pks)
        if returns_rows(self.db):
            taken = outlast(lambda: update.changed(self.model), self.db)
        else:
            outlast(update.execute, self.db)
            taken = list(self.model.objects.using(self.db).filter(pk__in=pks, lease_token=token))
        return sorted(taken, key=lambda row: pks.index(row.pk))

    # As long as it stands

    def renew(self, row: QueuedFile, sent: int) -> int:
        def renew(held: Self, sent: int) -> int:
            return held.update(due_at=seconds_from_now(settings.lease), sent=sent)

        return self._update_held(row, "renew", renew, sent)

    def reserve_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        """Reserve the name on the remote, before a byte is sent to it."""

        def name(held: Self, remote_name: str) -> int:
            due_at = seconds_from_now(settings.lease)
            return held.update(remote_name=remote_name, unconfirmed="", due_at=due_at)

        return self._update_held(row, "name", name, remote_name)

    def mark_tried(self, row: QueuedFile) -> int:
        """Note that the file may lie under its own name, which was not reserved, before it is sent
        there on the condition that nothing does."""

        def note(held: Self, unconfirmed: str) -> int:
            due_at = seconds_from_now(settings.lease)
            return held.update(unconfirmed=unconfirmed, due_at=due_at)

        return self._update_held(row, "try", note, f"{row.size} {row.checksum} {row.lease_token}")

    def record_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        """Note what the remote called it, even if the file was deleted or has newer content by
        now: whoever works on it next must find what this claim has written."""
        return self.filter(pk=row.pk, lease_token=row.lease_token).update(
            remote_name=remote_name, unconfirmed=""
        )

    # How it ends

    def promote(
        self, row: QueuedFile, remote_name: str, content: Content, verified: str, *, evict: bool
    ) -> int:
        """Turn reads to the remote; with ``evict`` the claim stays, for the eviction to follow."""
        is_as_saved = (remote_name, content.size, content.checksum) == (
            row.name,
            row.size,
            row.checksum,
        )
        promoted = None
        if is_as_saved and not evict and self._can_share_a_statement:
            promoted = _promotions.ask(_Promotion(self, row, verified))
        if promoted is None:
            promoted = self._promote_alone(row, remote_name, content, verified, evict=evict)
        return promoted or self._was_promoted(row, lease_token=row.lease_token if evict else "")

    def _promote_alone(
        self, row: QueuedFile, remote_name: str, content: Content, verified: str, *, evict: bool
    ) -> int:
        def promote(held: Self, remote_name: str, size: int, checksum: str, verified: str) -> int:
            end = {"due_at": seconds_from_now(settings.lease)}
            return held.update(
                state=State.TRANSFERRED,
                remote_name=remote_name,
                unconfirmed="",
                size=size,
                checksum=checksum,
                verified=verified,
                last_error="",
                transferred_at=DatabaseNow(),
                **end if evict else {"due_at": None, "lease_token": ""},
            )

        form = "promote, evict" if evict else "promote"
        given = (remote_name, content.size, content.checksum, verified)
        return self._update_held(row, form, promote, *given)

    def _was_promoted(self, row: QueuedFile, **columns: str) -> int:
        """Whether a promotion took place whose answer was lost, with its connection or because a
        thread hangs that had it shared: nobody else has claimed the row since."""
        same = {"generation": row.generation, "attempts": row.attempts}
        return int(self.filter(pk=row.pk, state=State.TRANSFERRED, **same, **columns).exists())

    @property
    def _can_share_a_statement(self) -> bool:
        """Whether other threads' rows may be changed by this one's connection."""
        return returns_rows(self.db) and not connections[self.db].in_atomic_block

    def promote_all(
        self, rows: Sequence[QueuedFile], generation: int, token: str, verified: str
    ) -> set[int]:
        """The same for files of one generation and one claim, which are on the remote as they were
        saved. Returns the keys of those that were promoted."""

        def promote(generation: int, token: str, verified: str, *pks: int) -> int:
            claims = {"state": State.TRANSFERRING, "generation": generation, "lease_token": token}
            return self.filter(pk__in=pks, **claims).update(
                state=State.TRANSFERRED,
                remote_name=F("name"),
                unconfirmed="",
                verified=verified,
                last_error="",
                transferred_at=DatabaseNow(),
                due_at=None,
                lease_token="",
            )

        key = partial(self._key, "promote all", len(rows))
        values: list[int | str] = [generation, token, verified, *(row.pk for row in rows)]
        return set(
            outlast(
                lambda: statement(self.db, key, promote, *values).returning("id").values(), self.db
            )
        )

    def mark_evicted(self, row: QueuedFile) -> int:
        return self.under_claim(row).update(
            is_local=False, evicted_at=DatabaseNow(), due_at=None, lease_token="", last_error=""
        )

    def postpone(self, row: QueuedFile, delay: float, error: str, *, count: bool = True) -> int:
        """Give the row back, to be tried again in ``delay`` seconds."""
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        failures = row.failures_with(error)
        postponed = self.under_claim(row).update(
            state=Case(back, default=F("state")),
            attempts=F("attempts") - (0 if count else 1),
            due_at=seconds_from_now(delay),
            lease_token="",
            last_error=error,
            failures=failures,
        )
        return postponed or self._was_noted(row, failures)

    def mark_failed(self, row: QueuedFile, error: str) -> int:
        """Stop trying; the reason stays with the row."""
        failures = row.failures_with(error)
        parked = self.under_claim(row).update(
            state=State.FAILED,
            due_at=None,
            lease_token="",
            last_error=error,
            failures=failures,
        )
        return parked or self._was_noted(row, failures)

    def _was_noted(self, row: QueuedFile, failures: list[dict[str, Any]]) -> int:
        """Whether the last of these failures was noted, and the answer lost with its connection."""
        same = self.filter(pk=row.pk, generation=row.generation)
        return int(failures[-1] in (same.values_list("failures", flat=True).first() or ()))

    def release_claim(self, row: QueuedFile) -> int:
        """End a void claim, so that what was asked for meanwhile need not wait for its end."""
        return self.filter(pk=row.pk, lease_token=row.lease_token)._release_claims()

    def _release_claims(self, **columns: Any) -> int:
        # TRANSFERRED and still claimed: the eviction is to follow.
        unfinished = [State.PENDING, State.TRANSFERRING, State.TRANSFERRED, State.DELETING]
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        return self.update(
            **columns,
            due_at=Case(When(state__in=unfinished, then=DatabaseNow()), default=None),
            state=Case(back, default=F("state")),
            lease_token="",
        )

    def return_claims(self, rows: Collection[QueuedFile]) -> int:
        """End the claims on rows with which nobody has begun, as if there had been none."""
        tokens = {row.lease_token for row in rows}
        claimed = [State.TRANSFERRING, State.TRANSFERRED, State.DELETING]
        counted = When(state__in=claimed, attempts__gt=0, then=F("attempts") - 1)
        number = models.PositiveIntegerField()
        claims = self.filter(pk__in=[row.pk for row in rows], lease_token__in=tokens)
        return claims._release_claims(
            attempts=Case(counted, default=F("attempts"), output_field=number),
            unconfirmed=Case(
                *(When(unconfirmed__endswith=f" {token}", then=Value("")) for token in tokens),
                default=F("unconfirmed"),
            ),
        )

    def remove_tombstone(self, row: QueuedFile) -> int:
        """Remove a tombstone: the name is free again."""
        return outlast(lambda: self.under_claim(row).delete()[0], self.db)

    # Texts that are written once

    def _key(self, *form: Hashable) -> Hashable:
        """What the text of a statement of this form depends on, beside its values."""
        if self.query.where:
            raise ValueError("Workers' statements are for the whole ledger, not for a part of it.")
        host = settings.host if settings.local_per_host else None
        return *form, host, settings.lease, now_in_sql(connections[self.db])

    def _update_held(
        self, row: QueuedFile, form: str, write: Callable[..., int], *values: int | str
    ) -> int:
        """``write(held_as(row), *values)``, with the text that it had the last time."""
        state = row.state  # read once: another thread may promote the row while this one connects

        def as_first(pk: int, generation: int, token: str, *values: int | str) -> int:
            claim = self.model(pk=pk, generation=generation, lease_token=token, state=state)
            return write(self.under_claim(claim), *values)

        key = partial(self._key, form, state)
        claim = (row.pk, row.generation, row.lease_token)
        return outlast(
            lambda: statement(self.db, key, as_first, *claim, *values).execute(), self.db
        )


def _noted_as_tried(aliases: Collection[str], token: str) -> Case:
    """What ``mark_tried()`` notes, in a claim: for files that nobody has sent yet."""
    is_new = Q(state=State.PENDING, remote_name="", unconfirmed="")
    is_known = Q(alias__in=aliases, checksum__startswith="crc32:")
    size = Cast("size", models.CharField())
    noted = Concat(size, Value(" "), "checksum", Value(" "), Value(token))
    return Case(When(is_new & is_known, then=noted), default=F("unconfirmed"))


class _Promotion(NamedTuple):
    rows: Claims
    row: QueuedFile
    verified: str

    @property
    def kind(self) -> tuple[str, int, str, str]:
        return self.rows.db, self.row.generation, self.row.lease_token, self.verified


def _promote_together(promotions: Sequence[_Promotion]) -> list[int]:
    alike: dict[Hashable, list[_Promotion]] = {}
    for promotion in promotions:
        alike.setdefault(promotion.kind, []).append(promotion)
    taken: set[int] = set()
    for (rows, row, verified), *others in alike.values():
        those = [row, *(each.row for each in others)]
        taken |= rows.promote_all(those, row.generation, row.lease_token, verified)
    return [int(each.row.pk in taken) for each in promotions]


_promotions: Together[_Promotion, int] = Together(_promote_together)
