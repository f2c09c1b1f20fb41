"""Celery with real brokers and real workers."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu
import pytest
from celery import Celery
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import transaction
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile, State
from queued_storage.queues import celery as adapter
from queued_storage.queues import get_queue
from queued_storage.queues.celery import CeleryQueue
from tests import services
from tests.celeryapp import app as project_app
from tests.fault_proxy import FaultProxy, Mode
from tests.latched import LatchedStorage
from tests.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

Spawn = Callable[..., subprocess.Popen[Any]]
PATH = f"{CeleryQueue.__module__}.CeleryQueue"
CONTENT = os.urandom(300_000)


def own_keys(queue_name: str) -> dict[str, str]:
    """What a worker leaves behind on Redis when it is killed shall not reach another one."""
    return {"global_keyprefix": f"{queue_name}:"}


@pytest.fixture(params=["redis", "amqp"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def make_app(queue_name: str) -> Iterator[Callable[[str], Celery]]:
    apps = []

    def make(broker_url: str) -> Celery:
        app = Celery("tests", broker=broker_url, set_as_current=False)
        app.conf.broker_transport_options = own_keys(queue_name)
        apps.append(app)
        return app

    yield make
    for app in apps:
        for producer in adapter._producers_of(app)._idle:
            close(producer)
        app.close()


@pytest.fixture
def queue(broker_url: str, queue_name: str, make_app: Callable[[str], Celery]) -> CeleryQueue:
    """Publishes to `queue_name`."""
    return CeleryQueue(make_app(broker_url), queue=queue_name)


@pytest.fixture
def start_worker(
    broker_url: str,
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Spawn,
    settings: Settings,
) -> Callable[[], subprocess.Popen[Any]]:
    command = [sys.executable, "-m", "celery", "-A", "tests.celeryapp", "worker"]
    options = ["-Q", queue_name, "-c", "1", "--without-mingle", "--without-gossip"]

    def start() -> subprocess.Popen[Any]:
        environment = child_settings(
            CELERY_BROKER_URL=broker_url,
            CELERY_BROKER_TRANSPORT_OPTIONS=own_keys(queue_name),
            QUEUED_STORAGE=settings.QUEUED_STORAGE | {"QUEUE": PATH},
            STORAGES=settings.STORAGES,
        )
        return spawn([*command, *options, "-l", "WARNING"], env=environment)

    return start


@pytest.fixture
def storage(queue: CeleryQueue, settings: Settings) -> Any:
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


def close(producer: kombu.Producer) -> None:
    assert producer.connection
    producer.connection.collect()


def messages(broker_url: str, queue_name: str, count: int = 1) -> list[Any]:
    """Take all from the broker, which may receive the last of `count` a little later."""
    found: list[Any] = []
    with kombu.Connection(broker_url, transport_options=own_keys(queue_name)) as broker:
        queue = kombu.Queue(queue_name)(broker.default_channel)

        def are_there() -> bool:
            found.extend(iter(lambda: queue.get(no_ack=True), None))
            return len(found) >= count

        until(are_there)
    return found


def content_of(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


# Workers


def test_a_worker_transfers_what_is_saved(
    storage: Any, start_worker: Callable[[], subprocess.Popen[Any]]
) -> None:
    start_worker()
    with transaction.atomic():
        names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 3
    assert {row.attempts for row in QueuedFile.objects.all()} == {1}


def test_a_worker_that_is_killed_in_the_middle_is_made_up_for(
    storage: Any,
    start_worker: Callable[[], subprocess.Popen[Any]],
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
    half = storages["far"].size(name)
    assert 0 < half < len(CONTENT)
    assert content_of(storage, name) == CONTENT

    until(lambda: sweep() == 1)  # once the lease has ended
    start_worker()

    def goes_on() -> bool:
        latch.unlink(missing_ok=True)
        return storage.using_remote(name)

    until(goes_on, timeout=60)
    assert content_of(storages["far"], name) == CONTENT
    assert storages["far"].listdir("") == ([], [name])
    assert QueuedFile.objects.get().attempts == 2


# Messages


def test_a_message_holds_ids_and_nothing_else(
    storage: QueuedStorage, broker_url: str, queue_name: str
) -> None:
    with transaction.atomic():
        for name in ("private.txt", "secret.txt"):
            storage.save(name, ContentFile(b"content"))
    pks = list(QueuedFile.objects.order_by("pk").values_list("pk", flat=True))
    (message,) = messages(broker_url, queue_name)
    args, kwargs, _embed = json.loads(message.body)
    assert (args, kwargs) == ([pks], {})
    headers = message.headers
    assert headers["task"] == "queued_storage.run"
    assert headers["argsrepr"] == f"({pks},)"
    assert (headers["retries"], headers["ignore_result"]) == (0, True)
    text = f"{headers} {message.properties} {message.body}"
    for word in ("private", "secret", "content.txt", "default", "far.example"):
        assert word not in text


def test_options_go_with_the_message(
    broker_url: str, queue_name: str, make_app: Callable[[str], Celery]
) -> None:
    app = make_app(broker_url)
    CeleryQueue(app, queue=queue_name, priority=3, expires=60, time_limit=9).enqueue([1])
    (message,) = messages(broker_url, queue_name)
    assert message.properties["priority"] == 3
    assert message.headers["expires"]
    assert message.headers["timelimit"] == [9, None]


def test_one_connection_serves_many_messages(
    queue: CeleryQueue, broker_url: str, queue_name: str
) -> None:
    for pk in range(20):
        queue.enqueue([pk])
    assert len(adapter._producers_of(queue.app)._idle) == 1
    assert len(messages(broker_url, queue_name, 20)) == 20


def test_threads_do_not_share_a_connection(
    queue: CeleryQueue, broker_url: str, queue_name: str
) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(queue.enqueue, [[pk] for pk in range(200)]))
    assert len(adapter._producers_of(queue.app)._idle) <= 16
    found = [json.loads(each.body)[0][0] for each in messages(broker_url, queue_name, 200)]
    assert sorted(found) == [[pk] for pk in range(200)]


def test_a_connection_that_was_cut_meanwhile_is_replaced(
    queue: CeleryQueue, broker_url: str, queue_name: str
) -> None:
    queue.enqueue([1])
    (producer,) = adapter._producers_of(queue.app)._idle
    assert producer.connection is not None
    for end in sockets_of(producer.connection):
        end.shutdown(socket.SHUT_RDWR)
    queue.enqueue([2])
    assert len(messages(broker_url, queue_name, 2)) == 2


def sockets_of(connection: kombu.Connection) -> list[socket.socket]:
    if connection.transport.driver_type == "amqp":
        return [connection.connection.transport.sock]
    client = connection.default_channel.client
    return [each._sock for each in client.connection_pool._available_connections]


# Brokers that are away


@pytest.fixture(params=["closed", "hanging"])
def dead_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that refuses connections, or one that takes them and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "hanging":
            server.listen(50)
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_dead_broker_costs_a_second_and_a_line(
    scheme: str,
    dead_port: int,
    make_app: Callable[[str], Celery],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(f"{scheme}://127.0.0.1:{dead_port}//")
    storage = QueuedStorage("disk", "far", alias="dead-broker", queue=CeleryQueue(app))
    caplog.set_level("WARNING")
    for number in range(2):
        caplog.clear()
        started = time.monotonic()
        with transaction.atomic():
            storage.save(f"{number}.txt", ContentFile(b"a"))
            storage.save(f"{number}.bin", ContentFile(b"b"))
        assert time.monotonic() - started < 1.5
        (record,) = caplog.records
        assert "CeleryQueue could not be told of 2 files" in record.message
    assert QueuedFile.objects.due().filter(state=State.PENDING).count() == 4


@pytest.fixture
def broker_proxy(broker_url: str) -> Iterator[FaultProxy]:
    port = urlsplit(broker_url).port
    assert port
    with FaultProxy(port) as proxy:
        yield proxy


@pytest.fixture
def proxied(
    broker_proxy: FaultProxy,
    broker_url: str,
    queue_name: str,
    make_app: Callable[[str], Celery],
) -> CeleryQueue:
    """The queue on a connection that stands already."""
    url = broker_url.replace(f":{urlsplit(broker_url).port}", f":{broker_proxy.port}")
    queue = CeleryQueue(make_app(url), queue=queue_name)
    queue.enqueue([0])
    return queue


@pytest.mark.parametrize("mode", [Mode.HANG, Mode.REFUSE])
def test_a_broker_that_goes_away_and_comes_back(
    proxied: CeleryQueue, broker_proxy: FaultProxy, broker_url: str, queue_name: str, mode: Mode
) -> None:
    storage = QueuedStorage("disk", "far", alias=f"away-{queue_name}"[:64], queue=proxied)
    broker_proxy.mode = mode
    started = time.monotonic()
    storage.save("a.txt", ContentFile(b"a"))
    assert time.monotonic() - started < 1.5
    broker_proxy.mode = Mode.OK
    assert sweep(storage.alias) == 1
    pk = QueuedFile.objects.get().pk
    assert [pk] in [json.loads(each.body)[0][0] for each in messages(broker_url, queue_name)]


# The app


def test_the_app_is_found_by_its_path() -> None:
    assert CeleryQueue("tests.celeryapp.app").app is project_app
    for wrong in ("nowhere.app", "tests.celeryapp.Celery"):
        with pytest.raises(InvalidQueue, match=wrong):
            get_queue({"BACKEND": PATH, "OPTIONS": {"app": wrong}})


def test_the_current_app_is_the_default(
    make_app: Callable[[str], Celery],
    broker_url: str,
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app(broker_url)
    monkeypatch.setattr("celery._state._tls.current_app", app)  # as app.set_current() does
    queue = CeleryQueue(queue=queue_name)
    assert queue.app is app
    queue.enqueue([1])
    assert len(messages(broker_url, queue_name, 1)) == 1


def test_always_eager_runs_at_once(make_app: Callable[[str], Celery], dead_port: int) -> None:
    app = make_app(f"redis://127.0.0.1:{dead_port}/0")
    app.conf.task_always_eager = True
    storage = QueuedStorage("disk", "far", alias="eager", queue=CeleryQueue(app))
    name = storage.save("a.txt", ContentFile(b"a"))
    assert storage.using_remote(name)


def test_a_fork_leaves_the_connections_of_its_parent_alone(
    queue: CeleryQueue, broker_url: str, queue_name: str
) -> None:
    queue.enqueue([1])
    producers = adapter._producers_of(queue.app)
    (producer,) = producers._idle
    parent, producers._pid = producers._pid, -1  # as after a fork
    queue.enqueue([2])
    assert producers._pid == parent
    assert producers._inherited == [producer]
    assert producer not in producers._idle
    close(producer)
    assert len(messages(broker_url, queue_name, 2)) == 2
