"""Checks of the database that holds the ledger."""

from collections.abc import Iterator

from django.apps import apps
from django.core.checks import CheckMessage, Warning
from django.db import router
from django.db.models import FileField

from ..ledger.aliases import AliasedStorage
from ..ledger.database import ledger_database
from .registration import check


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
                    "database router. See the docs, under 'Databases'.",
                    obj=field,
                    id="queued_storage.W003",
                )
