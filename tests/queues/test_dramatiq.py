"""Dramatiq with real brokers and real workers."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import dramatiq
import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import transaction
from django.test import TransactionTestCase
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from pytest_django import Settings

from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import BaseQueue, get_queue
from queued_storage.queues.dramatiq import ACTOR, DramatiqQueue
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
PATH = f"{DramatiqQueue.__module__}.DramatiqQueue"
BROKERS = {
    "amqp": "dramatiq.brokers.rabbitmq.RabbitmqBroker",
    "redis": "dramatiq.brokers.redis.RedisBroker",
}
CONTENT = os.urandom(300_000)


class TestContract(AdapterContract, TransactionTestCase):
    def make_queue(self) -> BaseQueue:
        self.broker = StubBroker()
        return DramatiqQueue(self.broker)

    def run_workers(self) -> None:
        worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=2)
        worker.start()
        self.broker.join("default", timeout=20_000)
        worker.stop()

    def messages(self) -> list[str]:
        return [str(message) for message in list(self.broker.queues["default"].queue)]


# Workers


@pytest.fixture(params=["redis", "amqp"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def make_broker(
    queue_name: str, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], dramatiq.Broker]]:
    made = []

    def make(broker_url: str) -> dramatiq.Broker:
        if broker_url.startswith("amqp"):
            made.append(RabbitmqBroker(**options_for(broker_url, queue_name)))
        else:
            made.append(RedisBroker(**options_for(broker_url, queue_name)))
        return made[-1]

    yield make
    for broker in made:
        broker.close()
    if "amqp_url" in request.fixturenames:
        broker = RabbitmqBroker(**options_for(services.url("rabbitmq"), queue_name))
        for suffix in (".DQ", ".XQ"):  # delayed and dead messages
            broker.channel.queue_delete(f"{queue_name}{suffix}")
        broker.close()


def options_for(broker_url: str, queue_name: str) -> dict[str, str]:
    if broker_url.startswith("amqp"):
        return {"url": broker_url.removesuffix("//") + "/%2F"}  # the syntax of pika
    return {"url": broker_url, "namespace": queue_name}


@pytest.fixture
def queue(
    broker_url: str, queue_name: str, make_broker: Callable[[str], dramatiq.Broker]
) -> DramatiqQueue:
    """Publishes to `queue_name`."""
    return DramatiqQueue(make_broker(broker_url), queue_name=queue_name)


@pytest.fixture
def storage(queue: DramatiqQueue, settings: Settings) -> Any:
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


@pytest.fixture
def start_worker(
    broker_url: str,
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Spawn,
    settings: Settings,
) -> Callable[..., subprocess.Popen[Any]]:
    def start(*, django_dramatiq: bool = False) -> subprocess.Popen[Any]:
        options = {"queue_name": queue_name}
        apps = settings.INSTALLED_APPS
        if django_dramatiq:
            command = ["django", "rundramatiq"]
            apps = [*apps, "django_dramatiq"]
        else:
            command = ["dramatiq", "tests.support.dramatiqapp"]
            options["broker"] = "tests.support.dramatiqapp.broker"
        environment = child_settings(
            DRAMATIQ_BROKER={
                "BROKER": BROKERS[urlsplit(broker_url).scheme],
                "OPTIONS": options_for(broker_url, queue_name),
                "MIDDLEWARE": ["dramatiq.middleware.TimeLimit", "dramatiq.middleware.Retries"],
            },
            INSTALLED_APPS=apps,
            QUEUED_STORAGE=settings.QUEUED_STORAGE
            | {"QUEUE": {"BACKEND": PATH, "OPTIONS": options}},
            STORAGES=settings.STORAGES,
        )
        arguments = ["--processes", "1", "--threads", "1", "--queues", queue_name]
        return spawn([sys.executable, "-m", *command, *arguments], env=environment)

    return start


def content_of(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def messages(queue: DramatiqQueue, queue_name: str, count: int = 1) -> list[Any]:
    """Take all messages from the broker, after it has received `count`."""
    found: list[Any] = []
    consumer = queue.broker.consume(queue_name, prefetch=count + 1, timeout=20)

    def are_there() -> bool:
        if message := next(consumer):
            consumer.ack(message)
            found.append(message)
        return message is None and len(found) >= count

    until(are_there)
    consumer.close()
    return found


def test_a_worker_transfers_what_is_saved(
    storage: Any, queue: DramatiqQueue, queue_name: str, start_worker: Any
) -> None:
    # Both ways of starting workers work with both brokers; test each once.
    is_redis = isinstance(queue.broker, RedisBroker)
    start_worker(django_dramatiq=not is_redis)
    with transaction.atomic():
        names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 3

    pks = list(QueuedFile.objects.values_list("pk", flat=True))
    for _time in range(2):
        queue.enqueue(pks)
    with mock.patch.object(queue, "enqueue"):
        lost = storage.save("lost.bin", ContentFile(CONTENT))
    if is_redis:  # as a scheduler would
        message = dramatiq.Message(queue_name, "sweep_files", (), {}, {})
        queue.broker.enqueue(message)
    else:
        assert sweep() == 1
    until(lambda: storage.using_remote(lost))
    assert {row.attempts for row in QueuedFile.objects.all()} == {1}


def test_a_rolled_back_save_sends_nothing(
    storage: Any, queue: DramatiqQueue, queue_name: str
) -> None:
    with transaction.atomic():
        storage.save("a.txt", ContentFile(b"a"))
        assert messages(queue, queue_name, 0) == []
        transaction.set_rollback(True)
    assert messages(queue, queue_name, 0) == []


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_a_killed_worker_is_made_up_for(
    storage: Any, start_worker: StartWorker, settings: Settings, tmp_path: Path
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

    latch.unlink()
    start_worker()
    until(lambda: sweep() == 1)  # once the lease has expired

    def goes_on() -> bool:
        latch.unlink(missing_ok=True)
        return storage.using_remote(name)

    until(goes_on, timeout=60)
    assert content_of(storages["far"], name) == CONTENT
    assert storages["far"].listdir("") == ([], [name])
    assert QueuedFile.objects.get().attempts == 1  # nothing blames this file yet


# Messages


def test_a_message_contains_ids_and_options(
    queue_name: str, broker_url: str, make_broker: Callable[[str], dramatiq.Broker]
) -> None:
    options = {"broker_priority": 3, "time_limit": 9000, "max_age": 60_000}
    queue = DramatiqQueue(make_broker(broker_url), queue_name=queue_name, **options)
    queue.enqueue([1, 2])
    (message,) = messages(queue, queue_name)
    assert (message.actor_name, message.args, message.kwargs) == (ACTOR, ([1, 2],), {})
    assert message.options.items() >= options.items()


def test_the_actor_has_no_retries_or_limit() -> None:
    broker = StubBroker()
    DramatiqQueue(broker)
    assert broker.get_actor(ACTOR).options == {"max_retries": 0, "time_limit": float("inf")}
    bare = StubBroker(middleware=[])
    DramatiqQueue(bare)
    assert bare.get_actor(ACTOR).options == {}


def test_one_broker_serves_several_queues() -> None:
    broker = StubBroker()
    for name in ("a", "b"):
        DramatiqQueue(broker, queue_name=name).enqueue([1])
    assert [queue.qsize() for queue in (broker.queues["a"], broker.queues["b"])] == [1, 1]


def test_a_lost_connection_is_replaced(queue: DramatiqQueue, queue_name: str) -> None:
    queue.enqueue([1])
    for end in sockets_of(queue._publisher):
        end.shutdown(socket.SHUT_RDWR)
    queue.enqueue([2])
    assert len(messages(queue, queue_name, 2)) == 2


def sockets_of(publisher: Any) -> list[socket.socket]:
    if isinstance(publisher, RabbitmqBroker):
        return [publisher.connection._impl._transport._sock]
    return [each._sock for each in publisher.client.connection_pool._available_connections]


def test_a_fork_has_connections_of_its_own(queue: DramatiqQueue, queue_name: str) -> None:
    queue.enqueue([1])
    parent, queue._pid = queue._publisher, -1  # as after a fork
    queue.enqueue([2])
    assert queue._pid == os.getpid()
    assert not set(sockets_of(parent)) & set(sockets_of(queue._publisher))
    assert len(messages(queue, queue_name, 2)) == 2


# Brokers that are unavailable


class TestBroker(BrokerContract):
    noisy = ("dramatiq", "pika")

    @pytest.fixture(params=["redis", "amqp"])
    def dead_queue(
        self,
        request: pytest.FixtureRequest,
        dead_port: int,
        make_broker: Callable[[str], dramatiq.Broker],
    ) -> DramatiqQueue:
        return DramatiqQueue(make_broker(f"{request.param}://127.0.0.1:{dead_port}"))

    @pytest.fixture
    def outage(
        self,
        proxy: BrokerProxy,
        queue_name: str,
        make_broker: Callable[[str], dramatiq.Broker],
    ) -> Outage:
        queue = DramatiqQueue(make_broker(proxy.url), queue_name=queue_name)
        return proxy.outage(
            queue, lambda: [each.args[0] for each in messages(queue, queue_name, 0)]
        )


# The broker


def test_the_broker_can_be_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = StubBroker()
    monkeypatch.setattr(sys.modules[__name__], "BROKER", broker, raising=False)
    options = {"broker": f"{__name__}.BROKER"}
    queue = get_queue({"BACKEND": PATH, "OPTIONS": options})
    assert isinstance(queue, DramatiqQueue)
    assert queue.broker is broker


@pytest.mark.parametrize("wrong", ["nowhere.broker", "tests.support.waiting.until"])
def test_an_invalid_broker_is_an_error(wrong: str) -> None:
    with pytest.raises(InvalidQueue, match=wrong.rpartition(".")[0] if "no" in wrong else "until"):
        get_queue({"BACKEND": PATH, "OPTIONS": {"broker": wrong}})


def test_the_global_broker_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    with pytest.raises(InvalidQueue, match="No Dramatiq broker was set"):
        DramatiqQueue()
    broker = StubBroker()
    dramatiq.set_broker(broker)
    assert DramatiqQueue().broker is broker


def test_an_invalid_queue_name_is_an_error() -> None:
    with pytest.raises(InvalidQueue, match="two words"):
        DramatiqQueue(StubBroker(), queue_name="two words")
