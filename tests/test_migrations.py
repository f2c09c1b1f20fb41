"""What every migration after the first must keep to, so that old and new processes overlap."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import migrations, models

from queued_storage.ledger.migrating import AddIndexWithoutLock, RemoveIndexWithoutLock
from tests.support.versions import VERSIONS, earlier_names, faults, last_state, later_migrations

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_models_have_all_migrations() -> None:
    call_command("makemigrations", "queued_storage", check=True, dry_run=True, verbosity=0)


def test_old_processes_go_on_after_each_migration() -> None:
    assert {
        migration.name: found
        for migration, state in later_migrations()
        if (found := list(faults(migration, state)))
    } == {}


def test_the_version_before_each_migration_is_tested() -> None:
    assert list(VERSIONS) == earlier_names()


def test_each_migration_can_be_undone_and_repeated() -> None:
    for migration, _state in later_migrations():
        assert all(operation.reversible for operation in migration.operations), migration.name


def field(**options: Any) -> models.Field:
    return models.PositiveIntegerField(**options)


MODEL = "queuedfile"
INDEX = models.Index(fields=["size"], name="queued_storage_x")
STATE = models.CharField(max_length=16, default="pending", choices=[("checking", "checking")])
FINE: dict[str, Callable[[], Any]] = {
    "null": lambda: migrations.AddField(MODEL, "priority", field(null=True)),
    "db_default": lambda: migrations.AddField(MODEL, "priority", field(db_default=5)),
    "choices": lambda: migrations.AlterField(MODEL, "state", STATE),
    "new table": lambda: migrations.CreateModel("Place", [("id", models.BigAutoField())]),
    "index": lambda: AddIndexWithoutLock(MODEL, INDEX),
    "no index": lambda: RemoveIndexWithoutLock(MODEL, "queued_storage_state"),
}
FAULTY: dict[str, Callable[[], Any]] = {
    "no default": lambda: migrations.AddField(MODEL, "priority", field(default=5)),
    "locks": lambda: migrations.AddIndex(MODEL, INDEX),
    "locks for its end": lambda: migrations.RemoveIndex(MODEL, "queued_storage_state"),
    "removed": lambda: migrations.RemoveField(MODEL, "sent"),
    "renamed": lambda: migrations.RenameField(MODEL, "sent", "uploaded"),
    "altered": lambda: migrations.AlterField(MODEL, "sent", models.BigIntegerField(null=True)),
    "sql": lambda: migrations.RunSQL("DROP TABLE x"),
}


def checked(make: Callable[[], Any], *, atomic: bool) -> list[str]:
    migration = migrations.Migration("0009_example", "queued_storage")
    migration.operations, migration.atomic = [make()], atomic
    return list(faults(migration, last_state()))


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_fine_operations(make: Callable[[], Any]) -> None:
    assert checked(make, atomic=False) == []


@pytest.mark.parametrize("make", FAULTY.values(), ids=FAULTY)
def test_faulty_operations(make: Callable[[], Any]) -> None:
    assert len(checked(make, atomic=False)) == 1


@pytest.mark.parametrize("change", ["index", "no index"])
def test_an_index_in_a_transaction_is_a_fault(change: str) -> None:
    assert len(checked(FINE[change], atomic=True)) == 1
