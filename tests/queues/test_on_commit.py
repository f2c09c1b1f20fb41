"""Notifications on commit: one per transaction and storage, for the files that were committed."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test import TestCase

from queued_storage.queues import on_commit
from queued_storage.queues.dummy import DummyQueue
from queued_storage.queues.on_commit import enqueue_on_commit

pytestmark = pytest.mark.one_database


class Result:
    def __init__(self, pk: int, seen: list[Any]) -> None:
        self.pk = pk
        self.seen = seen

    def enqueued(self, error: Exception | None) -> None:
        self.seen.append((self.pk, error))


@pytest.fixture
def queue() -> DummyQueue:
    return DummyQueue()


@pytest.mark.django_db(transaction=True)
class TestTransactions:
    def test_autocommit_notifies_at_once(self, queue: DummyQueue) -> None:
        enqueue_on_commit("a", queue, 1)
        enqueue_on_commit("a", queue, 2)
        assert queue.messages == [[1], [2]]

    def test_a_transaction_notifies_once(self, queue: DummyQueue) -> None:
        with transaction.atomic():
            for pk in (3, 1, 2, 3):
                enqueue_on_commit("a", queue, pk)
            assert queue.messages == []
        assert queue.messages == [[3, 1, 2]]

    def test_storages_and_queues_are_kept_apart(self, queue: DummyQueue) -> None:
        other = DummyQueue()
        with transaction.atomic():
            for pk in (1, 2):
                enqueue_on_commit("a", queue, pk)
                enqueue_on_commit("b", queue, 10 + pk)
                enqueue_on_commit("a", other, 20 + pk)
        assert queue.messages == [[1, 2], [11, 12]]
        assert other.messages == [[21, 22]]

    @pytest.mark.parametrize("rolled_back", [(), (1,), (2,), (3,), (1, 3), (1, 2, 3)])
    def test_a_rolled_back_savepoint_notifies_nobody(
        self, queue: DummyQueue, rolled_back: tuple[int, ...]
    ) -> None:
        with transaction.atomic():
            for pk in (1, 2, 3):
                with transaction.atomic():
                    enqueue_on_commit("a", queue, pk)
                    transaction.set_rollback(pk in rolled_back)
        kept = [pk for pk in (1, 2, 3) if pk not in rolled_back]
        assert queue.messages == ([kept] if kept else [])

    def test_a_rolled_back_transaction_leaves_nothing(self, queue: DummyQueue) -> None:
        with transaction.atomic():
            enqueue_on_commit("a", queue, 1)
            transaction.set_rollback(True)
        with transaction.atomic():
            enqueue_on_commit("a", queue, 2)
        assert queue.messages == [[2]]

    def test_a_later_callback_that_fails_stops_nothing(self, queue: DummyQueue) -> None:
        def fail() -> None:
            raise RuntimeError("not robust")

        def save_all() -> None:
            with transaction.atomic():
                enqueue_on_commit("a", queue, 1)
                transaction.on_commit(fail)
                enqueue_on_commit("a", queue, 2)

        with pytest.raises(RuntimeError):
            save_all()
        assert queue.messages == [[1, 2]]

    def test_results_follow_the_notification(self, queue: DummyQueue) -> None:
        seen: list[Any] = []
        error = ValueError()

        class Inline(DummyQueue):
            def enqueue(self, pks: list[int]) -> dict[int, Exception]:  # type: ignore[override]
                seen.append(pks)
                return {2: error}

        inline = Inline()
        with transaction.atomic():
            for pk in (1, 2):
                first: Callable[[], None] = lambda pk=pk: seen.append(-pk)  # noqa: E731
                enqueue_on_commit("a", inline, pk, Result(pk, seen), first=first)
        assert seen == [-1, -2, [1, 2], (1, None), (2, error)]

    def test_a_failing_task_does_not_stop_the_others(
        self, queue: DummyQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise RuntimeError("no such task")

        enqueue_on_commit("a", queue, 1, first=fail)
        assert queue.messages == [[1]]
        assert "The task of a file of storage 'a' could not be called" in caplog.text

    def test_a_dead_queue_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        class Dead(DummyQueue):
            batch_size = 2

            def enqueue(self, pks: list[int]) -> None:
                super().enqueue(pks)
                if len(self.messages) > 1:
                    raise ConnectionError("the broker is down")

        queue = Dead()
        with transaction.atomic():
            for pk in range(5):
                enqueue_on_commit("a", queue, pk)
        (record,) = caplog.records
        assert record.getMessage() == (
            "Dead could not be notified that 3 files are due in storage 'a': "
            "ConnectionError: the broker is down"
        )

    def test_two_databases_do_not_wait_for_each_other(
        self, queue: DummyQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Other:
            """A connection whose transaction is committed earlier."""

            callbacks: list[Callable[[], None]] = []

            def on_commit(self, callback: Callable[[], None], robust: bool = False) -> None:
                self.callbacks.append(callback)

        monkeypatch.setattr(connections._connections, "other", Other(), raising=False)  # type: ignore[attr-defined]
        database = "queued_storage.queues.on_commit.ledger_database"
        with transaction.atomic():
            with monkeypatch.context() as patched:
                patched.setattr(database, lambda: "other")
                enqueue_on_commit("a", queue, 1)
            enqueue_on_commit("a", queue, 2)
            Other.callbacks[0]()
            assert queue.messages == [[1]]
        assert queue.messages == [[1], [2]]


class Captured(TestCase):
    """Only callbacks of the captured block run in a ``TestCase``."""

    queue = DummyQueue()

    @classmethod
    def setUpTestData(cls) -> None:
        enqueue_on_commit("a", cls.queue, 1)

    def setUp(self) -> None:
        self.queue.messages.clear()
        enqueue_on_commit("a", self.queue, 2)

    def test_a_block_notifies_once_for_its_files(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            enqueue_on_commit("a", self.queue, 3)
            with transaction.atomic():
                enqueue_on_commit("a", self.queue, 4)
            with transaction.atomic():
                enqueue_on_commit("a", self.queue, 5)
                transaction.set_rollback(True)
        assert self.queue.messages == [[3, 4]]

    def test_nested_blocks_notify_once(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            enqueue_on_commit("a", self.queue, 3)
            with self.captureOnCommitCallbacks(execute=True):
                enqueue_on_commit("a", self.queue, 4)
            assert self.queue.messages == [[4]]
        assert self.queue.messages == [[4], [3]]

    def test_captured_callbacks_can_be_called_later(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            enqueue_on_commit("a", self.queue, 3)
            enqueue_on_commit("a", self.queue, 4)
        assert self.queue.messages == []
        for callback in callbacks:
            callback()
        assert self.queue.messages == [[3, 4]]

    def test_a_callback_that_enqueues_runs_too(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            enqueue_on_commit("a", self.queue, 3)
            transaction.on_commit(lambda: enqueue_on_commit("a", self.queue, 4))
        assert self.queue.messages == [[3], [4]]


@pytest.mark.django_db
def test_files_of_a_rolled_back_test_are_forgotten(queue: DummyQueue) -> None:
    before = len(on_commit._thread.registered)
    enqueue_on_commit("a", queue, 1)
    assert len(on_commit._thread.registered) == before + 1
    connection.run_on_commit.clear()  # as a rollback does
    assert len(on_commit._thread.registered) == before
