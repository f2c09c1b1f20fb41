"""Procrastinate with a real PostgreSQL and real workers."""

import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connection, connections, transaction
from django.db.backends.base.base import NO_DB_ALIAS
from django.test import TransactionTestCase
from pytest_django import Settings

if connection.vendor != "postgresql":
    pytest.skip("Procrastinate works on PostgreSQL only", allow_module_level=True)

from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.queues import BaseQueue
from queued_storage.queues import procrastinate as adapter
from queued_storage.queues.procrastinate import TASK, ProcrastinateQueue
from tests.queues.contracts import AdapterContract, BrokerContract, Outage
from tests.support import services
from tests.support.latched import LatchedStorage
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

Spawn = Callable[..., subprocess.Popen[Any]]
StartWorker = Callable[[], subprocess.Popen[Any]]
PATH = f"{ProcrastinateQueue.__module__}.ProcrastinateQueue"
CONTENT = os.urandom(300_000)


class TestContract(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.queue_name = f"queue-{uuid.uuid4().hex}"
        return ProcrastinateQueue(self.queue_name)

    def run_workers(self) -> None:
        with app.replace_connector(app.connector.get_worker_connector()):
            app.run_worker(
                queues=[self.queue_name],
                wait=False,
                listen_notify=False,
                install_signal_handlers=False,
            )

    def messages(self) -> list[str]:
        jobs = ProcrastinateJob.objects.filter(queue_name=self.queue_name)
        return [str(row) for row in jobs.values_list()]


@pytest.fixture
def queue_name() -> str:
    """A name of the maximum length."""
    return f"queues-{uuid.uuid4().hex}x"


@pytest.fixture
def queue(queue_name: str) -> ProcrastinateQueue:
    return ProcrastinateQueue(queue_name)


@pytest.fixture
def storage(queue: ProcrastinateQueue, settings: Settings) -> Any:
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


def jobs(queue_name: str) -> list[ProcrastinateJob]:
    return list(ProcrastinateJob.objects.filter(queue_name=queue_name).order_by("pk"))


def content_of(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


# Workers


@pytest.fixture
def start_worker(
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Spawn,
    settings: Settings,
) -> StartWorker:
    def start() -> subprocess.Popen[Any]:
        own = "procrastinate.contrib.django"
        apps = [app for app in settings.INSTALLED_APPS if app != own]
        environment = child_settings(
            INSTALLED_APPS=[
                *apps,
                own,
                "tests.support.procrastinateapp",
            ],
            QUEUED_STORAGE=settings.QUEUED_STORAGE
            | {"QUEUE": {"BACKEND": PATH, "OPTIONS": {"queue": queue_name}}},
            STORAGES=settings.STORAGES,
        )
        command = ["procrastinate", "worker", "--delete-jobs", "successful"]
        return spawn([sys.executable, "-m", "django", *command], env=environment)

    return start


def test_a_worker_transfers_what_is_saved(
    storage: Any, queue: ProcrastinateQueue, queue_name: str, start_worker: StartWorker
) -> None:
    with transaction.atomic():
        names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
        assert jobs(queue_name) == []  # not before the commit
    pks = list(QueuedFile.objects.order_by("pk").values_list("pk", flat=True))
    (job,) = jobs(queue_name)
    assert (job.task_name, job.args) == (TASK, {"pks": pks})
    for _time in range(2):
        queue.enqueue(pks)
    with mock.patch.object(queue, "enqueue"):
        names.append(storage.save("lost.bin", ContentFile(CONTENT)))
    start_worker()  # it also sweeps every second
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 4
    until(lambda: not jobs(queue_name))  # all have succeeded
    assert {row.attempts for row in QueuedFile.objects.all()} == {1}


def test_a_killed_worker_is_made_up_for(
    storage: Any,
    queue_name: str,
    start_worker: StartWorker,
    settings: Settings,
    tmp_path: Path,
) -> None:
    latch = tmp_path / "latch"
    far = {
        "BACKEND": f"{LatchedStorage.__module__}.LatchedStorage",
        "OPTIONS": {"latch": str(latch), "location": str(tmp_path / "far")},
    }
    settings.STORAGES = settings.STORAGES | {"far": far}
    storage = storages["default"]
    worker = start_worker()
    name = storage.save("a.bin", ContentFile(CONTENT))
    until(latch.exists, timeout=60)
    services.kill_group(worker)
    row = QueuedFile.objects.get()
    assert (row.state, row.attempts) == (State.TRANSFERRING, 1)
    assert 0 < storages["far"].size(name) < len(CONTENT)
    assert content_of(storage, name) == CONTENT
    assert [job.status for job in jobs(queue_name)] == ["doing"]  # forever

    latch.unlink()
    start_worker()  # its sweep finds the row once the lease has expired

    def goes_on() -> bool:
        latch.unlink(missing_ok=True)
        return storage.using_remote(name)

    until(goes_on, timeout=60)
    assert content_of(storages["far"], name) == CONTENT
    assert storages["far"].listdir("") == ([], [name])
    assert QueuedFile.objects.get().attempts == 1  # nothing blames this file yet


# Messages


def test_a_job_contains_ids_and_options(queue_name: str) -> None:
    ProcrastinateQueue(queue_name, priority=3).enqueue([1, 2])
    (job,) = jobs(queue_name)
    assert (job.task_name, job.args, job.priority) == (TASK, {"pks": [1, 2]}, 3)
    assert job.lock is job.queueing_lock is None
    assert app.tasks[TASK].retry_strategy is None


def test_a_rolled_back_save_defers_nothing(storage: Any, queue_name: str) -> None:
    with transaction.atomic():
        storage.save("a.txt", ContentFile(b"a"))
        transaction.set_rollback(True)
    assert jobs(queue_name) == []


def test_a_transaction_keeps_its_own_time_limit(queue: ProcrastinateQueue, queue_name: str) -> None:
    with transaction.atomic():
        queue.enqueue([1])
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)
        transaction.set_rollback(True)
    assert jobs(queue_name) == []


# A database that is unavailable


class Lock:
    """Another transaction that locks the table of jobs until ``end()``."""

    def __init__(self) -> None:
        self._is_locked, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def begin(self) -> None:
        self._thread.start()
        assert self._is_locked.wait(30)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _hold(self) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE procrastinate_jobs")
            self._is_locked.set()
            self._is_over.wait(30)
        connection.close()


class TestBroker(BrokerContract):
    noisy = ("procrastinate",)

    @pytest.fixture(params=["locked_queue", "unreachable_queue"])
    def dead_queue(self, request: pytest.FixtureRequest) -> ProcrastinateQueue:
        queue: ProcrastinateQueue = request.getfixturevalue(request.param)
        return queue

    @pytest.fixture
    def locked_queue(self, queue: ProcrastinateQueue) -> Iterator[ProcrastinateQueue]:
        lock = Lock()
        lock.begin()
        yield queue
        lock.end()

    @pytest.fixture
    def unreachable_queue(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ProcrastinateQueue]:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
            jobs_database = connection.settings_dict | {"HOST": "127.0.0.1", "PORT": port}
            # Apart from "default", Django allows a test to connect to this alias only.
            monkeypatch.setitem(connections.settings, NO_DB_ALIAS, jobs_database)
            settings.PROCRASTINATE_DATABASE_ALIAS = NO_DB_ALIAS
            yield ProcrastinateQueue()

    @pytest.fixture
    def outage(self, queue: ProcrastinateQueue, queue_name: str) -> Outage:
        lock = Lock()
        return Outage(
            queue, lock.begin, lock.end, lambda: [job.args["pks"] for job in jobs(queue_name)]
        )

    def test_the_log_names_the_cause(
        self, unreachable_queue: ProcrastinateQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        storage = QueuedStorage("disk", "far", alias="unreachable", queue=unreachable_queue)
        storage.save("a.txt", ContentFile(b"a"))
        assert "refused" in caplog.text


# Requirements


def test_the_app_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.apps, "is_installed", lambda name: False)
    with pytest.raises(InvalidQueue, match="INSTALLED_APPS"):
        ProcrastinateQueue()


def test_the_database_must_be_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "vendor", "sqlite", raising=False)
    with pytest.raises(InvalidQueue, match="PROCRASTINATE_DATABASE_ALIAS"):
        ProcrastinateQueue()


def test_a_long_queue_name_is_an_error(queue_name: str) -> None:
    with pytest.raises(InvalidQueue, match="too long"):
        ProcrastinateQueue(f"{queue_name}x")
