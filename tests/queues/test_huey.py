"""Huey with a real Redis and real consumers."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import transaction
from django.test import TransactionTestCase
from huey import MemoryHuey, PriorityRedisHuey, RedisHuey, SqliteHuey
from huey.api import Huey
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import BaseQueue, get_queue
from queued_storage.queues.huey import HueyQueue
from tests.queues.contracts import AdapterContract, BrokerContract, BrokerProxy, Outage
from tests.support import services
from tests.support.latched import LatchedStorage
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

Spawn = Callable[..., subprocess.Popen[Any]]
StartWorker = Callable[[], subprocess.Popen[Any]]
PATH = f"{HueyQueue.__module__}.HueyQueue"
TASK = "queued_storage.queues.huey.run"
CONTENT = os.urandom(300_000)


class TestContract(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.huey = MemoryHuey()
        return HueyQueue(self.huey)

    def run_workers(self) -> None:
        while task := self.huey.dequeue():
            self.huey.execute(task)
        assert self.huey.result_count() == 0

    def messages(self) -> list[str]:
        return [str(message) for message in messages(self.huey)]


def messages(huey: Huey) -> list[Any]:
    return [huey.serializer.deserialize(item) for item in huey.storage.enqueued_items()]


def content_of(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


@pytest.fixture
def make_huey(queue_name: str, redis_url: str) -> Iterator[Callable[..., Huey]]:
    pools = []

    def make(url: str = redis_url, cls: type[Huey] = RedisHuey) -> Huey:
        huey = cls(queue_name, url=url, clean_name=False)
        pools.append(huey.storage.pool)
        return huey

    yield make
    for pool in pools:
        pool.disconnect()


@pytest.fixture
def queue(make_huey: Callable[..., Huey]) -> HueyQueue:
    return HueyQueue(make_huey())


@pytest.fixture
def storage(queue: HueyQueue, settings: Settings) -> Any:
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


# Workers


@pytest.fixture
def start_worker(
    redis_url: str,
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Spawn,
    settings: Settings,
) -> StartWorker:
    def start() -> subprocess.Popen[Any]:
        environment = child_settings(
            HUEY={
                "name": queue_name,
                "immediate": False,
                "connection": {"url": redis_url, "clean_name": False},
            },
            INSTALLED_APPS=[
                *settings.INSTALLED_APPS,
                "huey.contrib.djhuey",
                "tests.support.hueyapp",
            ],
            QUEUED_STORAGE=settings.QUEUED_STORAGE | {"QUEUE": PATH},
            STORAGES=settings.STORAGES,
        )
        return spawn([sys.executable, "-m", "django", "run_huey"], env=environment)

    return start


def test_a_worker_transfers_what_is_saved(
    storage: Any, queue: HueyQueue, start_worker: StartWorker
) -> None:
    with transaction.atomic():
        names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
        assert messages(queue.huey) == []  # not before the commit
    pks = list(QueuedFile.objects.order_by("pk").values_list("pk", flat=True))
    assert [message.args for message in messages(queue.huey)] == [(pks,)]
    for _time in range(2):
        queue.enqueue(pks)
    with mock.patch.object(queue, "enqueue"):
        names.append(storage.save("lost.bin", ContentFile(CONTENT)))
    start_worker()  # its periodic task sweeps at once, and then every minute
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 4
    until(lambda: not messages(queue.huey))
    assert {row.attempts for row in QueuedFile.objects.all()} == {1}
    assert queue.huey.result_count() == 0


def test_a_killed_worker_is_made_up_for(
    storage: Any,
    queue: HueyQueue,
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
    # Its message is lost.
    assert not [each for each in messages(queue.huey) if each.name == TASK]

    latch.unlink()
    until(lambda: sweep() == 1)  # once the lease has expired
    start_worker()

    def goes_on() -> bool:
        latch.unlink(missing_ok=True)
        return storage.using_remote(name)

    until(goes_on, timeout=60)
    assert content_of(storages["far"], name) == CONTENT
    assert storages["far"].listdir("") == ([], [name])
    assert QueuedFile.objects.get().attempts == 1  # nothing blames this file yet


# Messages


def test_a_message_contains_ids_and_options(make_huey: Callable[..., Huey]) -> None:
    huey = make_huey(cls=PriorityRedisHuey)
    HueyQueue(huey, priority=3, expires=60, timeout=9).enqueue([1, 2])
    (message,) = messages(huey)
    assert (message.args, message.kwargs) == (([1, 2],), {})
    assert (message.priority, message.expires, message.timeout) == (3, 60, 9)
    assert (message.name, message.retries) == (TASK, 0)


def test_several_queues_share_an_instance() -> None:
    huey = MemoryHuey()
    HueyQueue(huey, priority=1).enqueue([1])
    HueyQueue(huey, priority=2).enqueue([2])
    assert [message.args for message in messages(huey)] == [([2],), ([1],)]


def test_signals_are_sent() -> None:
    huey = MemoryHuey()
    seen = []
    huey.signal("enqueued")(lambda signal, task: seen.append(task.args))
    HueyQueue(huey).enqueue([1])
    assert seen == [([1],)]


def test_a_lost_connection_is_replaced(queue: HueyQueue) -> None:
    queue.enqueue([1])
    for each in queue._storage_with_timeouts.pool._available_connections:
        each._sock.shutdown(socket.SHUT_RDWR)
    queue.enqueue([2])
    assert [message.args for message in messages(queue.huey)] == [([1],), ([2],)]


# Immediate mode


def test_immediate_mode_runs_at_once(make_huey: Callable[..., Huey]) -> None:
    huey = make_huey("redis://127.0.0.1:1")
    storage = QueuedStorage("disk", "far", alias="immediate", queue=HueyQueue(huey))
    huey.immediate = True
    assert storage.using_remote(storage.save("a.txt", ContentFile(b"a")))


def test_immediate_mode_returns_errors(make_huey: Callable[..., Huey]) -> None:
    huey = make_huey()
    huey.immediate = True
    storage = QueuedStorage("disk", "far", alias="failing", queue=HueyQueue(huey), delayed=True)
    storages["disk"].delete(name := storage.save("a.txt", ContentFile(b"a")))
    with pytest.raises(FileNotFoundError):
        storage.transfer(name).get()


# Brokers that are unavailable


class TestBroker(BrokerContract):
    @pytest.fixture
    def dead_queue(self, dead_port: int, make_huey: Callable[..., Huey]) -> HueyQueue:
        return HueyQueue(make_huey(f"redis://127.0.0.1:{dead_port}"))

    @pytest.fixture
    def broker_url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def outage(self, proxy: BrokerProxy, make_huey: Callable[..., Huey]) -> Outage:
        huey = make_huey(proxy.url)
        return proxy.outage(
            HueyQueue(huey), lambda: [message.args[0] for message in messages(huey)]
        )


# The instance


def test_the_instance_can_be_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    huey = MemoryHuey()
    monkeypatch.setattr(sys.modules[__name__], "HUEY", huey, raising=False)
    queue = get_queue({"BACKEND": PATH, "OPTIONS": {"huey": f"{__name__}.HUEY"}})
    assert isinstance(queue, HueyQueue)
    assert queue.huey is huey


@pytest.mark.parametrize("wrong", ["nowhere.huey", "tests.support.waiting.until"])
def test_an_invalid_instance_is_an_error(wrong: str) -> None:
    with pytest.raises(InvalidQueue, match=wrong):
        get_queue({"BACKEND": PATH, "OPTIONS": {"huey": wrong}})


def test_an_invalid_setting_is_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "huey.contrib.djhuey", raising=False)
    settings.HUEY = {"huey_class": "nowhere.Huey"}
    with pytest.raises(InvalidQueue, match="djhuey"):
        HueyQueue()
    assert "nowhere" in capsys.readouterr().out


def test_priorities_need_support(make_huey: Callable[..., Huey]) -> None:
    with pytest.raises(InvalidQueue, match="PriorityRedisHuey"):
        HueyQueue(make_huey(), priority=1)


def test_other_storages_are_not_copied(tmp_path: Path) -> None:
    huey = SqliteHuey(filename=str(tmp_path / "huey.db"))
    HueyQueue(huey).enqueue([1])
    assert [message.args for message in messages(huey)] == [([1],)]
    huey.storage.close()
