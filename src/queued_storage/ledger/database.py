"""The rows of the ledger, with all its verbs."""

from django.db import router

from ..conf import settings
from .claims import Claims
from .models import QueuedFile
from .orders import Orders
from .records import Records


def ledger_database() -> str:
    """The alias of the database that holds the ledger."""
    return settings.database or router.db_for_write(QueuedFile)


# To django-stubs each base returns a manager of its own class.
class QueuedFileQuerySet(Records, Orders, Claims):  # type: ignore[override]
    """The rows of the ledger, with all its verbs."""


def ledger() -> QueuedFileQuerySet:
    """The rows, in the database that holds them."""
    # As QueuedFile.objects.using() has it, at a third of the price
    return QueuedFileQuerySet(QueuedFile, using=ledger_database())
