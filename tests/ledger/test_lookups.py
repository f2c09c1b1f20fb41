"""Look-ups of single files, whose SQL is compiled once."""

from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import statements
from queued_storage.ledger.states import ENTRY_FIELDS, Content, State
from queued_storage.models import QueuedFile

pytestmark = pytest.mark.django_db


@pytest.fixture
def row() -> QueuedFile:
    pk = ledger().record("one", "it's 100%.txt", Content(3, "crc32:00000001"), held=False, place=7)
    ledger().record("two", "it's 100%.txt", Content(4, "crc32:00000002"), held=False)
    return QueuedFile.objects.get(pk=pk)


@pytest.mark.parametrize("use_tz", [True, False])
def test_a_look_up_finds_what_the_orm_finds(
    row: QueuedFile, use_tz: bool, settings: Settings
) -> None:
    settings.USE_TZ = use_tz
    row = QueuedFile.objects.get(pk=row.pk)
    found = ledger().lookup("one", row.name)
    assert found is not None
    assert vars(found).keys() == vars(row).keys()
    for field in QueuedFile._meta.concrete_fields:
        assert getattr(found, field.attname) == getattr(row, field.attname), field.name
    entry = ledger().entry("one", row.name)
    assert entry is not None
    for name in ENTRY_FIELDS:
        assert getattr(entry, name) == getattr(row, name), name
        assert type(getattr(entry, name)) is type(getattr(row, name)), name


def test_a_look_up_of_another_file_finds_nothing(row: QueuedFile) -> None:
    assert ledger().lookup("one", "b.txt") is None
    assert ledger().lookup("three", row.name) is None
    assert ledger().entry("one", "b.txt") is None
    assert ledger().entry("three", row.name) is None


def test_look_ups_are_compiled_once(
    row: QueuedFile, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(statements, "_texts", {})

    def look() -> None:
        assert ledger().lookup("one", row.name) is not None
        assert ledger().entry("one", row.name) is not None
        assert ledger().is_still_local(row)

    look()
    compiled = dict(statements._texts)
    assert len(compiled) == 3
    with django_assert_num_queries(3):
        look()
    assert statements._texts == compiled


def test_a_locking_look_up_has_a_text_of_its_own(
    row: QueuedFile, django_assert_num_queries: Any
) -> None:
    ledger().entry("one", row.name)
    with transaction.atomic(), django_assert_num_queries(1) as captured:
        assert ledger().select_for_update().entry("one", row.name) is not None
    [query] = captured.captured_queries
    assert ("FOR UPDATE" in query["sql"]) == connection.features.has_select_for_update
    with django_assert_num_queries(1) as captured:
        assert ledger().entry("one", row.name) is not None
    [query] = captured.captured_queries
    assert "FOR UPDATE" not in query["sql"]


@pytest.mark.parametrize(
    "change",
    [{"generation": 2}, {"is_local": False}, {"state": State.DELETING}],
    ids=["overwritten", "evicted", "deleted"],
)
def test_a_changed_file_is_not_still_local(row: QueuedFile, change: dict[str, Any]) -> None:
    assert ledger().is_still_local(row)
    QueuedFile.objects.filter(pk=row.pk).update(**change)
    assert not ledger().is_still_local(row)


@pytest.mark.django_db(transaction=True)
def test_a_request_does_not_wait_for_the_end_of_an_outage(row: QueuedFile) -> None:
    failures: list[str] = []

    def fail(execute: Any, sql: str, *args: Any) -> Any:
        failures.append(sql)
        raise OperationalError("The database is away.")

    look_ups = [
        lambda: ledger().lookup("one", row.name),
        lambda: ledger().entry("one", row.name),
        lambda: ledger().is_still_local(row),
    ]
    with connection.execute_wrapper(fail):
        for look_up in look_ups:
            with pytest.raises(OperationalError):
                look_up()
    assert len(failures) == len(look_ups)  # none of them was repeated
