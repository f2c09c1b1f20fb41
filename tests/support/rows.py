"""Rows of the ledger in a given state, for tests of its methods."""

from datetime import datetime
from typing import Any

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.sql.clock import DatabaseNow, seconds_from_now
from queued_storage.ledger.states import Content, State

FIELDS = [field.attname for field in QueuedFile._meta.concrete_fields]
OLD = Content(5, "crc32:00000005", "text/plain")
NEW = Content(7, "crc32:00000007", "text/html")
LEASE = 60


def now() -> datetime:
    moment: datetime = ledger().annotate(now=DatabaseNow()).values_list("now", flat=True)[0]
    return moment


def is_about(time: datetime | None, seconds: float) -> bool:
    """Return whether a time is about this many seconds from now, by the database's clock."""
    return time is not None and abs((time - now()).total_seconds() - seconds) < 5


def snapshot() -> list[dict[str, Any]]:
    return list(QueuedFile.objects.order_by("pk").values())


def changed(before: list[dict[str, Any]]) -> set[str]:
    """Return the columns of the only row that changed."""
    [old], [new] = before, snapshot()
    return {name for name in FIELDS if old[name] != new[name]}


def new_row(name: str = "a.txt", alias: str = "one", **columns: Any) -> QueuedFile:
    pk = ledger().record(alias, name, OLD, held=False)
    assert pk is not None
    ledger().filter(pk=pk).update(**columns)
    return QueuedFile.objects.get(pk=pk)


def past(seconds: float = 3600) -> Any:
    return seconds_from_now(-seconds)


def claimed(state: str = State.TRANSFERRING) -> QueuedFile:
    """Return a row in this state with a lease."""
    before = State.PENDING if state == State.TRANSFERRING else state
    row = ledger().claim(new_row(state=before, due_at=past()).pk)
    assert row is not None
    return row


def ask_for_delete() -> int:
    return ledger().mark_deleting()


def ask_for_new_content() -> int:
    return overwrite()


def overwrite(name: str = "a.txt", *, held: bool = False) -> int:
    """Start a new generation; 0 for a name without a row."""
    entry = ledger().entry("one", name)
    return ledger().overwrite(entry, NEW, held=held) if entry else 0
