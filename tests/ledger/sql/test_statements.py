"""Statements whose text is kept."""

from typing import Any

import pytest
from django.db import connection
from django.db.backends.signals import connection_created
from django.db.models import F, Value
from django.db.models.functions import Concat

from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql.statements import Statement, returns_rows, statement
from queued_storage.ledger.states import Content, State
from queued_storage.models import QueuedFile

pytestmark = pytest.mark.django_db


@pytest.fixture
def row() -> QueuedFile:
    pk = ledger().record("one", "a.txt", Content(3, "crc32:00000001"), held=False)
    return QueuedFile.objects.get(pk=pk)


def rename(key: str, pk: int, remote_name: str) -> Statement:
    def write(pk: int, remote_name: str) -> int:
        written.append(key)
        return QueuedFile.objects.filter(pk=pk).update(remote_name=remote_name, sent=7)

    return statement("default", lambda: key, write, pk, remote_name)


written: list[str] = []


def test_the_orm_writes_it_once_and_it_is_executed_with_other_values(row: QueuedFile) -> None:
    written.clear()
    assert rename("once", row.pk, "b.txt").execute() == 1
    assert rename("once", row.pk, "it's %s").execute() == 1
    assert rename("once", row.pk + 1, "c.txt").execute() == 0
    row.refresh_from_db()
    assert (row.remote_name, row.sent, written) == ("it's %s", 7, ["once"])


def test_to_write_it_sends_and_spoils_nothing(
    row: QueuedFile, django_assert_num_queries: Any
) -> None:
    seen: list[str] = []

    def look(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with django_assert_num_queries(0), connection.execute_wrapper(look):
        rename("unsent", row.pk, "b.txt")
    assert seen == connection.execute_wrappers == []
    assert not connection.needs_rollback
    row.refresh_from_db()
    assert (row.remote_name, row.sent) == ("", 0)


def test_what_django_asks_the_server_meanwhile_is_asked(row: QueuedFile) -> None:
    def write(pk: int) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 7")
            assert cursor.fetchone() == (7,)
        return QueuedFile.objects.filter(pk=pk).update(sent=7)

    assert statement("default", lambda: "asks", write, row.pk).sql.startswith("UPDATE")


@pytest.mark.django_db(transaction=True)
def test_a_new_connection_may_execute_statements(row: QueuedFile) -> None:
    def greet(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s", ["hello"])

    connection_created.connect(greet)
    try:
        connection.close()
        assert rename("new connection", row.pk, "b.txt").sql.startswith("UPDATE")
    finally:
        connection_created.disconnect(greet)


def test_what_was_written_while_its_key_changed_is_not_kept(row: QueuedFile) -> None:
    """As by a thread that renews a lease in the moment in which a test sets another one."""
    keys: list[str] = []
    now = {"key": ""}

    def write(pk: int) -> int:
        keys.append(now["key"])
        now["key"] = "new"
        return QueuedFile.objects.filter(pk=pk).update(sent=7)

    for now["key"] in ("old", "old", "new", "new"):
        assert statement("default", lambda: now["key"], write, row.pk).execute() == 1
    assert keys == ["old", "old", "new"]


def test_a_value_that_is_no_parameter_is_refused(row: QueuedFile) -> None:
    def forgets(pk: int, remote_name: str) -> int:
        return QueuedFile.objects.filter(pk=pk).update(sent=1)

    with pytest.raises(ValueError, match="exactly"):
        statement("default", lambda: "forgets", forgets, row.pk, "b.txt")


def test_a_value_that_the_text_is_derived_from_is_refused(row: QueuedFile) -> None:
    def derives(pk: int, remote_name: str) -> int:
        return QueuedFile.objects.filter(pk=pk, remote_name=remote_name).update(
            remote_name=Concat(F("name"), Value(f"{remote_name}!"))
        )

    with pytest.raises(ValueError, match="exactly"):
        statement("default", lambda: "derives", derives, row.pk, "b.txt")


def test_what_sends_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="sends no statement"):
        statement(
            "default", lambda: "nothing", lambda pk: QueuedFile.objects.none().update(sent=pk), 1
        )


def test_not_more_texts_are_kept_than_can_be_in_use(
    row: QueuedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queued_storage.ledger.sql.statements.KEPT_MAX", 2)
    monkeypatch.setattr("queued_storage.ledger.sql.statements._kept", kept := {})
    for number in range(5):
        assert rename(f"many {number}", row.pk, "b.txt").execute() == 1
        assert len(kept) <= 2


def test_the_rows_that_an_update_returns_are_as_the_orm_has_them(row: QueuedFile) -> None:
    assert returns_rows("default") == (connection.vendor != "mysql")
    if not returns_rows("default"):
        return
    [changed] = rename("returning", row.pk, "b.txt").changed(QueuedFile)
    found = QueuedFile.objects.get(pk=row.pk)
    assert vars(changed).keys() == vars(found).keys()
    for field in QueuedFile._meta.concrete_fields:
        assert getattr(changed, field.attname) == getattr(found, field.attname), field.name
    assert (changed.state, changed.failures, changed.is_local) == (State.PENDING, [], True)
    assert rename("returning", row.pk + 1, "c.txt").changed(QueuedFile) == []
