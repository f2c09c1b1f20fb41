"""The locks that each migration takes on PostgreSQL, as the page about databases has them."""

import re
from collections.abc import Iterator

import pytest
from django.db import connection, migrations, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from tests.support.versions import later_migrations
from tests.test_docs import code, section, tables

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL only"),
]

TABLE = "queued_storage_queuedfile"
# From the weakest to the strongest
MODES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
CONCURRENTLY = "SHARE UPDATE EXCLUSIVE"  # of CREATE INDEX and DROP INDEX, says PostgreSQL


@pytest.fixture(autouse=True)
def empty_schema() -> Iterator[None]:
    """A schema in which no migration has run."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA locks")
        cursor.execute("SET search_path TO locks")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET search_path")
            cursor.execute("DROP SCHEMA locks CASCADE")


def test_each_migration_takes_the_documented_lock() -> None:
    [rows] = tables(section("databases", "What each migration locks"))
    documented = {code(row[0]): row[2] for row in rows[1:]}
    later = list(later_migrations())
    [(app, initial)] = later[0][0].dependencies
    with connection.schema_editor() as editor:
        MigrationLoader(None).graph.nodes[app, initial].apply(ProjectState(), editor)
    assert {migration.name: lock_of(migration, state) for migration, state in later} == {
        name: lock for name, lock in documented.items() if name != initial
    }


def lock_of(migration: migrations.Migration, state: ProjectState) -> str:
    """Apply a migration; return the strongest lock on the ledger that it took, or "none"."""
    if not migration.atomic:
        with connection.schema_editor(atomic=False, collect_sql=True) as editor:
            migration.apply(state.clone(), editor, collect_sql=True)
        statements = [
            each for each in editor.collected_sql if TABLE in each or "DROP INDEX" in each
        ]
        assert statements
        assert all("CONCURRENTLY" in each for each in statements)
        with connection.schema_editor(atomic=False) as editor:
            migration.apply(state.clone(), editor)
        return CONCURRENTLY
    with transaction.atomic():
        with connection.schema_editor() as editor:
            migration.apply(state.clone(), editor)
        return strongest()


def strongest() -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = %s::regclass",
            [TABLE],
        )
        modes = [spelled(mode) for (mode,) in cursor]
    taken = [mode for mode in modes if MODES.index(mode) > MODES.index("ROW EXCLUSIVE")]
    return max(taken, key=MODES.index, default="none")


def spelled(mode: str) -> str:
    """Return a mode of ``pg_locks``, such as "ShareLock", as the documentation spells it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()
