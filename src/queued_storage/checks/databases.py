"""Checks of the database that holds the ledger."""

import sys
from collections.abc import Collection, Iterator
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Warning
from django.db import connections, router
from django.db.models import FileField

from ..ledger import schema
from ..ledger.aliases import AliasedStorage
from ..ledger.database import ledger_database
from ..ledger.remotes import remotes
from ..operations.places import moved_storages
from ..remotes.classes import LIBRARY
from ..runtime.documentation import see
from ..storage.composition import ComposedStorage
from .registration import ALWAYS, check, settings_problem, storages


@check
def ledger_is_beside_the_models() -> Iterator[CheckMessage]:
    for model in apps.get_models():
        for field in model._meta.get_fields():
            if not isinstance(field, FileField) or not isinstance(field.storage, AliasedStorage):
                continue
            database = router.db_for_write(model)
            if database != ledger_database():
                yield Warning(
                    f"{field} is written to the database {database!r}, but the ledger is in "
                    f"{ledger_database()!r}: a rolled-back save would still be transferred.",
                    hint="Use the same database: set QUEUED_STORAGE['DATABASE'], or change your "
                    f"database router. {see('databases#choosing-a-database')}",
                    obj=field,
                    id="queued_storage.W003",
                )


@ALWAYS.append
def files_are_where_storages_look(
    databases: Collection[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Nothing is reported while the database does not answer, or lacks the tables.

    Libraries that take long to import are imported only where Django checks the database, and for
    storages that have uploaded files.
    """
    if settings_problem():
        return []
    is_asked = ledger_database() in (databases or ())
    try:
        used = set(remotes().values_list("alias", flat=True)) if is_asked else set()
        asked = (each for each in storages() if _is_made(each) or each.alias in used)
        moved = list(moved_storages(asked))
    except Exception:  # also where a test forbids queries
        return []
    return [
        Warning(
            sentence,
            hint=see("moving#if-the-place-has-changed-without-previous"),
            obj=storage,
            id="queued_storage.W008",
        )
        for storage, sentence in moved
    ]


def _is_made(storage: ComposedStorage) -> bool:
    """Whether the remote can be made without importing a library."""
    path, _options = storage.sides.remote.specification()
    return not (isinstance(path, str) and path.startswith(LIBRARY)) or (
        path.rpartition(".")[0] in sys.modules
    )


def ledger_is_migrated(
    databases: Collection[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    if settings_problem() or ledger_database() not in (databases or ()) or _is_migrating():
        return []
    try:
        problem = schema.problem()
    except Exception:  # the database is away, or a test forbids queries
        return []
    if not problem:
        return []
    # Not an error, which would keep 'migrate' from running
    return [
        Warning(problem, hint=see("quickstart#check-the-configuration"), id="queued_storage.W015")
    ]


def _is_migrating() -> bool:
    """Whether this is ``manage.py migrate``, which runs the checks before it creates the tables."""
    return sys.argv[1:2] == ["migrate"]


SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL",
}


@check
def sqlite_transactions_wait() -> Iterator[CheckMessage]:
    database = ledger_database()
    if database not in connections:
        return
    connection: Any = connections[database]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode")
    if str(mode or "DEFERRED").upper() == "DEFERRED":
        yield Warning(
            f"The database {database!r} begins transactions without the lock for writing. A "
            "request that reads and then writes in one transaction fails with 'database is locked' "
            "if a background thread or a worker has written to the database in between.",
            hint=f"In settings.DATABASES[{database!r}], set 'OPTIONS': {SQLITE_OPTIONS}. "
            f"{see('databases#sqlite-notes')}",
            id="queued_storage.W007",
        )
