"""Saves and deletes in transactions: everything happens after the commit, or nothing."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections, transaction

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.queues.dummy import DummyQueue
from queued_storage.testing import drain
from tests.support.actions import elsewhere, evicted, rolled_back, write
from tests.support.scripted import file, make, on_disk, read, row
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_rolled_back_save_transfers_nothing(storage: Any) -> None:
    with rolled_back():
        name = storage.save("a.txt", file())
        assert row(storage, name)
    assert storage.queue.messages == []
    assert storage.queued_file(name) is None
    assert drain(storage) == {}
    assert on_disk("far") == []


def test_a_rolled_back_delete_deletes_nothing(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    with rolled_back():
        storage.delete(name)
        assert not storage.exists(name)
    assert storage.exists(name)
    assert storage.url(name) == "https://far.example/a.txt"
    assert storage.queue.messages == []
    assert drain(storage) == {}
    assert read(storage, name) == b"bytes"
    assert read(storage.remote, name) == b"bytes"


def test_nothing_happens_before_the_commit(storage: Any) -> None:
    old = storage.save("old.txt", file())
    storage.queue.deliver()
    with transaction.atomic():
        new = storage.save("new.txt", file())
        storage.delete(old)
        assert storage.queue.messages == []
        assert on_disk() == ["new.txt", "old.txt"]
        assert read(storage, new) == b"bytes"
        with pytest.raises(FileNotFoundError):
            storage.open(old)
    assert len(storage.queue.messages) == 1
    assert on_disk() == ["new.txt"]
    storage.queue.deliver()
    assert on_disk("far") == ["new.txt"]


def test_one_wake_up_per_transaction_and_storage(storage: Any) -> None:
    other = make()
    with transaction.atomic():
        names = [storage.save(f"{number}.txt", file()) for number in range(20)]
        storage.delete(names[0])
        storage.transfer(names[1])
        other.save("x.txt", file())
    assert [len(message) for message in storage.queue.messages] == [20]
    assert [len(message) for message in other.queue.messages] == [1]


def test_one_wake_up_for_a_transaction_with_savepoints(storage: Any) -> None:
    with transaction.atomic():
        for number in range(3):
            with transaction.atomic():
                storage.save(f"{number}.txt", file())
                with transaction.atomic(savepoint=False):
                    storage.save(f"inner {number}.txt", file())
        storage.save("last.txt", file())
    assert [len(message) for message in storage.queue.messages] == [7]


def test_a_wake_up_is_split_into_batches(storage: Any) -> None:
    with transaction.atomic():
        for number in range(DummyQueue.batch_size + 1):
            storage.save(f"{number}.txt", file(b""))
    assert [len(message) for message in storage.queue.messages] == [DummyQueue.batch_size, 1]


def test_without_autocommit_nothing_is_saved(storage: Any) -> None:
    known = storage.save("known.txt", file())
    transaction.set_autocommit(False)
    try:
        with pytest.raises(transaction.TransactionManagementError, match="autocommit"):
            storage.save("a.txt", file())
        with pytest.raises(transaction.TransactionManagementError, match="autocommit"):
            storage.delete(known)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert on_disk() == [known]
    assert storage.queued_file("a.txt") is None
    assert row(storage, known).state == State.PENDING
    assert storage.queue.messages == [[row(storage, known).pk]]


def test_a_queue_may_return_its_engines_job() -> None:
    class Jobs(DummyQueue):
        batch_size = 1

        def enqueue(self, pks: list[int]) -> Any:
            super().enqueue(pks)
            return f"job {pks}"

    storage = make(queue=Jobs())
    with transaction.atomic():
        for number in range(3):
            storage.save(f"{number}.txt", file())
    assert [len(message) for message in storage.queue.messages] == [1, 1, 1]


@pytest.mark.parametrize("first", ["outer", "inner", "neither"])
@pytest.mark.parametrize("last", ["outer", "inner", "neither"])
def test_a_rolled_back_savepoint_transfers_nothing(storage: Any, first: str, last: str) -> None:
    with transaction.atomic():
        if first == "outer":
            storage.save("kept 1.txt", file())
        with rolled_back():
            storage.save("gone 1.txt", file())
            with transaction.atomic():
                if first == "inner":
                    storage.save("gone 2.txt", file())
        with transaction.atomic():
            storage.save("kept 2.txt", file())
            if last == "inner":
                with rolled_back():
                    storage.save("gone 3.txt", file())
        if last == "outer":
            storage.save("kept 3.txt", file())
    storage.queue.deliver()
    kept = [name for name in on_disk() if name.startswith("kept")]
    assert on_disk("far") == kept
    assert sorted(QueuedFile.objects.values_list("name", flat=True)) == kept
    assert {found.state for found in QueuedFile.objects.all()} == {State.TRANSFERRED}


def test_a_rolled_back_savepoint_deletes_nothing(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    with transaction.atomic():
        with rolled_back():
            storage.delete(name)
        assert storage.exists(name)
    assert storage.queue.deliver() == {}
    assert read(storage, name) == b"bytes"
    assert on_disk("far") == [name]


def test_django_cleanup_116_saving_after_deleting_one_name(
    storage: Any,
) -> None:
    old = storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    with transaction.atomic():
        storage.delete(old)
        new = storage.save("a.txt", file(b"new"))
        assert new == old
        assert read(storage, new) == b"new"
    storage.queue.deliver()
    assert read(storage, new) == b"new"
    assert on_disk() == [new]
    assert on_disk("far") == [new]


def test_a_rolled_back_delete_and_save_changes_nothing(storage: Any) -> None:
    old = storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    with rolled_back():
        storage.delete(old)
        storage.save("a.txt", file(b"new"))
    storage.queue.deliver()
    assert read(storage, old) == b"old"
    assert on_disk("far") == [old]


def test_saving_and_deleting_in_one_transaction(storage: Any) -> None:
    with transaction.atomic():
        storage.delete(storage.save("a.txt", file()))
    storage.queue.deliver()
    assert on_disk() == []
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_a_model_and_its_file_roll_back_together(default: Any) -> None:
    with rolled_back():
        document = Document.objects.create(file=file(b"x", "a.txt"))
        assert default.queued_file(document.file.name)
    default.queue.deliver()
    assert on_disk("far") == []

    document = Document.objects.create(file=file(b"x", "a.txt"))
    default.queue.deliver()
    assert on_disk("far") == [document.file.name]
    assert document.file.url.startswith("https://far.example/docs/a")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one transaction writes at a time")
def test_a_delete_sees_a_concurrent_save(
    storage: Any,
) -> None:
    with transaction.atomic():
        assert not storage.exists("a.txt")  # MySQL takes its snapshot here

        def save() -> None:
            storage.save("a.txt", file())
            connections.close_all()

        saver = threading.Thread(target=save)
        saver.start()
        saver.join()
        storage.delete("a.txt")
    storage.queue.deliver()
    assert on_disk() == []
    assert storage.queued_file("a.txt") is None


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Transactions that read from the snapshot of their first query, as MySQL has them."""
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", "repeatable read")
    connection.close()
    yield
    connection.close()


of_mysql = pytest.mark.skipif(connection.vendor != "mysql", reason="others tell of a conflict")


@of_mysql
@pytest.mark.usefixtures("snapshots")
def test_a_delete_sees_past_the_snapshot(storage: Any) -> None:
    with transaction.atomic():
        assert not storage.exists("a.txt")
        elsewhere(lambda: storage.save("a.txt", file()))
        storage.delete("a.txt")
    assert not storage.exists("a.txt")
    storage.queue.deliver()
    assert on_disk() == on_disk("far") == []


@of_mysql
@pytest.mark.usefixtures("snapshots")
def test_an_overwrite_sees_a_delete_past_the_snapshot(storage: Any) -> None:
    def save_and_delete() -> None:
        storage.delete(storage.save("a.txt", file()))

    with transaction.atomic():
        assert not storage.exists("a.txt")
        elsewhere(save_and_delete)
        write(storage, "a.txt", b"new")
    storage.queue.deliver()
    assert on_disk() == on_disk("far") == ["a.txt"]
    assert read(storage.remote, "a.txt") == b"new"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
def test_reading_in_a_transaction_locks_nothing(storage: Any) -> None:
    name = evicted(storage)
    locked: list[str] = []

    def lock() -> None:
        with transaction.atomic():
            locked.append(ledger().select_for_update(nowait=True).get().name)

    with transaction.atomic():
        assert read(storage, name) == b"bytes"
        elsewhere(lock)
    assert locked == [name]


def test_a_foreign_task_ignores_rolled_back_savepoints() -> None:
    class Told:
        def __init__(self) -> None:
            self.names: list[str] = []

        def delay(self, name: str, *args: Any) -> None:
            self.names.append(name)

    task = Told()
    storage = make(task=task, remote="far")
    with transaction.atomic():
        storage.save("kept.txt", file())
        with rolled_back():
            storage.save("gone.txt", file())
        storage.save("also kept.txt", file())
    assert task.names == ["kept.txt", "also kept.txt"]
