"""The table of what happened in each minute, which several processes add to."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from queued_storage.ledger import throughput as module
from queued_storage.ledger.states import State
from queued_storage.ledger.throughput import (
    KEPT,
    MINUTE,
    QUARTER,
    Moment,
    Numbers,
    Throughput,
    beginning,
    pending,
    throughput,
)
from tests.admin.pages import add as add_files
from tests.support.clocks import zones

pytestmark = pytest.mark.django_db(transaction=True)

AT = datetime(2026, 10, 25, 0, 58, 30, tzinfo=UTC)  # in Berlin, this hour of the night comes twice
ONE = Numbers(files=2, bytes=20, failures=1, pending=5)


def add(at: datetime = AT, alias: str = "one", numbers: Numbers = ONE) -> None:
    throughput().start([Moment(at, alias)])
    throughput().add(Moment(at, alias), numbers)


def stored(seconds: int = MINUTE) -> list[tuple[object, ...]]:
    columns = ("at", "alias", "files", "bytes", "failures", "pending")
    return list(throughput().filter(seconds=seconds).order_by("at", "alias").values_list(*columns))


def test_minutes_and_quarters_of_an_hour_add_up() -> None:
    add()
    add(AT + timedelta(seconds=20))
    add(AT - timedelta(minutes=1), numbers=Numbers(files=1, pending=9))
    minute = AT.replace(second=0)
    assert stored() == [
        (minute - timedelta(minutes=1), "one", 1, 0, 0, 9),
        (minute, "one", 4, 40, 2, 5),
    ]
    assert stored(QUARTER) == [(minute.replace(minute=45), "one", 5, 40, 2, 9)]


def test_processes_at_the_same_time_lose_nothing() -> None:
    ready = threading.Barrier(4)

    def work() -> None:
        ready.wait()
        try:
            for _number in range(10):
                add()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row[2:] for row in stored()] == [(80, 800, 40, 5)]
    assert [row[2:] for row in stored(QUARTER)] == [(80, 800, 40, 5)]


def test_storages_are_added_together() -> None:
    add()
    add(alias="two", numbers=Numbers(files=1, pending=2))
    add(AT + timedelta(minutes=1), alias="two")
    minute = AT.replace(second=0)
    assert throughput().since(MINUTE, minute) == [
        (minute, Numbers(3, 20, 1, 7)),
        (minute + timedelta(minutes=1), ONE),
    ]
    assert throughput().since(MINUTE, minute + timedelta(minutes=2)) == []


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_are_in_utc_whatever_the_time_zone(use_tz: bool) -> None:
    with zones(django="Europe/Berlin", use_tz=use_tz):
        add()
        add(AT + timedelta(hours=1))
        found = throughput().since(MINUTE, AT - timedelta(minutes=5))
        assert [at for at, _numbers in found] == [
            AT.replace(second=0),
            AT.replace(second=0) + timedelta(hours=1),
        ]


@pytest.mark.parametrize("seconds", KEPT)
def test_old_rows_are_pruned(seconds: int) -> None:
    age = KEPT[seconds]
    add(AT - age - timedelta(seconds=seconds))
    add(AT - age + timedelta(seconds=seconds))
    assert len(stored(seconds)) == 2
    assert throughput().prune(AT)
    assert [row[0] for row in stored(seconds)] == [
        beginning(AT - age + timedelta(seconds=seconds), seconds)
    ]


def test_a_storage_has_about_a_thousand_rows() -> None:
    rows = sum(age.total_seconds() / seconds for seconds, age in KEPT.items())
    assert rows == 240 + 768


def plan(sql: str) -> str:
    prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # which would read so small a table as a whole
            cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"{prefix} {sql}")
        return "\n".join(str(line) for line in cursor.fetchall())


def test_each_statement_uses_the_index() -> None:
    throughput().bulk_create(
        Throughput(seconds=MINUTE, at=AT + timedelta(minutes=number), alias="one")
        for number in range(240)
    )
    with CaptureQueriesContext(connection) as queries:
        add()
        throughput().since(MINUTE, AT + timedelta(minutes=200))
        throughput().prune(AT - timedelta(days=30))
    found = [query["sql"] for query in queries]
    found = [sql for sql in found if sql.startswith(("UPDATE", "SELECT", "DELETE"))]
    assert len(found) == 4
    for sql in found:
        its_plan = plan(sql)
        assert "queued_storage_throughput_unique" in its_plan or "INDEX sqlite_autoindex" in (
            its_plan
        ), f"{sql}\n{its_plan}"


def test_pending_files_are_counted_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    add_files(2, State.PENDING)
    add_files(1, State.TRANSFERRING)
    add_files(1, State.FAILED)
    add_files(1, State.TRANSFERRED, alias="archive")
    assert pending(["default", "archive", "gone"]) == {"default": 3}
    monkeypatch.setattr(module, "MOST_PENDING", 2)
    assert pending(["default"]) == {"default": 2}
