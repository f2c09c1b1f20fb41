"""The ledger: one row per stored file, and every way in which a row may change."""

import contextlib
import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

from django.db import connections, models, router, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Cast, Coalesce, Concat
from django.utils.translation import gettext_lazy as _

from .clock import DatabaseNow, host_time, now_in_sql, seconds_from_now
from .conf import HOST_MAX_LENGTH, settings
from .logs import one_line
from .outages import outlast
from .statements import returns_rows, statement
from .together import Together

NAME_MAX_LENGTH = 700  # characters; with the alias the most that a unique index of InnoDB takes
NAME_MAX_BYTES = 2048  # in UTF-8; below what an index page of PostgreSQL takes
LEASE_GRACE = 5  # seconds past the end of a lease before its holder is taken for dead
MAX_FAILURES = 10  # failed attempts that a row remembers


class State(models.TextChoices):
    HELD = "held", _("held")  # delayed: waits for transfer()
    PENDING = "pending", _("pending")  # to be transferred at due_at
    TRANSFERRING = "transferring", _("transferring")  # under a lease
    TRANSFERRED = "transferred", _("transferred")  # verified on the remote
    FAILED = "failed", _("failed")  # retries used up, the local copy is kept
    DELETING = "deleting", _("deleting")  # a tombstone until both copies are gone


class ExactCharField(models.CharField):
    """A CharField that tells all texts apart on MySQL and MariaDB too: case, accents, trailing
    spaces."""

    def db_parameters(self, connection: Any) -> dict[str, Any]:
        parameters: dict[str, Any] = super().db_parameters(connection)
        if connection.vendor == "mysql":
            is_mariadb = connection.mysql_is_mariadb
            parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return parameters


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of a file's bytes when they are saved."""

    size: int
    checksum: str  # "crc32:1a2b3c4d"; "" where nobody read the bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a read needs to know of a row."""

    pk: int
    state: str
    remote_name: str
    is_local: bool
    size: int
    saved_at: datetime
    host: str

    @property
    def is_here(self) -> bool:
        """Whether there is a local copy that this host can see."""
        return self.is_local and is_reachable_from_here(self.host)

    @property
    def is_promoted(self) -> bool:
        return self.state == State.TRANSFERRED

    @property
    def is_deleted(self) -> bool:
        return self.state == State.DELETING


ENTRY_FIELDS = tuple(field.name for field in fields(Entry))


def is_reachable_from_here(host: str) -> bool:
    """Whether this host can see the local copies that ``host`` took."""
    return not settings.local_per_host or host == settings.host


def ledger_database() -> str:
    """The alias of the database that holds the ledger."""
    return settings.database or router.db_for_write(QueuedFile)


def new_token() -> str:
    return uuid.uuid4().hex


class QueuedFileQuerySet(models.QuerySet["QueuedFile"]):
    """The verbs of the ledger.

    Each is one conditional UPDATE (or INSERT, or DELETE) that says in its answer whether it took
    place. In an UPDATE an expression stands before the columns that it reads: MySQL evaluates
    assignments from left to right, with the new values.
    """

    # What was asked for by users of the storage

    def named(self, alias: str, name: str) -> Self:
        return self.filter(alias=alias, name=name)

    def entry(self, alias: str, name: str) -> Entry | None:
        row = self.named(alias, name).values_list(*ENTRY_FIELDS)[:1]
        return next((Entry(*values) for values in row), None)

    def latest_entry(self, alias: str, name: str) -> Entry | None:
        """The same as it is now, also in a transaction that reads from an older snapshot.

        MySQL's transactions do, by default; only a locking read sees past that.
        """
        connection = connections[self.db]
        if connection.vendor == "mysql" and connection.in_atomic_block:
            return self.select_for_update().entry(alias, name)
        return self.entry(alias, name)

    def entries(self, alias: str, names: Iterable[str]) -> dict[str, Entry]:
        rows = self.filter(alias=alias, name__in=names).values_list("name", *ENTRY_FIELDS)
        return {name: Entry(*values) for name, *values in rows}

    def record(
        self, alias: str, name: str, content: Content, *, held: bool, task: str = ""
    ) -> int | None:
        """Insert the row of a new file; None if the name is taken."""
        state = State.HELD if held else State.PENDING
        return self._record(alias, name, state, content, task=task)

    def record_tombstone(self, alias: str, name: str) -> int | None:
        """Insert the row of a file that predates the ledger and is to be deleted."""
        return self._record(alias, name, State.DELETING, Content(0, ""), remote_name=name)

    def record_local(
        self, alias: str, name: str, content: Content, saved_at: datetime
    ) -> int | None:
        """Insert the row of a file that predates the ledger and is to be transferred."""
        return self._record(alias, name, State.PENDING, content, saved_at=saved_at)

    def record_remote(
        self,
        alias: str,
        name: str,
        content: Content,
        saved_at: datetime,
        *,
        is_local: bool,
        verified: str,
    ) -> int | None:
        """Insert the row of a file that predates the ledger and is on the remote already."""
        return self._record(
            alias,
            name,
            State.TRANSFERRED,
            content,
            remote_name=name,
            saved_at=saved_at,
            is_local=is_local,
            verified=verified,
        )

    def _record(
        self,
        alias: str,
        name: str,
        state: State,
        content: Content,
        *,
        remote_name: str = "",
        task: str = "",
        saved_at: datetime | None = None,
        is_local: bool = True,
        verified: str = "",
    ) -> int | None:
        """One statement, since a savepoint around an INSERT would cost two more."""
        connection = connections[self.db]
        values: dict[str, Any] = {
            "alias": alias,
            "name": name,
            "remote_name": remote_name,
            "state": str(state),
            "task": task,
            "is_local": is_local,
            "size": content.size,
            "checksum": content.checksum,
            "content_type": content.content_type,
            "verified": verified,
            "host": settings.host,
        }
        times = _TIMES[state]
        if saved_at:
            values["saved_at"] = connection.ops.adapt_datetimefield_value(saved_at)
        else:
            times = ("saved_at", *times)
        now = now_in_sql(connection)
        sql = _insert_statement(self.db, tuple(values), times, now)
        with connection.cursor() as cursor:
            cursor.execute(sql, list(values.values()))
            if connection.vendor == "postgresql":
                row = cursor.fetchone()
                return row[0] if row else None
            return cursor.lastrowid if cursor.rowcount == 1 else None

    def overwrite(
        self, alias: str, name: str, content: Content, *, held: bool, task: str = ""
    ) -> int:
        """Start a new generation of a known file; void what runs for the old one."""
        return (
            self.named(alias, name)
            .exclude(state=State.DELETING)
            .update(
                due_at=None if held else _when_nobody_holds_it(),
                state=State.HELD if held else State.PENDING,
                generation=F("generation") + 1,
                task=task,
                is_local=True,
                size=content.size,
                checksum=content.checksum,
                content_type=content.content_type,
                verified="",
                attempts=0,
                host=settings.host,
                last_error="",
                saved_at=DatabaseNow(),
                transferred_at=None,
                evicted_at=None,
                failures=[],
            )
        )

    def waiting(self) -> Self:
        """Files that are on their local side only, and that nobody moves."""
        return self.filter(state__in=[State.HELD, State.PENDING, State.FAILED])

    def release(self) -> int:
        """Make these files due, with all their retries before them."""
        return self.waiting().update(
            due_at=_when_nobody_holds_it(), state=State.PENDING, attempts=0
        )

    def told(self, pk: int) -> int:
        """Note that a task of the ancestor's was told of the file."""
        return self.filter(pk=pk, state=State.PENDING, attempts=0).update(attempts=1)

    def bury(self) -> int:
        """Turn these rows into tombstones."""
        living = self.exclude(state=State.DELETING)
        return living.update(
            due_at=_when_nobody_holds_it(), state=State.DELETING, attempts=0, last_error=""
        )

    # What an operator asks for

    def retriable(self) -> Self:
        """Files that failed or wait for their next try; of deletes and evictions, too."""
        waits = Q(state__in=[State.DELETING, State.TRANSFERRED], lease_token="")
        waits &= Q(due_at__isnull=False)
        return self.filter(waits | Q(state__in=[State.PENDING, State.FAILED]))

    def retry(self) -> int:
        """Make these due, with all their retries before them."""
        back = When(state=State.FAILED, then=Value(State.PENDING))
        is_eviction = When(state=State.TRANSFERRED, then=Value(1))
        return self.retriable().update(
            due_at=_when_nobody_holds_it(),
            attempts=Case(is_eviction, default=Value(0)),
            state=Case(back, default=F("state")),
        )

    def cancellable(self) -> Self:
        """Files that are to be transferred or just being so, or whose eviction is to come."""
        is_evicted = Q(state=State.TRANSFERRED, due_at__isnull=False)
        return self.filter(is_evicted | Q(state__in=[State.PENDING, State.TRANSFERRING]))

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

    def bury_same(self, row: "QueuedFile") -> int:
        """Turn a row into a tombstone, unless anything has happened to it."""
        return self.held_as(row).filter(is_local=row.is_local).bury()

    def claim_settled(self, pk: int, *, evicts: bool = False) -> "QueuedFile | None":
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

    def settle(self, row: "QueuedFile", error: str = "") -> int:
        """End a claim on a transferred file that changed nothing."""
        failures = {"failures": row.failures_with(error)} if error else {}
        return self.held_as(row).update(due_at=None, lease_token="", last_error=error, **failures)

    def send_again(self, row: "QueuedFile") -> int:
        """Turn reads back to the local copy, and have it transferred once more."""
        return self.held_as(row).update(
            due_at=DatabaseNow(),
            state=State.PENDING,
            attempts=0,
            verified="",
            transferred_at=None,
            lease_token="",
            last_error="",
        )

    def restored(self, row: "QueuedFile") -> int:
        """Note that this host has a local copy again."""
        return self.held_as(row).update(
            is_local=True,
            host=settings.host,
            evicted_at=None,
            due_at=None,
            lease_token="",
            last_error="",
        )

    def in_batches(self, size: int) -> "Iterator[Sequence[QueuedFile]]":
        """All of these rows, each once, the oldest first, and no more than ``size`` at a time."""
        rows = list(self.order_by("pk")[:size])
        while rows:
            yield rows
            is_full = len(rows) == size
            rows = list(self.filter(pk__gt=rows[-1].pk).order_by("pk")[:size]) if is_full else []

    # What follows from what was asked for

    def drop_local(self, pk: int) -> int:
        """Note that the local copy of a tombstone, which this host can see, is gone."""
        rows = self.filter(pk=pk, state=State.DELETING, is_local=True)
        return rows.workable_here().update(is_local=False)

    def give_up(self, host: str) -> int:
        """Take the disk of ``host`` for lost: what only it had is parked, the rest goes on."""
        lost = self.lost_with(host)
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

    def lost_with(self, host: str) -> Self:
        """The rows that miss something if the disk of ``host`` is gone; not those that a worker
        has at this moment, since then it is not gone."""
        nobody = Q(lease_token="") | Q(due_at__lte=DatabaseNow())
        return self.filter(nobody, host=host, is_local=True)

    def renamed(self) -> Self:
        """Files that have another name on their remote."""
        return self.exclude(remote_name=F("name")).exclude(remote_name="")

    def called(self, remote_name: str) -> Self:
        """The files that have this name on their remote."""
        pks = [
            pk
            for pk, found in self.filter(remote_name=remote_name).values_list("pk", "remote_name")
            if found == remote_name  # MySQL compares without case
        ]
        return self.filter(pk__in=pks)

    # What workers do

    def workable_here(self) -> Self:
        """Rows for which no copy is needed that only another host can see."""
        if not settings.local_per_host:
            return self
        return self.filter(Q(host=settings.host) | Q(is_local=False))

    def whose(self, aliases: Collection[str]) -> Self:
        """Rows of these aliases, among few that are due. Without statistics SQLite would rather
        read all rows of the alias."""
        return self.alias(whose=Coalesce("alias", Value(""))).filter(whose__in=aliases)

    def due(self) -> Self:
        """Rows to look at now: due ones, and those whose lease has ended."""
        return self.filter(due_at__lte=DatabaseNow())

    def claim(self, pk: int) -> "QueuedFile | None":
        """Take a due row under a lease; None if it is not due, is another host's to work on, or
        somebody else was quicker."""
        return next(iter(self._take([pk], [])), None)

    def claim_due(
        self, limit: int, aliases: Collection[str], trying: Collection[str] = ()
    ) -> "list[QueuedFile]":
        """Take up to ``limit`` due rows of ``aliases``, the longest due first.

        New files of the aliases in ``trying`` are noted as ``try_name()`` does it.
        """

        def first() -> list[int]:
            rows = self.due().whose(aliases).workable_here().order_by("due_at")
            return list(self._lock(rows)[:limit])

        if not aliases:
            return []
        key = ("due", limit, tuple(aliases), self._circumstances())
        while True:
            with self._claiming():
                pks = statement(self.db, key, first).values()
                taken = self._take(pks, trying)
            if taken or not pks:  # else others were quicker with all of them, but not with the rest
                return taken

    def claim_all(self, pks: Collection[int], trying: Collection[str] = ()) -> "list[QueuedFile]":
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

    def _take(self, pks: Sequence[int], trying: Collection[str]) -> "list[QueuedFile]":
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
        key = ("take", len(pks), tuple(trying), self._circumstances())
        update = statement(self.db, key, take, token, *pks)
        if returns_rows(self.db):
            taken = outlast(lambda: update.changed(self.model), self.db)
        else:
            outlast(update.execute, self.db)
            taken = list(self.model.objects.using(self.db).filter(pk__in=pks, lease_token=token))
        return sorted(taken, key=lambda row: pks.index(row.pk))

    def _circumstances(self) -> Hashable:
        """What the text of the statements of workers depends on, beside their values."""
        if self.query.where:
            raise ValueError("Workers' statements are for the whole ledger, not for a part of it.")
        host = settings.host if settings.local_per_host else None
        return host, settings.lease, now_in_sql(connections[self.db])

    def held_as(self, row: "QueuedFile") -> Self:
        """The row, as long as this claim on it stands and nobody asked for something else."""
        return self.filter(
            pk=row.pk, lease_token=row.lease_token, state=row.state, generation=row.generation
        )

    def renew(self, row: "QueuedFile", sent: int) -> int:
        def renew(held: Self, sent: int) -> int:
            return held.update(due_at=seconds_from_now(settings.lease), sent=sent)

        return self._update_held(row, "renew", renew, sent)

    def name_remote(self, row: "QueuedFile", remote_name: str) -> int:
        """Reserve the name on the remote, before a byte is sent to it."""

        def name(held: Self, remote_name: str) -> int:
            due_at = seconds_from_now(settings.lease)
            return held.update(remote_name=remote_name, unconfirmed="", due_at=due_at)

        return self._update_held(row, "name", name, remote_name)

    def try_name(self, row: "QueuedFile") -> int:
        """Note that the file may lie under its own name, which was not reserved, before it is sent
        there on the condition that nothing does."""

        def note(held: Self, unconfirmed: str) -> int:
            due_at = seconds_from_now(settings.lease)
            return held.update(unconfirmed=unconfirmed, due_at=due_at)

        return self._update_held(row, "try", note, f"{row.size} {row.checksum} {row.lease_token}")

    def name_written(self, row: "QueuedFile", remote_name: str) -> int:
        """Note what the remote called it, even if the file was deleted or has newer content by
        now: whoever works on it next must find what this claim has written."""
        return self.filter(pk=row.pk, lease_token=row.lease_token).update(
            remote_name=remote_name, unconfirmed=""
        )

    def promote(
        self, row: "QueuedFile", remote_name: str, content: Content, verified: str, *, evict: bool
    ) -> int:
        """Turn reads to the remote; with ``evict`` the claim stays, for the eviction to follow."""
        is_as_saved = (remote_name, content.size, content.checksum) == (
            row.name,
            row.size,
            row.checksum,
        )
        if is_as_saved and not evict and self._can_share_a_statement:
            taken = _promotions.ask(_Promotion(row, verified))
            if taken is not None:
                return taken

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

    @property
    def _can_share_a_statement(self) -> bool:
        """Whether other threads' rows may be changed by this one's connection."""
        return returns_rows(self.db) and not connections[self.db].in_atomic_block

    def promote_all(
        self, rows: "Sequence[QueuedFile]", generation: int, token: str, verified: str
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

        key = ("promote all", len(rows), self._circumstances())
        values: list[int | str] = [generation, token, verified, *(row.pk for row in rows)]
        return set(
            outlast(
                lambda: statement(self.db, key, promote, *values).returning("id").values(), self.db
            )
        )

    def _update_held(
        self, row: "QueuedFile", form: str, write: Callable[..., int], *values: int | str
    ) -> int:
        """``write(held_as(row), *values)``, with the text that it had the last time."""

        def as_first(pk: int, generation: int, token: str, *values: int | str) -> int:
            claim = QueuedFile(pk=pk, generation=generation, lease_token=token, state=row.state)
            return write(self.held_as(claim), *values)

        key = (form, row.state, self._circumstances())
        claim = (row.pk, row.generation, row.lease_token)
        return outlast(
            lambda: statement(self.db, key, as_first, *claim, *values).execute(), self.db
        )

    def evicted(self, row: "QueuedFile") -> int:
        return self.held_as(row).update(
            is_local=False, evicted_at=DatabaseNow(), due_at=None, lease_token="", last_error=""
        )

    def postpone(self, row: "QueuedFile", delay: float, error: str, *, count: bool = True) -> int:
        """Give the row back, to be tried again in ``delay`` seconds."""
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        return self.held_as(row).update(
            state=Case(back, default=F("state")),
            attempts=F("attempts") - (0 if count else 1),
            due_at=seconds_from_now(delay),
            lease_token="",
            last_error=error,
            failures=row.failures_with(error),
        )

    def park(self, row: "QueuedFile", error: str) -> int:
        """Stop trying; the reason stays with the row."""
        return self.held_as(row).update(
            state=State.FAILED,
            due_at=None,
            lease_token="",
            last_error=error,
            failures=row.failures_with(error),
        )

    def let_go(self, row: "QueuedFile") -> int:
        """End a void claim, so that what was asked for meanwhile need not wait for its end."""
        return self.filter(pk=row.pk, lease_token=row.lease_token)._let_go()

    def _let_go(self, **columns: Any) -> int:
        # TRANSFERRED and still claimed: the eviction is to follow.
        unfinished = [State.PENDING, State.TRANSFERRING, State.TRANSFERRED, State.DELETING]
        back = When(state=State.TRANSFERRING, then=Value(State.PENDING))
        return self.update(
            **columns,
            due_at=Case(When(state__in=unfinished, then=DatabaseNow()), default=None),
            state=Case(back, default=F("state")),
            lease_token="",
        )

    def give_back(self, rows: "Collection[QueuedFile]") -> int:
        """End the claims on rows with which nobody has begun, as if there had been none."""
        tokens = {row.lease_token for row in rows}
        claimed = [State.TRANSFERRING, State.TRANSFERRED, State.DELETING]
        counted = When(state__in=claimed, attempts__gt=0, then=F("attempts") - 1)
        number = models.PositiveIntegerField()
        claims = self.filter(pk__in=[row.pk for row in rows], lease_token__in=tokens)
        return claims._let_go(
            attempts=Case(counted, default=F("attempts"), output_field=number),
            unconfirmed=Case(
                *(When(unconfirmed__endswith=f" {token}", then=Value("")) for token in tokens),
                default=F("unconfirmed"),
            ),
        )

    def purged(self, row: "QueuedFile") -> int:
        """Remove a tombstone: the name is free again."""
        return outlast(lambda: self.held_as(row).delete()[0], self.db)

    # Statements that the ORM has no public word for, or that must get past an outage

    def update(self, **columns: Any) -> int:
        return outlast(lambda: super(QueuedFileQuerySet, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # no template may call it


# What an INSERT says besides its values: the times that are now, the others being NULL, ...
_TIMES = dict.fromkeys(State, ()) | {
    State.PENDING: ("due_at",),
    State.DELETING: ("due_at",),
    State.TRANSFERRED: ("transferred_at",),
}
# ... and what every new row has.
_AT_FIRST = dict.fromkeys(["unconfirmed", "lease_token", "last_error"], "''")
_AT_FIRST |= dict.fromkeys(["attempts", "sent"], "0")
_AT_FIRST |= {"generation": "1", "failures": "'[]'"}


@lru_cache(64)  # there are a few forms of it, and writing one takes as long as its execution
def _insert_statement(
    database: str, columns: tuple[str, ...], times: tuple[str, ...], now: str
) -> str:
    """One that does nothing where the name is taken."""
    connection = connections[database]
    quote = connection.ops.quote_name
    places = dict.fromkeys(columns, "%s") | dict.fromkeys(times, now) | _AT_FIRST
    into = f"INTO {quote(QueuedFile._meta.db_table)} ({', '.join(map(quote, places))})"
    values = f"VALUES ({', '.join(places.values())})"
    if connection.vendor == "mysql":
        return f"INSERT IGNORE {into} {values}"
    statement = f"INSERT {into} {values} ON CONFLICT DO NOTHING"
    if connection.vendor == "postgresql":
        return f"{statement} RETURNING {quote('id')}"
    return statement


def _noted_as_tried(aliases: Collection[str], token: str) -> Case:
    """What ``try_name()`` notes, in a claim: for files that nobody has sent yet."""
    is_new = Q(state=State.PENDING, remote_name="", unconfirmed="")
    is_known = Q(alias__in=aliases, checksum__startswith="crc32:")
    size = Cast("size", models.CharField())
    noted = Concat(size, Value(" "), "checksum", Value(" "), Value(token))
    return Case(When(is_new & is_known, then=noted), default=F("unconfirmed"))


def _when_nobody_holds_it() -> Case:
    """Now, or where a worker may still be writing: when its lease has ended for certain."""
    nobody = Q(lease_token="") | Q(due_at__lte=DatabaseNow())
    return Case(
        When(nobody, then=DatabaseNow()),
        default=seconds_from_now(settings.lease + LEASE_GRACE),
    )


class QueuedFile(models.Model):
    """Where one stored file is, and what is still to be done for it.

    ``due_at`` is when somebody must look at the row next: the next try of a pending file or of a
    delete, the end of the lease of a claimed row, the eviction of a transferred one. NULL means
    that nothing is to be done until somebody asks for it.
    """

    State = State

    alias = ExactCharField(_("storage"), max_length=64)
    name = ExactCharField(_("name"), max_length=NAME_MAX_LENGTH)
    remote_name = models.CharField(
        _("name on the remote"), max_length=1024, blank=True
    )  # chosen by the first attempt; "" before it
    unconfirmed = models.CharField(
        _("sent without an answer"), max_length=150, blank=True
    )  # "16 crc32:1a2b3c4d …": what may lie on the remote under the file's own name, and the lease
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    task = models.CharField(_("task"), max_length=255, blank=True)  # dotted path; for who reads it
    is_local = models.BooleanField(_("has a local copy"), default=True)
    size = models.BigIntegerField(_("size"), default=0)  # bytes
    checksum = models.CharField(_("checksum"), max_length=128, blank=True)  # "crc32:…"
    content_type = models.CharField(_("content type"), max_length=255, blank=True)
    verified = models.CharField(
        _("verified by"), max_length=16, blank=True
    )  # "size", "checksum" or "content"
    generation = models.PositiveIntegerField(_("generation"), default=1)  # one up per overwriting
    attempts = models.PositiveIntegerField(_("attempts"), default=0)  # since it was last asked for
    sent = models.BigIntegerField(_("sent"), default=0)  # bytes, by the running attempt
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)
    lease_token = models.CharField(_("lease"), max_length=32, blank=True)  # "" when unclaimed
    host = models.CharField(_("host"), max_length=HOST_MAX_LENGTH, blank=True)  # that took the file
    last_error = models.TextField(_("last error"), blank=True)
    saved_at = models.DateTimeField(_("saved at"))
    transferred_at = models.DateTimeField(_("transferred at"), null=True, blank=True)
    evicted_at = models.DateTimeField(_("evicted at"), null=True, blank=True)
    failures = models.JSONField(_("failures"), default=list, blank=True)  # the last few attempts

    objects = QueuedFileQuerySet.as_manager()

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("queued file")
        verbose_name_plural = _("queued files")
        default_permissions = ["view"]  # no row is made, changed or deleted by hand
        permissions = [
            ("retry_queuedfile", _("Can retry failed files")),
            ("transfer_queuedfile", _("Can have files transferred now")),
            ("cancel_queuedfile", _("Can cancel transfers")),
            ("evict_queuedfile", _("Can free local copies")),
            ("restore_queuedfile", _("Can bring files back to local storage")),
            ("verify_queuedfile", _("Can compare files with their copies")),
        ]
        constraints = [
            models.UniqueConstraint(fields=["alias", "name"], name="queued_storage_name_unique")
        ]
        indexes = [
            # They hold all that a sweep and a status ask for, so that neither reads a row.
            models.Index(
                fields=["due_at", "alias", "host", "is_local", "id"], name="queued_storage_due"
            ),
            models.Index(
                fields=["alias", "state", "transferred_at", "saved_at", "size"],
                name="queued_storage_state",
            ),
        ]

    def __str__(self) -> str:
        return one_line(f"{self.name} ({self.alias})")

    @property
    def is_remote(self) -> bool:
        """Whether reads go to the remote."""
        return self.state == State.TRANSFERRED

    @property
    def remains(self) -> Content | None:
        """What an earlier claim may have left on the remote under the file's own name."""
        if not self.unconfirmed or self.is_tried:
            return None
        size, checksum, *_lease = self.unconfirmed.split(" ")
        return Content(int(size), checksum)

    @property
    def is_tried(self) -> bool:
        """Whether the ledger knows that this claim may send the file to its own name."""
        return bool(self.lease_token) and self.unconfirmed.endswith(f" {self.lease_token}")

    @property
    def lease_expires_at(self) -> datetime | None:
        """When the claim ends if it is not renewed; None for a row that nobody claimed."""
        return self.due_at if self.lease_token else None

    def failures_with(self, error: str) -> list[dict[str, Any]]:
        """The attempts that failed, with the one of this claim, which failed now.

        The time is this host's, to be read by people; nothing is decided by it.
        """
        failure = {
            "at": host_time().isoformat(timespec="seconds"),
            "host": settings.host,
            "attempt": self.attempts,
            "work": self.state,
            "error": error,
        }
        return [*self.failures, failure][-MAX_FAILURES:]


def ledger() -> QueuedFileQuerySet:
    """The rows, in the database that holds them."""
    # As QueuedFile.objects.using() has it, at a third of the price
    return QueuedFileQuerySet(QueuedFile, using=ledger_database())


class _Promotion(NamedTuple):
    row: QueuedFile
    verified: str

    @property
    def kind(self) -> tuple[int, str, str]:
        return self.row.generation, self.row.lease_token, self.verified


def _promote_together(promotions: Sequence[_Promotion]) -> list[int]:
    taken: set[int] = set()
    for kind in {each.kind for each in promotions}:
        rows = [each.row for each in promotions if each.kind == kind]
        taken |= ledger().promote_all(rows, *kind)
    return [int(each.row.pk in taken) for each in promotions]


_promotions: Together[_Promotion, int] = Together(_promote_together)
