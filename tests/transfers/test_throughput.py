"""What a process counts, and when it adds the numbers to the ledger."""

import os
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from queued_storage.ledger.throughput import MINUTE, QUARTER, Numbers, Throughput
from queued_storage.ledger.throughput import throughput as stored
from queued_storage.maintenance import sweep
from queued_storage.testing import drain
from queued_storage.transfers import throughput, work
from queued_storage.transfers.executor import Executor
from tests.support.clocks import database_at
from tests.support.scripted import LONG_AGO, file, make
from tests.support.versions import no_table
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

TABLE = Throughput._meta.db_table


@pytest.fixture
def storage() -> Any:
    return make(alias="counted")


@pytest.fixture(autouse=True)
def _anew() -> None:
    throughput.forget()


def numbers(seconds: int = MINUTE) -> Numbers:
    total = Numbers()
    for _at, each in stored().since(seconds, LONG_AGO):
        total = total.plus(each)
    return total


def save(storage: Any, *names: str) -> None:
    for name in names:
        storage.save(name, file())


def test_transfers_and_failures_are_counted(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    drain(storage)
    storage.remote.rejects = True
    save(storage, "c.txt")
    drain(storage)
    throughput.write()
    assert numbers() == numbers(QUARTER) == Numbers(2, 2 * file().size, 1, 1)


def test_nothing_is_written_per_file(storage: Any) -> None:
    with CaptureQueriesContext(connection) as queries:
        save(storage, "a.txt", "b.txt")
        drain(storage)
    assert queries.captured_queries
    assert [query["sql"] for query in queries if TABLE in query["sql"]] == []


def test_a_thread_that_searches_writes_once_a_minute(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(storage, "a.txt")
    throughput.write_if_due([storage.alias])
    assert numbers() == Numbers()
    monkeypatch.setattr(throughput, "WRITE_EVERY", 0.0)
    throughput.forget()
    throughput.write_if_due([storage.alias])
    assert numbers() == Numbers(pending=1)
    throughput.write_if_due([storage.alias])
    drain(storage)
    throughput.write_if_due([storage.alias])
    assert numbers() == Numbers(files=1, bytes=file().size, pending=1)


def test_an_idle_process_writes_nothing(storage: Any) -> None:
    save(storage, "a.txt")
    drain(storage)
    throughput.forget()
    throughput.write([storage.alias])
    assert not stored().exists()


def test_counts_are_of_the_minute_of_the_work(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now().replace(second=30)
    real = throughput.time.monotonic
    throughput.transferred(storage.alias, 10)
    monkeypatch.setattr(throughput.time, "monotonic", lambda: real() + 120)
    throughput.transferred(storage.alias, 20)
    with database_at(now):
        throughput.write()
    minute = now.replace(second=0, microsecond=0)
    assert stored().since(MINUTE, LONG_AGO) == [
        (minute - timedelta(minutes=2), Numbers(1, 10)),
        (minute, Numbers(1, 20)),
    ]


def test_a_worker_writes_when_it_ends(storage: Any) -> None:
    save(storage, "a.txt")
    worker = Executor(1, 0.05, lambda: [storage.alias])
    worker.start()
    storage.wait(timeout=60)
    assert worker.stop(60)
    assert numbers().files == 1


def test_a_process_without_a_search_writes_in_a_minute(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "WRITE_EVERY", 0.05)
    throughput.forget()
    save(storage, "a.txt")
    [pk] = storage.queue.messages.pop()
    work.run(pk)
    until(lambda: numbers().files == 1)
    until(lambda: not [each for each in threading.enumerate() if "throughput" in each.name])


def test_a_sweep_records_what_is_pending(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    sweep(storage.alias)
    assert numbers() == Numbers()
    sweep()
    assert numbers() == Numbers(pending=2)


def test_old_rows_are_pruned(storage: Any) -> None:
    Throughput.objects.create(seconds=MINUTE, at=LONG_AGO, alias=storage.alias)
    throughput.transferred(storage.alias, 10)
    throughput.write()
    assert not stored().filter(at=LONG_AGO).exists()
    assert numbers().files == 1


def test_a_database_without_the_table_is_fine(storage: Any, caplog: Any) -> None:
    with no_table(Throughput), pytest.MonkeyPatch.context() as patch:
        patch.setattr("queued_storage.ledger.schema._migrated", set())
        save(storage, "a.txt")
        drain(storage)
        throughput.write()
        sweep()
    assert caplog.text == ""
    throughput.write()
    assert numbers() == Numbers()


def test_a_failed_write_is_made_up_for(storage: Any, caplog: Any) -> None:
    throughput.transferred(storage.alias, 10)
    throughput.write()
    with no_table(Throughput):
        throughput.transferred(storage.alias, 10)
        throughput.write()
    assert "The throughput could not be recorded" in caplog.text
    throughput.write()
    assert numbers().files == 2


def test_a_transaction_counts_nothing(storage: Any) -> None:
    with transaction.atomic():
        throughput.transferred(storage.alias, 10)
        throughput.write([storage.alias])
    throughput.write()
    assert numbers() == Numbers()


@pytest.mark.one_database
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork beside threads
def test_a_forked_process_counts_its_own(storage: Any) -> None:
    throughput.transferred(storage.alias, 10)
    connections.close_all()
    child = os.fork()
    if not child:
        try:
            throughput.write()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert numbers() == Numbers()
    throughput.write()
    assert numbers().files == 1
