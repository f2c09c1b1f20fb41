"""Numbers of files for monitoring."""

import re
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from queued_storage.ledger import measures
from queued_storage.ledger.database import ledger
from queued_storage.ledger.measures import Overdue, Settled, Unsettled
from queued_storage.ledger.sql.clock import DatabaseNow
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.support.scripted import LONG_AGO, file, make, row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


def add(count: int = 1, **columns: Any) -> None:
    """Insert rows that were saved long ago."""
    known = QueuedFile.objects.count()
    defaults = {"alias": "one", "state": State.PENDING, "size": 10, "saved_at": LONG_AGO}
    QueuedFile.objects.bulk_create(
        QueuedFile(name=f"{known + number}.txt", **defaults | columns) for number in range(count)
    )


def test_an_empty_ledger() -> None:
    assert measures.unsettled() == []
    assert measures.overdue() == []
    assert measures.settled() == []
    assert measures.aliases() == []


def test_files_and_bytes_by_storage_and_state() -> None:
    add(3, size=2**40)
    add(2, state=State.FAILED)
    add(1, alias="two", state=State.HELD)
    add(9, state=State.TRANSFERRED)
    found = {(row.alias, row.state): (row.files, row.bytes) for row in measures.unsettled()}
    assert found == {
        ("one", "pending"): (3, 3 * 2**40),
        ("one", "failed"): (2, 20),
        ("two", "held"): (1, 10),
    }


def test_ages_are_of_the_database() -> None:
    add()
    add(alias="two")
    QueuedFile.objects.filter(alias="two").update(saved_at=DatabaseNow() - timedelta(seconds=90))
    old, new = measures.unsettled()
    assert old.age > 20 * 365 * 24 * 3600
    assert 90 <= new.age < 100


def test_an_age_is_never_negative() -> None:
    add()
    QueuedFile.objects.update(saved_at=DatabaseNow() + timedelta(hours=1))
    assert measures.unsettled()[0].age == 0


def test_overdue() -> None:
    add(2, due_at=LONG_AGO)
    add(1, due_at=None, state=State.FAILED)
    add(1, alias="two")
    QueuedFile.objects.filter(alias="two").update(due_at=DatabaseNow() + timedelta(hours=1))
    [found] = measures.overdue()
    assert isinstance(found, Overdue)
    assert (found.alias, found.host, found.files) == ("one", "", 2)
    assert found.age > 20 * 365 * 24 * 3600


def test_stuck_deletes(settings: Any) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 2}
    add(1, state=State.DELETING, attempts=2)
    add(1, state=State.DELETING, attempts=3)
    add(1, state=State.PENDING, attempts=9)
    assert {row.state: row.stuck for row in measures.unsettled()} == {"deleting": 1, "pending": 0}


def test_hosts_without_shared_storage_are_counted_apart(settings: Any) -> None:
    add(2, host="web-1", due_at=LONG_AGO)
    add(1, host="web-2")
    add(1, host="web-2", is_local=False, state=State.DELETING)
    assert {row.host for row in measures.unsettled()} == {""}
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True}
    assert {(row.state, row.host): row.files for row in measures.unsettled()} == {
        ("pending", "web-1"): 2,
        ("pending", "web-2"): 1,
        ("deleting", ""): 1,
    }
    assert [row.host for row in measures.overdue()] == ["web-1"]


def test_settled() -> None:
    add(2, state=State.TRANSFERRED)
    add(3, state=State.TRANSFERRED, is_local=False)
    add(1, alias="two", state=State.TRANSFERRED, is_local=False)
    add(1)
    assert measures.settled() == [Settled("one", 5, 50, 20), Settled("two", 1, 10, 0)]


def test_each_alias_is_returned_once() -> None:
    for alias in ("b", "a", "B", "ä", "b "):
        add(3, alias=alias)
    assert sorted(measures.aliases()) == sorted(["b", "a", "B", "ä", "b "])


def test_transferred_files_are_not_read() -> None:
    add(2000, state=State.TRANSFERRED)
    add(1)
    if connection.vendor != "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(
                f"ANALYZE {'TABLE ' * (connection.vendor == 'mysql')}{QueuedFile._meta.db_table}"
            )
    with CaptureQueriesContext(connection) as captured:
        assert [row.files for row in measures.unsettled()] == [1]
        assert measures.overdue() == []
    explained = [explain(query["sql"]) for query in captured]
    for plan in explained:
        assert re.search("queued_storage_(state|scheduled|name_unique|local)", plan), plan
        assert "Seq Scan" not in plan
    found = {name for name in ("scheduled", "state") if name in str(explained)}
    assert found == {"scheduled", "state"}


def explain(sql: str) -> str:
    with connection.cursor() as cursor:
        prefix = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
        cursor.execute(prefix + sql.replace("%", "%%"), ())
        return str(cursor.fetchall())


# Time limit


def test_a_query_within_the_limit() -> None:
    add(2)
    assert [row.files for row in measures.in_time(measures.unsettled, 10)] == [2]


@pytest.mark.one_database
def test_a_hanging_ledger_holds_only_a_few_threads() -> None:
    released = threading.Event()
    try:
        for _probe in range(measures._MOST_WAITING + 2):
            with pytest.raises(TimeoutError, match=r"within 0\.05 seconds"):
                measures.in_time(lambda: released.wait(30), 0.05)
        assert len(inquiries()) == measures._MOST_WAITING
    finally:
        released.set()
    until(lambda: not inquiries())
    assert measures.in_time(lambda: "well again", 10) == "well again"


@pytest.mark.one_database
def test_a_thread_that_cannot_start_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(measures._Inquiry, "start", start)
        for _probe in range(measures._MOST_WAITING + 1):
            with pytest.raises(RuntimeError, match="new thread"):
                measures.in_time(lambda: "well", 0.05)
    assert measures.in_time(lambda: "well again", 10) == "well again"


@pytest.mark.one_database
def test_waiting_for_a_thread_counts_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []

    def join(thread: threading.Thread, timeout: float) -> None:
        left.append(timeout)
        plain(thread)

    class Crowded(threading.Event):  # a thread ends just in time
        def acquire(self, timeout: float) -> bool:
            return not self.wait(timeout)

        def release(self) -> None:
            self.set()

    plain = threading.Thread.join
    monkeypatch.setattr(measures._Inquiry, "join", join)
    monkeypatch.setattr(measures, "_places", Crowded())
    assert measures.in_time(lambda: "well", 0.2) == "well"
    assert left[0] < 0.1


def inquiries() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if isinstance(each, measures._Inquiry)]


@pytest.mark.one_database
def test_an_error_is_raised_in_the_caller() -> None:
    def fail() -> None:
        raise OperationalError("away")

    with pytest.raises(OperationalError):
        measures.in_time(fail, 10)


@pytest.mark.one_database
def test_the_thread_closes_its_connection() -> None:
    seen: list[Any] = []

    def ask() -> None:
        ledger().exists()
        seen.append(connection.connection)

    before = connection.connection
    measures.in_time(ask, 10)
    assert seen[0] is not None
    assert seen[0] is not before
    assert connection.connection is before


@pytest.mark.one_database
def test_a_transaction_sees_its_rows() -> None:
    storage = make()
    with transaction.atomic():
        name = storage.save("a.txt", file())
        [found] = measures.in_time(measures.unsettled, 10)
        assert row(storage, name).size == found.bytes
    assert isinstance(found, Unsettled)
