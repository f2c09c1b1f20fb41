"""Statements whose SQL is compiled once."""

from typing import Any

import pytest
from django.core.exceptions import EmptyResultSet
from django.db import OperationalError, connection
from django.db.models import F, Value
from django.db.models.functions import Concat
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import statements
from queued_storage.ledger.sql.statements import (
    Parameter,
    Statement,
    Text,
    first_text,
    returns_rows,
    statement,
    update_text,
)
from queued_storage.ledger.states import Content, State
from queued_storage.models import QueuedFile

pytestmark = pytest.mark.django_db

FIELDS = QueuedFile._meta.concrete_fields


def parameter(name: str) -> Any:
    return Parameter(name, QueuedFile._meta.get_field(name))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Text]:
    """The cache, empty at first."""
    monkeypatch.setattr(statements, "_texts", texts := {})
    return texts


@pytest.fixture
def row() -> QueuedFile:
    pk = ledger().record("one", "a.txt", Content(3, "crc32:00000001"), held=False)
    return QueuedFile.objects.get(pk=pk)


built: list[object] = []


def renaming(rows: Any, form: object) -> Text:
    built.append(form)
    columns = {"remote_name": parameter("remote_name"), "sent": 7}
    fields = FIELDS if form == "returning" else ()
    return update_text(rows.filter(pk=parameter("id")), columns, fields)


def rename(form: str, pk: int, remote_name: str) -> Statement:
    return statement(ledger(), renaming, form, id=pk, remote_name=remote_name)


def test_a_text_serves_many_values(row: QueuedFile) -> None:
    built.clear()
    assert rename("once", row.pk, "b.txt").execute() == 1
    assert rename("once", row.pk, "it's %s").execute() == 1
    assert rename("once", row.pk + 1, "c.txt").execute() == 0
    row.refresh_from_db()
    assert (row.remote_name, row.sent, built) == ("it's %s", 7, ["once"])


def test_compiling_executes_nothing(row: QueuedFile, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        rename("unsent", row.pk, "b.txt")
    row.refresh_from_db()
    assert (row.remote_name, row.sent) == ("", 0)


def test_the_text_is_what_update_executes(row: QueuedFile, django_assert_num_queries: Any) -> None:
    compiled = rename("update", row.pk, "b.txt")
    with django_assert_num_queries(2) as captured:
        ledger().filter(pk=row.pk).update(remote_name="b.txt", sent=7)
        assert compiled.execute() == 1
    first, second = captured.captured_queries
    assert first["sql"] == second["sql"]


def test_a_select_returns_its_first_column(row: QueuedFile) -> None:
    def named(rows: Any) -> Text:
        return first_text(
            [rows.filter(name=parameter("name")).values_list("pk", "name")], ["name"], 9
        )

    assert statement(ledger(), named, name="a.txt").first_column() == [row.pk]
    assert statement(ledger(), named, name="b.txt").first_column() == []


def test_many_keys_are_parameters(row: QueuedFile) -> None:
    def among(rows: Any, count: int) -> Text:
        field: Any = QueuedFile._meta.pk
        keys = [Parameter(f"id {number}", field) for number in range(count)]
        return first_text([rows.filter(pk__in=keys).values_list("pk")], ["id"], 9)

    values = {"id 0": row.pk + 1, "id 1": row.pk}
    assert statement(ledger(), among, 2, **values).first_column() == [row.pk]


def test_a_parameter_may_stand_in_an_expression(row: QueuedFile) -> None:
    def suffixing(rows: Any) -> Text:
        name = Concat(F("name"), Value(" "), parameter("remote_name"))
        return update_text(rows.filter(pk=parameter("id")), {"remote_name": name})

    assert statement(ledger(), suffixing, id=row.pk, remote_name="100%").execute() == 1
    row.refresh_from_db()
    assert row.remote_name == "a.txt 100%"


@pytest.mark.parametrize("values", [{}, {"id": 1, "remote_name": "b.txt"}, {"remote_name": ""}])
def test_each_parameter_needs_one_value(values: dict[str, Any]) -> None:
    def clearing(rows: Any) -> Text:
        return update_text(rows.filter(pk=parameter("id")), {"remote_name": ""})

    with pytest.raises(ValueError, match=r"takes \{'id'\}, not"):
        statement(ledger(), clearing, **values)


def test_a_value_derived_from_a_parameter_is_refused(row: QueuedFile) -> None:
    def deriving(rows: Any) -> Text:
        name = Value(f"{parameter('remote_name')}!")
        return update_text(rows.filter(pk=parameter("id")), {"remote_name": name})

    with pytest.raises(ValueError, match=r"takes \{'id'\}, not"):
        statement(ledger(), deriving, id=row.pk, remote_name="b.txt")


def test_a_statement_without_rows_is_an_error() -> None:
    with pytest.raises(EmptyResultSet):
        statement(ledger(), lambda rows: update_text(rows.none(), {"sent": 1}))


def test_a_filtered_queryset_is_refused(row: QueuedFile) -> None:
    with pytest.raises(ValueError, match="whole table"):
        statement(ledger().filter(alias="one"), renaming, "part", id=row.pk, remote_name="b.txt")


@pytest.mark.parametrize(
    "change",
    [{"LEASE": 7}, {"LOCAL_PER_HOST": True, "HOST": "a"}, {"LOCAL_PER_HOST": True, "HOST": "b"}],
    ids=str,
)
def test_a_setting_has_its_own_text(
    row: QueuedFile, settings: Settings, change: dict[str, Any]
) -> None:
    rename("setting", row.pk, "b.txt")
    built.clear()
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | change
    rename("setting", row.pk, "b.txt")
    rename("setting", row.pk, "b.txt")
    assert built == ["setting"]


def test_a_text_is_dropped_if_settings_changed_meanwhile(
    row: QueuedFile, settings: Settings, texts: dict[Any, Text]
) -> None:
    """For example if a thread renews a lease while a test sets a different one."""

    def changing(rows: Any) -> Text:
        settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LEASE": len(built) + 10}
        return renaming(rows, "changing")

    def rename() -> int:
        return statement(ledger(), changing, id=row.pk, remote_name="b.txt").execute()

    built.clear()
    assert rename() == 1
    assert texts == {}


def test_the_cache_has_a_limit(
    row: QueuedFile, monkeypatch: pytest.MonkeyPatch, texts: dict[Any, Text]
) -> None:
    monkeypatch.setattr(statements, "CACHE_SIZE", 2)
    for number in range(5):
        assert rename(f"many {number}", row.pk, "b.txt").execute() == 1
        assert len(texts) <= 2


def test_returned_rows_are_as_selected(row: QueuedFile) -> None:
    assert returns_rows("default") == (connection.vendor != "mysql")
    if not returns_rows("default"):
        return
    [changed] = rename("returning", row.pk, "b.txt").instances(QueuedFile)
    found = QueuedFile.objects.get(pk=row.pk)
    assert vars(changed).keys() == vars(found).keys()
    for field in FIELDS:
        assert getattr(changed, field.attname) == getattr(found, field.attname), field.name
    assert (changed.state, changed.failures, changed.is_local) == (State.PENDING, [], True)
    assert rename("returning", row.pk + 1, "c.txt").instances(QueuedFile) == []


@pytest.mark.django_db(transaction=True)
def test_a_statement_is_repeated_after_an_outage(row: QueuedFile) -> None:
    failures = [OperationalError("deadlock")]

    def fail_once(execute: Any, *args: Any) -> Any:
        if failures:
            raise failures.pop()
        return execute(*args)

    with connection.execute_wrapper(fail_once):
        assert rename("repeated", row.pk, "b.txt").execute() == 1
    assert failures == []
