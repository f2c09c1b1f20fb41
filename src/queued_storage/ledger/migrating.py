"""Operations of migrations that other processes don't have to wait for."""

from typing import Any

from django.db import NotSupportedError
from django.db.migrations.operations import AddIndex, RemoveIndex


class AddIndexWithoutLock(AddIndex):
    """Add an index while other processes write to the table.

    PostgreSQL builds it concurrently. MySQL and MariaDB do so by themselves, and SQLite is locked
    while it builds the index. The migration must have ``atomic = False``. If it is interrupted,
    it can be run again: a finished index is kept, and an unfinished one is built anew.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        options = _options(schema_editor)
        if not schema_editor.collect_sql:  # otherwise the SQL is only shown
            if _is_there(schema_editor.connection, model, self.index.name):
                return
            if options:
                schema_editor.execute(_drop(schema_editor, self.index.name))
        schema_editor.add_index(model, self.index, **options)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            schema_editor.remove_index(model, self.index, **_options(schema_editor))

    def describe(self) -> str:
        return f"{super().describe()}, without locking the table"


class RemoveIndexWithoutLock(RemoveIndex):
    """Remove an index while other processes read and write the table.

    PostgreSQL drops it concurrently; a statement that runs for long only delays the migration. The
    migration must have ``atomic = False``, and can be run again if it is interrupted.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        connection = schema_editor.connection
        model = from_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(connection.alias, model):
            return
        if _options(schema_editor):
            schema_editor.execute(_drop(schema_editor, self.name))
        elif schema_editor.collect_sql or _is_there(connection, model, self.name):
            schema_editor.remove_index(model, self._index(from_state, app_label))

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        adding = AddIndexWithoutLock(self.model_name, self._index(to_state, app_label))
        adding.database_forwards(app_label, schema_editor, from_state, to_state)

    def _index(self, state: Any, app_label: str) -> Any:
        model_state = state.models[app_label, self.model_name_lower]
        return model_state.get_index_by_name(self.name)

    def describe(self) -> str:
        return f"{super().describe()}, without locking the table"


def _options(schema_editor: Any) -> dict[str, bool]:
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return {}
    if connection.in_atomic_block:
        raise NotSupportedError(
            "A migration that adds or removes an index without a lock must have atomic = False."
        )
    return {"concurrently": True}


def _is_there(connection: Any, model: Any, name: str) -> bool:
    """Whether the table has the whole index."""
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            table = model._meta.db_table
            return name in connection.introspection.get_constraints(cursor, table)
        quoted = connection.ops.quote_name(name)
        cursor.execute(
            "SELECT 1 FROM pg_index WHERE indisvalid AND indexrelid = to_regclass(%s)", [quoted]
        )
        return cursor.fetchone() is not None


def _drop(schema_editor: Any, name: str) -> str:
    """The SQL that drops what an interrupted build has left behind."""
    return f"DROP INDEX CONCURRENTLY IF EXISTS {schema_editor.quote_name(name)}"
