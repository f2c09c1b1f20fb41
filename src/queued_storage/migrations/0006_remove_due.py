from django.db import migrations

from queued_storage.ledger.migrating import RemoveIndexWithoutLock


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("queued_storage", "0005_remote_probed_by_files"),
    ]

    operations = [
        RemoveIndexWithoutLock("queuedfile", "queued_storage_due"),
    ]
