from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("queued_storage", "0004_due_by_alias"),
    ]

    operations = [
        migrations.AddField(
            model_name="remote",
            name="is_probed_by_files",
            field=models.BooleanField(db_default=False, verbose_name="probed by files"),
        ),
    ]
