"""django-q2 with its brokers on Redis and on the database, and a real cluster."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, storages
from django.db import transaction
from django.utils.module_loading import import_string
from django_q.brokers import Broker, get_broker
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule, Task
from django_q.signing import SignedPackage
from django_q.tasks import schedule
from pytest_django import Settings
from redis import Redis

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import get_queue
from queued_storage.queues.django_q import DjangoQQueue
from queued_storage.queues.timeouts import TIMEOUT
from queued_storage.testing import Fault, FaultyStorage
from tests.queues.contracts import BrokerContract, BrokerProxy, Outage
from tests.support.latched import LatchedStorage
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

PATH = f"{DjangoQQueue.__module__}.DjangoQQueue"
CONTENT = os.urandom(300_000)
PATIENT = {"socket_timeout": 60, "socket_connect_timeout": 60}


@pytest.fixture
def on_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make Redis the broker. Return the options for `Q_CLUSTER`."""
    monkeypatch.setattr(Conf, "REDIS", redis_url)
    return {"redis": redis_url}


@pytest.fixture
def on_database(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Conf, "ORM", "default")
    return {"orm": "default", "poll": 0.05}


@pytest.fixture
def storage(queue_name: str, settings: Settings) -> Any:
    queue = {"BACKEND": PATH, "OPTIONS": {"cluster": queue_name}}
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


@pytest.fixture
def start_cluster(
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
    settings: Settings,
) -> Callable[..., subprocess.Popen[Any]]:
    def start(**options: Any) -> subprocess.Popen[Any]:
        cluster = settings.Q_CLUSTER | {"cluster_name": queue_name, "workers": 1} | options
        environment = child_settings(
            Q_CLUSTER=cluster,
            QUEUED_STORAGE=settings.QUEUED_STORAGE,
            STORAGES=settings.STORAGES,
        )
        return spawn([sys.executable, "-m", "django", "qcluster"], env=environment)

    return start


@pytest.fixture
def latch(tmp_path: Path, settings: Settings) -> Path:
    """The file with which "far" stops other processes in the middle of an upload."""
    latch = tmp_path / "latch"
    far = {
        "BACKEND": f"{LatchedStorage.__module__}.LatchedStorage",
        "OPTIONS": {"latch": str(latch), "location": str(tmp_path / "far")},
    }
    settings.STORAGES = settings.STORAGES | {"far": far}
    return latch


def content_of(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def tasks(broker: Broker) -> list[dict[str, Any]]:
    """Take all tasks from a broker on Redis."""
    found = []
    while packed := broker.connection.lpop(broker.list_key):
        found.append(SignedPackage.loads(packed.decode()))
    return found


# Clusters


def test_a_cluster_transfers_and_its_schedule_sweeps(
    storage: Any, queue_name: str, on_redis: dict[str, Any], start_cluster: Callable[..., Any]
) -> None:
    broker = get_broker(queue_name)
    with transaction.atomic():
        names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
        assert broker.queue_size() == 0  # not before the commit
    pks = list(QueuedFile.objects.order_by("pk").values_list("pk", flat=True))
    (task,) = tasks(broker)  # so this message is lost
    assert (task["func"], task["args"], task["kwargs"]) == (
        "queued_storage.queues.django_q.run",
        (pks,),
        {},
    )
    assert (task["timeout"], task["save"], task["ack_failure"]) == (-1, False, True)

    names.append(storage.save("told.bin", ContentFile(CONTENT)))
    storage.queue.enqueue([QueuedFile.objects.latest("pk").pk])  # and this message comes twice
    schedule("queued_storage.maintenance.sweep", schedule_type="I", minutes=1, cluster=queue_name)
    # The cluster checks its schedules every thirty seconds, which it counts in guard cycles.
    start_cluster(**on_redis, guard_cycle=30)
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 4
    assert sorted(storages["far"].listdir("")[1]) == names
    assert {row.attempts for row in QueuedFile.objects.all()} == {1}
    assert Schedule.objects.get().next_run > task["started"]
    until(Task.objects.exists)
    assert Task.objects.get().func == "queued_storage.maintenance.sweep"
    broker.connection.close()


def test_a_killed_worker_is_made_up_for(
    storage: Any,
    queue_name: str,
    on_redis: dict[str, Any],
    start_cluster: Callable[..., Any],
    latch: Path,
) -> None:
    storage = storages["default"]
    start_cluster(**on_redis)
    name = storage.save("a.bin", ContentFile(CONTENT))
    kill_the_worker(latch, storage, name)
    broker = get_broker(queue_name)
    assert broker.queue_size() == 0  # on Redis, the message is lost
    broker.connection.close()
    until(lambda: sweep() == 1)  # once the lease has expired
    let_go_on(latch, storage, name)


def test_the_database_redelivers_after_a_kill(
    storage: Any, on_database: dict[str, Any], start_cluster: Callable[..., Any], latch: Path
) -> None:
    storage = storages["default"]
    with transaction.atomic():
        name = storage.save("a.bin", ContentFile(CONTENT))
        assert not OrmQ.objects.exists()  # not before the commit
    start_cluster(**on_database, timeout=2, retry=4)  # after the lease has expired
    kill_the_worker(latch, storage, name)
    assert OrmQ.objects.count() == 1
    let_go_on(latch, storage, name)
    until(lambda: not OrmQ.objects.exists())


def kill_the_worker(latch: Path, storage: Any, name: str) -> None:
    worker = int(until(lambda: latch.exists() and latch.read_text(), timeout=60))
    os.kill(worker, signal.SIGKILL)
    row = QueuedFile.objects.get()
    assert (row.state, row.attempts) == (State.TRANSFERRING, 1)
    assert 0 < storages["far"].size(name) < len(CONTENT)
    assert content_of(storage, name) == CONTENT


def let_go_on(latch: Path, storage: Any, name: str) -> None:
    def goes_on() -> bool:
        latch.unlink(missing_ok=True)
        return bool(storage.using_remote(name))

    until(goes_on, timeout=60)
    assert content_of(storages["far"], name) == CONTENT
    assert storages["far"].listdir("") == ([], [name])
    assert QueuedFile.objects.get().attempts == 1  # nothing blames this file yet


# Messages


@pytest.mark.usefixtures("on_redis")
def test_options_are_sent_with_the_message(queue_name: str) -> None:
    DjangoQQueue(queue_name, timeout=90).enqueue([1])
    (task,) = tasks(get_broker(queue_name))
    assert task["timeout"] == 90


@pytest.mark.usefixtures("on_redis")
def test_the_default_cluster_is_from_the_settings(
    queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conf, "CLUSTER_NAME", queue_name)
    DjangoQQueue().enqueue([1])
    (task,) = tasks(get_broker(queue_name))
    assert task["args"] == ([1],)


@pytest.mark.usefixtures("on_database")
def test_the_database_as_broker_needs_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, DjangoQQueue.__module__)
    monkeypatch.setitem(sys.modules, "redis", None)
    import_string(PATH)().enqueue([1])
    assert OrmQ.objects.get().task["args"] == ([1],)


@pytest.mark.parametrize("timeout", [0, -5, "soon", None])
def test_an_invalid_timeout_is_an_error(timeout: Any) -> None:
    with pytest.raises(InvalidQueue, match="timeout"):
        get_queue({"BACKEND": PATH, "OPTIONS": {"timeout": timeout}})


def test_a_sync_cluster_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "SYNC", True)
    remote = FaultyStorage(InMemoryStorage(), fault=Fault.REFUSE)
    storage = QueuedStorage("disk", remote, alias="sync-q", queue=DjangoQQueue(), delayed=True)
    storage.save("a.txt", ContentFile(b"a"))
    with pytest.raises(ConnectionError, match="refused"):
        storage.transfer("a.txt").get()
    remote.fault = None
    assert storage.transfer("a.txt").get()


# A Redis that is unavailable


class TestBroker(BrokerContract):
    @pytest.fixture(params=["url", "options"])
    def dead_queue(
        self,
        request: pytest.FixtureRequest,
        dead_port: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> DjangoQQueue:
        ways: dict[str, Any] = {
            "url": f"redis://127.0.0.1:{dead_port}/0?socket_timeout=60",
            "options": {"host": "127.0.0.1", "port": dead_port, **PATIENT},
        }
        monkeypatch.setattr(Conf, "REDIS", ways[request.param])
        return DjangoQQueue()

    @pytest.fixture
    def broker_url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def outage(
        self, proxy: BrokerProxy, queue_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> Outage:
        monkeypatch.setattr(Conf, "REDIS", proxy.url)
        return proxy.outage(
            DjangoQQueue(queue_name),
            lambda: [task["args"][0] for task in tasks(get_broker(queue_name))],
        )


def test_a_cache_keeps_its_timeouts(
    redis_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Redis.from_url(redis_url, **PATIENT)
    monkeypatch.setattr("django_q.brokers.redis_broker.redis.StrictRedis", lambda: shared)
    queue = DjangoQQueue(queue_name)
    assert shared.connection_pool.connection_kwargs["socket_timeout"] == 60
    own = queue._broker.connection.connection_pool.connection_kwargs
    assert own["socket_timeout"] == own["socket_connect_timeout"] == TIMEOUT
