from django.db import migrations, models

from queued_storage.ledger.migrating import AddIndexWithoutLock, RemoveIndexWithoutLock
from queued_storage.ledger.sql.partial import PartialIndex


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("queued_storage", "0009_throughput"),
    ]

    operations = [
        AddIndexWithoutLock(
            "queuedfile",
            PartialIndex(
                fields=["alias", "priority", "due_at", "host", "is_local", "id"],
                name="queued_storage_scheduled",
                where=models.Q(due_at__isnull=False),
            ),
        ),
        RemoveIndexWithoutLock("queuedfile", "queued_storage_alias_due"),
    ]
