"""Indexes that are added while other processes write."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, NotSupportedError, connection, connections, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from queued_storage.ledger.migrating import AddIndexWithoutLock, RemoveIndexWithoutLock
from queued_storage.models import QueuedFile
from tests.support.rows import new_row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

NAME = "queued_storage_test_index"
INDEX = models.Index(fields=["host", "size"], name=NAME)
ADD = AddIndexWithoutLock("QueuedFile", INDEX)
REMOVE = RemoveIndexWithoutLock("QueuedFile", NAME)


def migrate(*, forwards: bool = True, collect_sql: bool = False) -> list[str]:
    before = ProjectState.from_apps(QueuedFile._meta.apps)
    after = before.clone()
    ADD.state_forwards("queued_storage", after)
    with connection.schema_editor(atomic=False, collect_sql=collect_sql) as editor:
        if forwards:
            ADD.database_forwards("queued_storage", editor, before, after)
        else:
            ADD.database_backwards("queued_storage", editor, after, before)
    return editor.collected_sql if collect_sql else []


def indexes() -> list[str]:
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, QueuedFile._meta.db_table)
    return [name for name in found if name == NAME]


def remove(*, forwards: bool = True, collect_sql: bool = False) -> list[str]:
    """Run the operation that removes the index, or undo it."""
    after = ProjectState.from_apps(QueuedFile._meta.apps)
    before = after.clone()
    ADD.state_forwards("queued_storage", before)
    with connection.schema_editor(atomic=False, collect_sql=collect_sql) as editor:
        if forwards:
            REMOVE.database_forwards("queued_storage", editor, before, after)
        else:
            REMOVE.database_backwards("queued_storage", editor, after, before)
    return editor.collected_sql if collect_sql else []


errors: list[DatabaseError] = []  # of other threads


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    errors.clear()
    yield
    if indexes():
        migrate(forwards=False)


def test_the_index_is_added_and_removed() -> None:
    migrate()
    assert indexes() == [NAME]
    migrate()  # as after a process that died before the migration was recorded
    assert indexes() == [NAME]
    migrate(forwards=False)
    assert indexes() == []


def test_the_sql_can_be_shown() -> None:
    [sql] = [line for line in migrate(collect_sql=True) if NAME in line]
    assert ("CONCURRENTLY" in sql) == (connection.vendor == "postgresql")
    assert indexes() == []
    assert "without locking" in ADD.describe()


def test_an_index_is_removed_and_added_again() -> None:
    migrate()
    remove()
    assert indexes() == []
    remove()  # as after a process that died before the migration was recorded
    remove(forwards=False)
    assert indexes() == [NAME]


def test_the_sql_of_a_removal_can_be_shown() -> None:
    migrate()
    [sql] = [line for line in remove(collect_sql=True) if NAME in line]
    assert sql.startswith("DROP INDEX")
    assert ("CONCURRENTLY" in sql) == (connection.vendor == "postgresql")
    assert indexes() == [NAME]
    assert "without locking" in REMOVE.describe()


postgres = pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL only")


@postgres
def test_a_transaction_is_refused() -> None:
    with transaction.atomic(), pytest.raises(NotSupportedError, match="atomic = False"):
        migrate()


def run_aside(action: Callable[[], Any]) -> threading.Thread:
    def act() -> None:
        try:
            action()
        except DatabaseError as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def waiting(statement: str) -> list[int]:
    """Return the processes of the server whose statement waits for a transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database() AND query LIKE %s",
            [f"{statement}%"],
        )
        return [pid for (pid,) in cursor.fetchall()]


class OpenTransaction:
    """A transaction of another connection that has written a row."""

    def __init__(self) -> None:
        self._has_written, self._may_end = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self._thread = run_aside(self._write)
        assert self._has_written.wait(20)

    def __exit__(self, *args: object) -> None:
        self._may_end.set()
        self._thread.join()

    def _write(self) -> None:
        with transaction.atomic():
            new_row(f"open-{time.monotonic_ns()}.txt")
            self._has_written.set()
            assert self._may_end.wait(60)


@postgres
def test_files_are_saved_while_the_index_is_built() -> None:
    with OpenTransaction():
        building = run_aside(migrate)
        until(lambda: waiting("CREATE INDEX"))
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '5s'")
            new_row("meanwhile.txt")  # would wait for an ordinary index
            cursor.execute("SET statement_timeout = 0")
        assert building.is_alive()
    building.join()
    assert indexes() == [NAME]
    assert QueuedFile.objects.count() == 2


def interrupt(action: Callable[[], Any], statement: str) -> None:
    """Cancel a statement of the action while it waits for the transaction of a save."""
    errors.clear()
    with OpenTransaction():
        acting = run_aside(action)
        [pid] = until(lambda: waiting(statement))
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_cancel_backend(%s)", [pid])
        acting.join()
    assert ["canceling statement" in str(error) for error in errors] == [True]


def is_valid(name: str = NAME) -> bool | None:
    """Return whether queries use the index; None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [name])
        found = cursor.fetchone()
        return found[0] if found else None


@postgres
def test_an_interrupted_index_is_built_anew() -> None:
    interrupt(migrate, "CREATE INDEX")
    assert is_valid() is False
    migrate()
    assert is_valid() is True


@postgres
def test_an_interrupted_removal_can_be_repeated() -> None:
    migrate()
    interrupt(remove, "DROP INDEX")
    assert is_valid() is False
    remove()
    assert is_valid() is None


@postgres
def test_an_interrupted_removal_can_be_undone() -> None:
    migrate()
    interrupt(remove, "DROP INDEX")
    remove(forwards=False)
    assert is_valid() is True


@postgres
def test_an_interrupted_rebuilding_can_be_repeated() -> None:
    interrupt(migrate, "CREATE INDEX")
    interrupt(migrate, "DROP INDEX")  # of what is left of the index
    assert is_valid() is False
    migrate()
    assert is_valid() is True


OLD_DUE, NEW_DUE = "queued_storage_due", "queued_storage_alias_due"


def migrate_to(name: str) -> None:
    call_command("migrate", "queued_storage", name, verbosity=0)


@pytest.fixture
def as_before() -> Iterator[None]:
    """The tables as they were before the index of due files was replaced."""
    migrate_to("0003")
    try:
        yield
    finally:
        call_command("migrate", "queued_storage", verbosity=0)


def applied() -> list[str]:
    found = MigrationRecorder(connection).applied_migrations()
    return sorted(name[:4] for app, name in found if app == "queued_storage")


@postgres
def test_interrupted_migrations_can_be_repeated(as_before: None) -> None:
    interrupt(lambda: migrate_to("0005"), "CREATE INDEX")
    assert (applied()[-1], is_valid(OLD_DUE), is_valid(NEW_DUE)) == ("0003", True, False)
    interrupt(lambda: migrate_to("0005"), "DROP INDEX")  # of what is left of the new index
    migrate_to("0004")
    interrupt(lambda: migrate_to("0005"), "DROP INDEX")
    assert (applied()[-1], is_valid(OLD_DUE), is_valid(NEW_DUE)) == ("0004", False, True)
    migrate_to("0005")
    assert (applied()[-1], is_valid(OLD_DUE), is_valid(NEW_DUE)) == ("0005", None, True)
