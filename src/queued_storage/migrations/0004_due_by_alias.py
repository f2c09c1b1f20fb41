from django.db import migrations, models

from queued_storage.ledger.migrating import AddIndexWithoutLock


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("queued_storage", "0003_remote"),
    ]

    operations = [
        AddIndexWithoutLock(
            "queuedfile",
            models.Index(
                fields=["alias", "priority", "due_at", "host", "is_local", "id"],
                name="queued_storage_alias_due",
            ),
        ),
    ]
