"""The index of files that have something to do."""

import pytest
from django.core.checks import run_checks
from django.db import connection, models
from django.db.migrations.writer import MigrationWriter

from queued_storage.ledger.sql.partial import PartialIndex
from queued_storage.models import QueuedFile

INDEX = PartialIndex(
    fields=["alias", "due_at"], name="some_index", where=models.Q(due_at__isnull=False)
)
# SQLite's editor refuses transactions.
pytestmark = pytest.mark.django_db(transaction=True)


def test_it_has_a_condition_where_the_database_knows_conditions() -> None:
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        sql = str(INDEX.create_sql(QueuedFile, editor))
    is_able = connection.features.supports_partial_indexes
    assert is_able == (connection.vendor != "mysql")
    assert sql.endswith('WHERE "due_at" IS NOT NULL') == is_able
    assert "CREATE INDEX" in sql
    assert "some_index" in sql


def test_no_check_warns_of_it() -> None:
    warned = run_checks(databases=["default"])
    assert [each for each in warned if each.id == "models.W037" and each.obj is QueuedFile] == []


def test_a_migration_can_be_written_with_it() -> None:
    text, imports = MigrationWriter.serialize(INDEX)
    assert "where=models.Q(('due_at__isnull', False))" in text
    assert "import queued_storage.ledger.sql.partial" in imports
    assert INDEX.clone() == INDEX
    other = PartialIndex(fields=INDEX.fields, name=INDEX.name, where=models.Q(due_at__isnull=True))
    assert other != INDEX
