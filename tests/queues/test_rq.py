"""RQ with a real Redis and real workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, storages
from django.db import transaction
from django_rq import get_queue as get_rq_queue
from pytest_django import Settings
from redis import Redis

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import get_queue
from queued_storage.queues.rq import RQQueue
from queued_storage.queues.timeouts import TIMEOUT
from queued_storage.testing import Fault, FaultyStorage
from tests.queues.contracts import BrokerContract, BrokerProxy, Outage
from tests.support.latched import LatchedStorage
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

PATH = f"{RQQueue.__module__}.RQQueue"
CONTENT = os.urandom(300_000)
PATIENT = {"socket_timeout": 60, "socket_connect_timeout": 60}

SWEEPS = """
from rq import cron

from queued_storage.maintenance import sweep

cron.register(sweep, queue_name="{name}", interval=1, name="{name}")
"""


@pytest.fixture
def server(redis_url: str, queue_name: str, settings: Settings) -> Iterator[rq.Queue]:
    """RQ's queue `queue_name`, which is removed from Redis after the test."""
    settings.RQ_QUEUES = {queue_name: {"URL": redis_url}}
    queue = get_rq_queue(queue_name)
    yield queue
    for job_id in queue.failed_job_registry.get_job_ids(cleanup=False):
        queue.connection.delete(f"rq:job:{job_id}")
    queue.delete()
    queue.connection.srem("rq:workers", f"rq:worker:{queue_name}")
    queue.connection.close()


@pytest.fixture
def storage(server: rq.Queue, settings: Settings) -> Any:
    options = {"queue": server.name, "failure_ttl": 60}
    queue = {"BACKEND": PATH, "OPTIONS": options}
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


@pytest.fixture
def start(
    server: rq.Queue,
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
    settings: Settings,
) -> Callable[..., subprocess.Popen[Any]]:
    """Start one of django-rq's commands."""

    def start(*command: str) -> subprocess.Popen[Any]:
        environment = child_settings(
            INSTALLED_APPS=[*settings.INSTALLED_APPS, "django_rq"],
            QUEUED_STORAGE=settings.QUEUED_STORAGE,
            RQ_QUEUES=settings.RQ_QUEUES,
            STORAGES=settings.STORAGES,
        )
        return spawn([sys.executable, "-m", "django", *command], env=environment)

    return start


def content_of(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


# Workers


def test_a_worker_transfers_and_the_cron_sweeps(
    storage: Any, server: rq.Queue, start: Callable[..., Any], tmp_path: Path
) -> None:
    with transaction.atomic():
        names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
        assert server.count == 0  # not before the commit
    pks = list(QueuedFile.objects.order_by("pk").values_list("pk", flat=True))
    (job,) = server.jobs
    assert (job.func, job.args, job.kwargs) == (run_of_the_adapter(), (pks,), {})
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (-1, 0, 60)
    assert job.retries_left is None

    server.empty()  # the message is lost
    names.append(storage.save("told.bin", ContentFile(CONTENT)))
    storage.queue.enqueue([QueuedFile.objects.latest("pk").pk])  # and this message comes twice

    sweeps = tmp_path / "sweeps.py"
    sweeps.write_text(SWEEPS.format(name=server.name))
    start("rqworker", server.name, "--name", server.name)
    start("rqcron", str(sweeps))
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 4
    assert sorted(storages["far"].listdir("")[1]) == names
    assert {row.attempts for row in QueuedFile.objects.all()} == {1}
    assert not server.connection.exists(f"rq:job:{job.id}")


def run_of_the_adapter() -> Any:
    return sys.modules[RQQueue.__module__].run  # type: ignore[attr-defined]


@pytest.fixture
def latch(tmp_path: Path) -> Iterator[Path]:
    """The file with which "far" stops other processes in the middle of an upload."""
    latch = tmp_path / "latch"
    yield latch
    latch.unlink(missing_ok=True)  # a work horse outlives a killed worker


def test_a_killed_work_horse_is_made_up_for(
    storage: Any, server: rq.Queue, start: Callable[..., Any], settings: Settings, latch: Path
) -> None:
    far = {
        "BACKEND": f"{LatchedStorage.__module__}.LatchedStorage",
        "OPTIONS": {"latch": str(latch), "location": str(latch.parent / "far")},
    }
    settings.STORAGES = settings.STORAGES | {"far": far}
    storage = storages["default"]
    start("rqworker", server.name, "--name", server.name)
    name = storage.save("a.bin", ContentFile(CONTENT))
    horse = int(until(lambda: latch.exists() and latch.read_text(), timeout=60))
    os.kill(horse, signal.SIGKILL)
    row = QueuedFile.objects.get()
    assert (row.state, row.attempts) == (State.TRANSFERRING, 1)
    assert 0 < storages["far"].size(name) < len(CONTENT)
    assert content_of(storage, name) == CONTENT

    until(lambda: server.failed_job_registry.count == 1)  # RQ doesn't retry it
    assert server.count == 0
    until(lambda: sweep() == 1)  # once the lease has expired

    def goes_on() -> bool:
        latch.unlink(missing_ok=True)
        return bool(storage.using_remote(name))

    until(goes_on, timeout=60)
    assert content_of(storages["far"], name) == CONTENT
    assert storages["far"].listdir("") == ([], [name])
    assert QueuedFile.objects.get().attempts == 1  # nothing blames this file yet


# Messages


def test_options_are_sent_with_the_message(server: rq.Queue) -> None:
    RQQueue(server.name).enqueue([1])
    options = {"job_timeout": 90, "result_ttl": 30, "failure_ttl": 40, "at_front": True}
    RQQueue(server.name, **options).enqueue([2])
    first, second = server.jobs
    assert (first.args, second.args) == (([2],), ([1],))
    assert (first.timeout, first.result_ttl, first.failure_ttl) == (90, 30, 40)


def test_the_timeout_of_the_queue_applies(server: rq.Queue, settings: Settings) -> None:
    settings.RQ_QUEUES[server.name]["DEFAULT_TIMEOUT"] = 77
    RQQueue(server.name, job_timeout=None).enqueue([1])
    assert server.jobs[0].timeout == 77


def test_django_rq_does_not_delay_messages(server: rq.Queue, settings: Settings) -> None:
    settings.RQ = {"COMMIT_MODE": "request_finished"}
    RQQueue(server.name).enqueue([1])
    with transaction.atomic():  # of another database, for example
        RQQueue(server.name).enqueue([2])
        assert server.count == 2


def test_a_sync_queue_runs_at_once(server: rq.Queue, settings: Settings) -> None:
    settings.RQ_QUEUES[server.name]["ASYNC"] = False
    remote = FaultyStorage(InMemoryStorage(), fault=Fault.REFUSE)
    storage = QueuedStorage(
        "disk", remote, alias="sync-rq", queue=RQQueue(server.name), delayed=True
    )
    storage.save("a.txt", ContentFile(b"a"))
    with pytest.raises(ConnectionError, match="refused"):
        storage.transfer("a.txt").get()
    remote.fault = None
    assert storage.transfer("a.txt").get()


# A Redis that is unavailable


class TestBroker(BrokerContract):
    @pytest.fixture(params=["host", "url", "sentinels"])
    def dead_queue(
        self, request: pytest.FixtureRequest, dead_port: int, settings: Settings
    ) -> RQQueue:
        ways: dict[str, dict[str, Any]] = {
            "host": {"HOST": "127.0.0.1", "PORT": dead_port, "REDIS_CLIENT_KWARGS": PATIENT},
            "url": {"URL": f"redis://127.0.0.1:{dead_port}/0?socket_timeout=60"},
            "sentinels": {
                "SENTINELS": [("127.0.0.1", dead_port)],
                "MASTER_NAME": "main",
                "SENTINEL_KWARGS": PATIENT,
                "CONNECTION_KWARGS": PATIENT,
            },
        }
        settings.RQ_QUEUES = {"dead": ways[request.param]}
        return RQQueue("dead")

    @pytest.fixture
    def broker_url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def outage(self, proxy: BrokerProxy, server: rq.Queue, settings: Settings) -> Outage:
        settings.RQ_QUEUES = {server.name: {"URL": proxy.url}}
        return proxy.outage(RQQueue(server.name), lambda: [job.args[0] for job in server.jobs])


def test_a_cache_keeps_its_timeouts(
    redis_url: str, settings: Settings, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Redis.from_url(redis_url, **PATIENT)
    monkeypatch.setattr("django_rq.connection_utils.get_redis_connection", lambda *_: shared)
    settings.RQ_QUEUES = {queue_name: {"USE_REDIS_CACHE": "default"}}
    queue = RQQueue(queue_name)
    assert shared.connection_pool.connection_kwargs["socket_timeout"] == 60
    own = queue._queue.connection.connection_pool.connection_kwargs
    assert own["socket_timeout"] == own["socket_connect_timeout"] == TIMEOUT


# The queue


@pytest.mark.parametrize(
    ("queues", "problem"),
    [
        ({"default": {"HOST": "127.0.0.1", "PORT": 6379}}, r"RQ_QUEUES\['media'\]"),
        ({"media": {"HOST": "127.0.0.1"}}, "PORT"),
        (None, "define RQ_QUEUES"),
    ],
)
def test_an_unknown_queue_is_an_error(queues: Any, problem: str, settings: Settings) -> None:
    settings.RQ_QUEUES = queues
    with pytest.raises(InvalidQueue, match=problem):
        get_queue({"BACKEND": PATH, "OPTIONS": {"queue": "media"}})
