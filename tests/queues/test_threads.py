"""Background threads."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages
from django.core.management import call_command
from django.db import connection, connections, transaction
from pytest_django import Settings

from queued_storage import testing
from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, JobState, jobs
from queued_storage.ledger.states import State
from queued_storage.operations.jobs import request
from queued_storage.queues import get_queue, threads
from queued_storage.queues.threads import ThreadQueue, stop_all
from queued_storage.testing import FaultyStorage, QueuedStorageRunnerMixin
from queued_storage.transfers import leases
from tests.support.waiting import until

pytestmark = pytest.mark.one_database


@pytest.mark.parametrize(
    "options",
    [
        *({"threads": threads} for threads in (0, -1, "4", None)),
        *({"poll": poll} for poll in (0, -1.5, "5", float("inf"), float("nan"))),
        *({"exit_wait": seconds} for seconds in (-1, "10", float("inf"))),
    ],
    ids=str,
)
def test_invalid_options_of_threads_are_an_error(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(InvalidQueue, match=f"{name} must be"):
        get_queue({"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": options})


# Python 3.12 warns about forks with threads, which this tests.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", ["executor", "heart"])
def test_a_fork_during_a_start_does_not_hang(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    has_begun, goes_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, *args: object) -> None:
            pass

        def start(self) -> None:
            if os.getpid() == parent:
                has_begun.set()
                goes_on.wait(60)

        def notify(self, pks: list[int]) -> None:
            pass

        def stop(self, timeout: float | None) -> bool:
            return True

    monkeypatch.setattr("queued_storage.transfers.executor.Executor", Slow)
    monkeypatch.setattr(leases, "_Heart", Slow)
    monkeypatch.setattr(leases, "_heart", None)
    monkeypatch.setattr("atexit.register", lambda *args: None)
    queue = ThreadQueue()
    begin = {"executor": lambda: queue.enqueue([1]), "heart": leases._beating_heart}[what]
    first = threading.Thread(target=begin)
    first.start()
    assert has_begun.wait(60)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        begin()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    goes_on.set()
    first.join(60)
    assert not first.is_alive()
    assert queue.stop(30)


@pytest.mark.django_db(transaction=True)
def test_threads_end_when_settings_change(settings: Settings) -> None:
    def alive() -> list[threading.Thread]:
        return [
            each
            for each in threading.enumerate()
            if each.name.startswith("queued-storage-") and each.name[-1].isdigit()
        ]

    before = alive()
    for number in (1, 2):
        settings.QUEUED_STORAGE = {
            "QUEUE": {
                "BACKEND": "queued_storage.queues.threads.ThreadQueue",
                "OPTIONS": {"threads": number, "poll": 0.05},
            }
        }
        storage = QueuedStorage("disk", "far", alias=f"threads-{number}")
        storage.save("a.txt", ContentFile(b"a"))
        storage.wait(timeout=60)
    settings.QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
    until(lambda: not set(alive()) - set(before))


@pytest.mark.django_db(transaction=True)
def test_threads_carry_out_jobs(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.threads.ThreadQueue"}
    storage = QueuedStorage("disk", "far", alias="threads-jobs")
    storage.save("a.txt", ContentFile(b"a"))
    storage.wait(timeout=60)
    [job] = request(Action.EVICT, ledger().filter(alias="threads-jobs"))
    until(lambda: jobs().get(pk=job.pk).state == JobState.DONE)
    assert not storage.local.exists("a.txt")
    assert storage.queue.stop(30)


# The end of a server's process


class HeldStorage(FileSystemStorage):
    """A storage whose saves wait."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def _save(self, name: str, content: Any) -> str:
        self.has_begun.set()
        assert self.may_go_on.wait(60)
        return super()._save(name, content)


@pytest.mark.django_db(transaction=True)
def test_files_that_take_too_long_are_returned(tmp_path: Path) -> None:
    queue, remote = ThreadQueue(threads=1), HeldStorage(str(tmp_path))
    storage = QueuedStorage("disk", remote, alias="threads-held", queue=queue)
    storage.save("a.txt", ContentFile(b"a"))
    assert remote.has_begun.wait(60)
    assert not stop_all(0.1, lets_go=True)
    row = storage.queued_file("a.txt")
    assert row
    assert (row.state, row.attempts) == (State.PENDING, 0)
    before = time.monotonic()
    queue.stop(60)  # as at the end of Python, where nothing is waited for again
    assert time.monotonic() - before < 30
    remote.may_go_on.set()
    until(lambda: stop_all(0))


# The database of the threads


@pytest.fixture
def queue() -> Iterator[ThreadQueue]:
    queue = ThreadQueue(threads=1, poll=0.05)
    yield queue
    assert stop_all(30)


def own_threads(queue: ThreadQueue) -> Any:
    found = queue._running
    assert found
    return found


@pytest.mark.django_db(transaction=True)
def test_threads_leave_another_database_alone(
    queue: ThreadQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = QueuedStorage("disk", "far", alias="threads-swapped", queue=queue)
    storage.save("a.txt", ContentFile(b"a"))
    storage.wait(timeout=60)
    before = own_threads(queue)
    assert "threads-swapped" in before._aliases()
    with monkeypatch.context() as swapped:
        swapped.setitem(connection.settings_dict, "NAME", "other")
        assert not before.is_usable
        assert before._aliases() == []
    assert before.is_usable


@pytest.mark.django_db(transaction=True)
def test_a_commit_to_another_database_starts_new_threads(
    queue: ThreadQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue([1])
    before = own_threads(queue)
    monkeypatch.setattr(before, "_place", before._place._replace(database="other"))
    queue.enqueue([1])
    assert own_threads(queue) is not before
    assert before._is_stopping
    before._place = before._place._replace(pid=before._place.pid)
    until(lambda: before.stop(0))


@pytest.mark.django_db(transaction=True)
def test_no_thread_starts_in_a_transaction(queue: ThreadQueue) -> None:
    with transaction.atomic():
        queue.enqueue([1])
        assert queue._running is None
    queue.enqueue([1])
    running = own_threads(queue)
    with transaction.atomic():  # a sweep, say
        queue.enqueue([1])
    assert own_threads(queue) is running


@pytest.mark.django_db(transaction=True)
def test_a_flush_ends_the_threads(queue: ThreadQueue) -> None:
    storage = QueuedStorage("disk", "far", alias="threads-flushed", queue=queue)
    storage.save("a.txt", ContentFile(b"a"))
    before = own_threads(queue)
    call_command("flush", verbosity=0, interactive=False)
    assert not before.is_usable
    assert not before._executor._finder.is_alive()
    storage.save("b.txt", ContentFile(b"b"))
    storage.wait(timeout=60)


@pytest.mark.django_db(transaction=True)
def test_a_flush_waits_only_once_for_what_hangs(
    queue: ThreadQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "FLUSH_WAIT", 0.2)
    remote = FaultyStorage(storages["far"], fault="hang")
    storage = QueuedStorage("disk", remote, alias="threads-hanging", queue=queue)
    storage.save("a.txt", ContentFile(b"a"))
    assert remote.hanging.wait(30)
    call_command("flush", verbosity=0, interactive=False)
    monkeypatch.setattr(threads, "FLUSH_WAIT", 3600)
    call_command("flush", verbosity=0, interactive=False)
    remote.fault = None


@pytest.mark.django_db(transaction=True)
def test_no_thread_stays_with_a_database_in_memory(
    queue: ThreadQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("other databases are not in memory")
    monkeypatch.setattr(connections["default"], "is_in_memory_db", lambda: True)
    storage = QueuedStorage("disk", "far", alias="threads-memory", queue=queue)
    with transaction.atomic():
        storage.save("a.txt", ContentFile(b"a"))
        queue.enqueue([1])
        assert storage.using_local("a.txt")
    assert storage.using_remote("a.txt")
    assert queue._running is None


@pytest.mark.django_db(transaction=True)
def test_the_runner_ends_threads_before_databases(
    queue: ThreadQueue, caplog: pytest.LogCaptureFixture
) -> None:
    class Base:
        def teardown_databases(self, config: str) -> None:
            assert (config, stopped.is_usable) == ("config", False)

    class Runner(QueuedStorageRunnerMixin, Base):
        pass

    queue.enqueue([1])
    stopped = own_threads(queue)
    Runner().teardown_databases("config")
    assert caplog.messages == []


@pytest.mark.django_db(transaction=True)
def test_the_runner_tells_of_a_thread_that_hangs(
    queue: ThreadQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Base:
        def teardown_databases(self) -> None:
            pass

    class Runner(QueuedStorageRunnerMixin, Base):
        pass

    monkeypatch.setattr(testing, "stop_threads", lambda: False)
    Runner().teardown_databases()
    assert "the test database may be in use" in caplog.text
