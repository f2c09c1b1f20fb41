"""The id by which this ledger is told from others that use the same places."""

import os
import uuid
from typing import Any

from django.core import mail
from django.db import connections, models
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _

from .database import in_transaction, is_in_memory, ledger_database

_ONLY = 1  # the primary key of the row with the id
PROGRESS = 2  # that of the row which tells how far places are filled in: see ``unplaced``


class LedgerIdentity(models.Model):
    """The id of this ledger, and how far its rows are upgraded: one row each.

    A copy of the database has them too.
    """

    id = models.PositiveSmallIntegerField(primary_key=True)
    uid = models.CharField(_("id"), max_length=32)

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("identity of the ledger")
        verbose_name_plural = _("identities of the ledger")
        default_permissions = ["view"]

    def __str__(self) -> str:
        return self.uid


def ledger_id(*, anew: bool = False) -> str:
    """Return the id of this ledger, which is made when it is first needed.

    A process asks the database once; ``anew`` asks it again.
    """
    database = ledger_database()
    key = (database, str(connections[database].settings_dict["NAME"]))
    if anew or key not in _ids:
        _ids[key] = _read_or_make(database)
    return _ids[key]


def is_for_tests() -> bool:
    """Return whether the ledger lives no longer than a run of tests, or than this process.

    Its database is in memory, or has the name that Django gives to a database for tests. Test
    runners that use several processes add the number of the process.
    """
    connection: Any = connections[ledger_database()]
    given = connection.settings_dict
    name = str(given["NAME"])
    chosen = given["TEST"].get("NAME")
    if chosen and name.startswith(os.path.splitext(chosen)[0]):
        return True
    if connection.vendor == "sqlite":
        return is_in_memory(connection)
    return name.startswith("test_")


def is_in_test_case() -> bool:
    """Return whether a ``TestCase`` runs, whose data no other connection sees.

    Django does not say that it tests. Only its test environment has an ``outbox``, unless the
    project sends its mail to the memory; and only the database of a test has such a name, unless
    the project chose it. A site that is no test never has both.
    """
    return hasattr(mail, "outbox") and is_for_tests() and in_transaction()


def _read_or_make(database: str) -> str:
    known: Any = models.QuerySet(LedgerIdentity, using=database).filter(pk=_ONLY)
    uid = known.values_list("uid", flat=True).first()
    if uid is None:
        new = LedgerIdentity(id=_ONLY, uid=uuid.uuid4().hex)
        known.bulk_create([new], ignore_conflicts=True)  # another process may have made one
        uid = known.all().values_list("uid", flat=True).get()
    return str(uid)


def _forget(**kwargs: object) -> None:
    """Forget the id after a flush, which removes the row."""
    _ids.clear()


_ids: dict[tuple[str, str], str] = {}
post_migrate.connect(_forget)
