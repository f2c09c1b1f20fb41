"""The statements behind what users of a storage do with its files."""

from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import IntegrityError, connections, models
from django.db.models import F, Value
from django.db.models.functions import Cast, Concat

from ..conf import settings
from .lookups import Lookups
from .models import QueuedFile
from .priorities import NORMAL
from .rows import when_unclaimed
from .sql.clock import DatabaseNow, now_in_sql
from .sql.statements import statement
from .states import Claim, Content, Entry, State
from .texts import lock_text, new_content, overwrite_text

# The columns of an INSERT that are the current time (the other times are NULL) ...
_TIMES = dict.fromkeys(State, ()) | {
    State.PENDING: ("due_at",),
    State.DELETING: ("due_at",),
    State.TRANSFERRED: ("transferred_at",),
}
# ... and those with the same value in every new row.
_AT_FIRST = dict.fromkeys(["unconfirmed", "lease_token", "last_error"], "''")
_AT_FIRST |= dict.fromkeys(["attempts", "sent"], "0")
_AT_FIRST |= {"generation": "1", "failures": "'[]'"}

_PLACE = models.BigIntegerField(null=True)
_SAVED_AT: Any = QueuedFile._meta.get_field("saved_at")
MYSQL_DUPLICATE = 1062  # the error code of a value that a unique index has already


class Records(Lookups):
    """The verbs of a storage: look up, save, overwrite, delete."""

    def record(
        self,
        alias: str,
        name: str,
        content: Content,
        *,
        held: bool,
        task: str = "",
        place: int | None = None,
        prepares: bool = False,
        is_local: bool = True,
        priority: int = NORMAL,
    ) -> int | None:
        """Insert the row of a new file; None if the name is taken."""
        state = _first_state(held, prepares)
        return self._record(
            alias,
            name,
            state,
            content,
            task=task,
            place=place,
            is_local=is_local,
            priority=priority,
        )

    def record_tombstone(
        self,
        alias: str,
        name: str,
        remote_name: str | None = None,
        *,
        place: int | None = None,
    ) -> int | None:
        """Insert the row of a deleted file that predates the ledger.

        With ``remote_name=""`` there is nothing to delete on the remote: the name is reserved.
        """
        known = name if remote_name is None else remote_name
        return self._record(
            alias, name, State.DELETING, Content(0, ""), remote_name=known, place=place
        )

    def reserve(self, row: QueuedFile) -> int:
        """Reserve the name of a claimed tombstone, whose local copy is gone, for a new file."""
        reserved = self.under_claim(Claim.of(row)).filter(is_local=False)
        return reserved.update(is_local=True, host=settings.host)

    def unreserve(self, row: QueuedFile) -> int:
        """Make a reserved name a tombstone without a local copy again."""
        return self.under_claim(Claim.of(row)).update(is_local=False)

    def fill(
        self,
        row: QueuedFile,
        content: Content,
        *,
        held: bool,
        task: str = "",
        place: int | None = None,
        prepares: bool = False,
        priority: int = NORMAL,
    ) -> int:
        """Let a reserved name be that of a new file, and end the claim."""
        is_new = not (row.size or row.checksum or row.remote_name)
        state = _first_state(held, prepares)
        return self.under_claim(Claim.of(row)).update(
            **new_content(
                state,
                _content_values(content, task, place, priority) | {"place": Value(place, _PLACE)},
            ),
            is_local=True,
            due_at=DatabaseNow() if state is State.PENDING else None,
            generation=F("generation") + (0 if is_new else 1),
            lease_token="",
        )

    def fill_remotely(
        self, row: QueuedFile, remote_name: str, content: Content, verified: str, task: str
    ) -> int:
        """Let a reserved name be that of a new file that only the remote has; end the claim."""
        return self.under_claim(Claim.of(row)).update(
            state=State.TRANSFERRED,
            remote_name=remote_name,
            unconfirmed="",
            task=task,
            is_local=False,
            size=content.size,
            checksum=content.checksum,
            content_type=content.content_type,
            verified=verified,
            attempts=0,
            due_at=None,
            lease_token="",
            last_error="",
            saved_at=DatabaseNow(),
            transferred_at=DatabaseNow(),
            evicted_at=DatabaseNow(),
        )

    def record_local(
        self,
        alias: str,
        name: str,
        content: Content,
        saved_at: datetime | None,
        *,
        place: int | None = None,
        priority: int = NORMAL,
    ) -> int | None:
        """Insert the row of a local file that predates the ledger, for its transfer."""
        return self._record(
            alias,
            name,
            State.PENDING,
            content,
            saved_at=saved_at,
            place=place,
            priority=priority,
        )

    def record_remote(
        self,
        alias: str,
        name: str,
        content: Content,
        saved_at: datetime | None,
        *,
        is_local: bool,
        verified: str,
        place: int | None = None,
    ) -> int | None:
        """Insert the row of a file on the remote that predates the ledger.

        ``saved_at`` is now for storages that don't know times.
        """
        return self._record(
            alias,
            name,
            State.TRANSFERRED,
            content,
            remote_name=name,
            saved_at=saved_at,
            is_local=is_local,
            verified=verified,
            place=place,
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
        place: int | None = None,
        priority: int = NORMAL,
    ) -> int | None:
        """Execute one statement; a savepoint around it would take two more."""
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
            "place": place,
        }
        if priority != NORMAL:  # else that of the database
            values["priority"] = priority
        times = _TIMES[state]
        if saved_at:
            values["saved_at"] = _SAVED_AT.get_db_prep_value(saved_at, connection)
        else:
            times = ("saved_at", *times)
        now = now_in_sql(connection)
        sql = _insert_statement(self.db, self.model._meta.db_table, tuple(values), times, now)
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql, list(values.values()))
            except IntegrityError as error:
                if connection.vendor == "mysql" and error.args[0] == MYSQL_DUPLICATE:
                    return None  # only the statement was rolled back, not the transaction
                raise
            if connection.vendor == "postgresql":
                row = cursor.fetchone()
                return row[0] if row else None
            return cursor.lastrowid if cursor.rowcount == 1 else None

    def overwrite(
        self,
        entry: Entry,
        content: Content,
        *,
        held: bool,
        task: str = "",
        place: int | None = None,
        prepares: bool = False,
        is_local: bool = True,
        priority: int = NORMAL,
    ) -> int:
        """Start the generation after that of ``entry``, which makes claims on the old one void.

        A worker that has the claim may still write to the remote or delete there. Until it lets go
        of the row, or its lease has certainly ended, no other worker claims the new generation.
        """
        form = (_first_state(held, prepares), entry.is_deleted, entry.is_local, is_local)
        values = _content_values(content, task, place, priority)
        values |= {"id": entry.pk, "generation": entry.generation}
        return statement(self, overwrite_text, *form, **values).execute()

    def fill_place(self, pks: Collection[int], place: int) -> int:
        """Record the place of files that were saved by earlier versions.

        Rows that are locked are left out, so this never waits for the transaction of a request,
        nor ends it by a deadlock. No condition of a claim compares the place: claims stay valid.
        """
        unplaced = self.filter(place=None)
        with self.locking():
            unlocked = list(unplaced.filter(pk__in=pks).unlocked_keys())
            return unplaced.filter(pk__in=unlocked).update(place=place) if unlocked else 0

    def lock_generation(self, pk: int, generation: int) -> int:
        """Lock a row until the end of the transaction, unless it has another generation or its
        file was deleted."""
        return statement(self, lock_text, id=pk, generation=generation).execute()

    def make_due(self) -> int:
        """Make these files due now and reset their retry count."""
        return self.untransferred().update(due_at=when_unclaimed(), state=State.PENDING, attempts=0)

    def mark_task_called(self, pk: int) -> int:
        """Record that the ``delay()`` method of the storage's task was called for the file.

        From then on the file may be on the remote.
        """
        size = Cast("size", models.CharField())
        sending = Concat(size, Value(" "), "checksum", Value(" "))  # under no lease
        called = self.filter(pk=pk, state=State.PENDING, attempts=0)
        return called.update(attempts=1, unconfirmed=sending)

    def mark_deleting(self) -> int:
        """Turn these rows into tombstones."""
        living = self.exclude(state=State.DELETING)
        return living.update(
            due_at=when_unclaimed(), state=State.DELETING, attempts=0, last_error=""
        )

    def mark_deleting_if_unchanged(self, row: QueuedFile) -> int:
        """Turn a row into a tombstone, unless it has changed in the meantime."""
        return self.under_claim(Claim.of(row)).filter(is_local=row.is_local).mark_deleting()

    def mark_local_dropped(
        self, pk: int, generation: int, *, even_unconfirmed: bool = False
    ) -> int:
        """Record that the local copy of a tombstone, on this host, is gone."""
        rows = self.filter(pk=pk, generation=generation, state=State.DELETING, is_local=True)
        if not even_unconfirmed:
            rows = rows.filter(unconfirmed="")
        return rows.workable_here().update(is_local=False)


def _content_values(
    content: Content, task: str, place: int | None, priority: int
) -> dict[str, Any]:
    return {
        "task": task,
        "place": place,
        "priority": priority,
        "size": content.size,
        "checksum": content.checksum,
        "content_type": content.content_type,
        "host": settings.host,
    }


def _first_state(held: bool, prepares: bool) -> State:
    """The state of new content; one that has to pass steps is held after them."""
    if prepares:
        return State.PREPARING
    return State.HELD if held else State.PENDING


@lru_cache(64)  # it has a few forms, and building one takes as long as executing it
def _insert_statement(
    database: str, table: str, columns: tuple[str, ...], times: tuple[str, ...], now: str
) -> str:
    """Return an INSERT that does nothing if the name is taken; on MySQL, it fails."""
    connection = connections[database]
    quote = connection.ops.quote_name
    places = dict.fromkeys(columns, "%s") | dict.fromkeys(times, now) | _AT_FIRST
    into = f"INTO {quote(table)} ({', '.join(map(quote, places))})"
    values = f"VALUES ({', '.join(places.values())})"
    if connection.vendor == "mysql":  # INSERT IGNORE would store a value for what it must refuse
        return f"INSERT {into} {values}"
    statement = f"INSERT {into} {values} ON CONFLICT DO NOTHING"
    if connection.vendor == "postgresql":
        return f"{statement} RETURNING {quote('id')}"
    return statement
