"""What a rolling upgrade leads to: tables, states and code of another version of the package."""

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from queued_storage.ledger.migrating import AddIndexWithoutLock, RemoveIndexWithoutLock
from queued_storage.ledger.models import QueuedFile

ROOT = Path(__file__).parent.parent.parent
UNKNOWN_STATES = ("checking", "approved", "aaa", "zzz")  # around those of this version
APP = "queued_storage"

# The last migration of earlier versions, each with a commit that has no later one. Processes of
# these versions are tested beside today's.
VERSIONS = {
    "0001_initial": "76654bd",
    "0002_job": "b22cc8e",
    "0003_remote": "fbbce77",
    "0004_due_by_alias": "2b31d1f",
    "0005_remove_due": "3a9aeb1",
    "0006_copy": "c785dd9",
    "0007_localside": "1149137",
    "0008_preparation": "ca70976",
    "0009_throughput": "97ca236",
}
# Those that were in use for longer than a day, and the last one
UPGRADED = ("0001_initial", "0002_job", list(VERSIONS)[-1])


# Tables


@contextlib.contextmanager
def newer_table(**fields: models.Field) -> Iterator[None]:
    """Add columns that this version doesn't know, as the migrations of a newer one would."""
    known = {field.name for field in QueuedFile._meta.get_fields()}
    assert known.isdisjoint(fields), "This version knows the column, and would lose it here."
    with contextlib.ExitStack() as stack:
        for name, field in fields.items():
            _named(field, name)
            with _editor() as editor:
                editor.add_field(QueuedFile, field)
            stack.callback(_drop, field)
        yield


@contextlib.contextmanager
def older_table(column: str) -> Iterator[None]:
    """Take a column away, as if this version had added it and wasn't migrated yet."""
    field = QueuedFile._meta.get_field(column)
    missing: Any = field.clone()
    _named(missing, f"{column}_of_later")
    with _editor() as editor:
        editor.alter_field(QueuedFile, field, missing)
    try:
        yield
    finally:
        with _editor() as editor:
            editor.alter_field(QueuedFile, missing, field)


@contextlib.contextmanager
def no_table(model: type[models.Model] = QueuedFile) -> Iterator[None]:
    """Take a table away, as if the migration that creates it hadn't run yet."""
    table = model._meta.db_table
    with _editor() as editor:
        editor.alter_db_table(model, table, f"{table}_of_later")
    try:
        yield
    finally:
        with _editor() as editor:
            editor.alter_db_table(model, f"{table}_of_later", table)


def _named(field: models.Field, name: str) -> None:
    field.set_attributes_from_name(name)
    field.model = QueuedFile


def _drop(field: models.Field) -> None:
    with _editor() as editor:
        editor.remove_field(QueuedFile, field)


def _editor() -> Any:
    return connection.schema_editor(atomic=connection.features.can_rollback_ddl)


# Migrations


def later_migrations() -> Iterator[tuple[migrations.Migration, ProjectState]]:
    """Yield the migrations after the first, each with the state of the models before it."""
    loader = MigrationLoader(None)
    for key in loader.graph.forwards_plan(_last(loader)):
        migration = loader.graph.nodes[key]
        if key[0] == APP and not migration.initial:
            yield migration, loader.project_state(key, at_end=False)


def earlier_names() -> list[str]:
    """Return the names of all migrations but the last."""
    loader = MigrationLoader(None)
    keys = loader.graph.forwards_plan(_last(loader))
    return [name for app, name in keys if app == APP][:-1]


def last_state() -> ProjectState:
    loader = MigrationLoader(None)
    return loader.project_state(_last(loader))


def _last(loader: MigrationLoader) -> tuple[str, str]:
    [key] = loader.graph.leaf_nodes(APP)
    return key


def faults(migration: migrations.Migration, state: ProjectState) -> Iterator[str]:
    """Yield what in a migration would stop processes of the version before it."""
    for operation in migration.operations:
        # Without an index, processes of the version before do the same, only slower.
        if isinstance(operation, AddIndexWithoutLock | RemoveIndexWithoutLock):
            if migration.atomic:
                yield f"{operation.describe()}: the migration must have atomic = False."
        elif isinstance(operation, migrations.AddField):
            if not (operation.field.null or operation.field.has_db_default()):
                yield f"{operation.describe()}: the column must have a db_default or be nullable."
        elif isinstance(operation, migrations.AlterField):
            if _sql(migration, operation, state):
                yield f"{operation.describe()}: the column changes under old processes."
        elif not isinstance(operation, migrations.CreateModel | migrations.AlterModelOptions):
            yield f"{operation.describe()}: old processes may not go on with it."
        state = state.clone()
        operation.state_forwards(APP, state)


def _sql(migration: migrations.Migration, operation: Any, before: ProjectState) -> list[str]:
    after = before.clone()
    operation.state_forwards(APP, after)
    with connection.schema_editor(atomic=False, collect_sql=True) as editor:
        operation.database_forwards(APP, editor, before, after)
    return [line for line in editor.collected_sql if not line.startswith("--")]


# Code


def checkout(commit: str, directory: Path) -> Path | None:
    """Unpack the package of an older commit; return the directory to import it from, or None
    without the history."""
    command = ["git", "archive", commit, f"src/{APP}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    if done.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory / "src"
