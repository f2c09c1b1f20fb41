from django.db import migrations

from queued_storage.ledger.migrating import RemoveIndexWithoutLock


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("queued_storage", "0004_due_by_alias"),
    ]

    operations = [
        RemoveIndexWithoutLock("queuedfile", "queued_storage_due"),
    ]
