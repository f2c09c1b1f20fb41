"""Whether the database has the tables and columns that this version uses."""

import threading
import time
from typing import Any

from django.apps import apps
from django.db import DatabaseError, Error, ProgrammingError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from ..reporting.logs import logger
from .database import ledger_database

REPEAT_AFTER = 600.0  # seconds between two log records about the same table or column

_lock = threading.Lock()
_reported = ("", 0.0)  # the last record, and when it was logged


def _models() -> list[type[models.Model]]:
    return list(apps.get_app_config("queued_storage").get_models())


_migrated: set[tuple[str, str]] = set()  # databases and tables that they have


def has_table(model: type[models.Model]) -> bool:
    """Whether the database has the table of a model, which it has not before its migration."""
    database, table = ledger_database(), model._meta.db_table
    if (database, table) not in _migrated:
        if table not in connections[database].introspection.table_names():
            return False
        _migrated.add((database, table))
    return True


def probe() -> None:
    """Read every column of every table; raise ``DatabaseError`` if the database lacks one."""
    for model in _models():
        list(models.QuerySet(model, using=ledger_database()).filter(pk=0))


def problem() -> str:
    """Return which table or column is missing, and what to do; "" if the database has them all."""
    return _problem_of(connections[ledger_database()])


def _problem_of(connection: BaseDatabaseWrapper) -> str:
    missing = _missing(connection)
    if not missing:
        return ""
    database = connection.alias
    option = "" if database == "default" else f" --database {database}"
    return f"The database {database!r} does not have {missing}. Run 'manage.py migrate{option}'."


def _missing(connection: Any) -> str:
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        for model in _models():
            table = model._meta.db_table
            if table not in tables:
                return f"the table {table!r} of the ledger"
            columns = _columns_of(model, connection, cursor)
            for field in model._meta.local_concrete_fields:
                if field.column not in columns:
                    return f"the column {field.column!r} of the ledger's table {table!r}"
    return ""


def _columns_of(model: type[models.Model], connection: Any, cursor: Any) -> set[str]:
    """Return the names of a table's columns.

    Django's introspection asks for more, on SQLite with a dozen statements for each table.
    """
    quote = connection.ops.quote_name
    cursor.execute(
        f"SELECT * FROM {quote(model._meta.db_table)} WHERE {quote(model._meta.pk.column)} = 0"
    )
    return {column[0] for column in cursor.description}


def explanation(error: BaseException) -> str:
    """Return the problem if that is the reason of ``error``; otherwise ""."""
    if not isinstance(error, DatabaseError):
        return ""
    connection = connections[ledger_database()]
    if connection.vendor == "postgresql" and not isinstance(error, ProgrammingError):
        return ""  # such as a lost connection, a lock timeout or a deadlock
    try:
        return _problem_of(connection)
    except Error:  # the database is away, or the transaction is broken
        if not connection.in_atomic_block:
            return ""
    # After an error, PostgreSQL answers nothing more in this transaction.
    other = connection.copy()
    try:
        return _problem_of(other)
    except Error:
        return ""
    finally:
        other.close()


def is_explained(error: BaseException) -> bool:
    """Return whether a missing table or column is the reason of ``error``, and log that once.

    New code often starts before its migrations are run. A thread then waits for them.
    """
    global _reported
    text = explanation(error)
    if not text:
        return False
    with _lock:
        before, at = _reported
        if text != before or time.monotonic() - at > REPEAT_AFTER:
            _reported = (text, time.monotonic())
            logger.warning("%s No file is processed until then.", text)
    return True
