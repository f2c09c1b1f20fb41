"""Celery with real brokers and real workers."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import kombu
import pytest
from billiard.pool import soft_timeout_sighandler
from botocore.client import BaseClient
from celery import Celery
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connections, transaction
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import InvalidQueue
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues import celery as adapter
from queued_storage.queues import get_queue
from queued_storage.queues.celery import CeleryQueue
from queued_storage.queues.dummy import DummyQueue
from tests.queues.contracts import BrokerContract, BrokerProxy, Outage
from tests.support import services
from tests.support.celeryapp import app as project_app
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.latched import LatchedStorage
from tests.support.scripted import on_disk
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

Spawn = Callable[..., subprocess.Popen[Any]]
StartWorker = Callable[..., subprocess.Popen[Any]]
PATH = f"{CeleryQueue.__module__}.CeleryQueue"
CONTENT = os.urandom(300_000)


def own_keys(queue_name: str) -> dict[str, str]:
    """Keep the remains of killed workers in Redis apart."""
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
) -> StartWorker:
    """Start a worker, with additional arguments and settings of Celery."""
    command = [sys.executable, "-m", "celery", "-A", "tests.support.celeryapp", "worker"]
    options = ["-Q", queue_name, "-l", "WARNING", "--without-mingle", "--without-gossip"]

    def start(*arguments: str, **changes: Any) -> subprocess.Popen[Any]:
        environment = child_settings(
            CELERY_BROKER_URL=broker_url,
            CELERY_BROKER_TRANSPORT_OPTIONS=own_keys(queue_name),
            CELERY_TASK_DEFAULT_QUEUE=queue_name,
            QUEUED_STORAGE=settings.QUEUED_STORAGE | {"QUEUE": PATH},
            STORAGES=settings.STORAGES,
            **changes,
        )
        return spawn([*command, *options, *(arguments or ["-c", "1"])], env=environment)

    return start


@pytest.fixture
def storage(queue: CeleryQueue, settings: Settings) -> Any:
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    return storages["default"]


def close(producer: kombu.Producer) -> None:
    assert producer.connection
    producer.connection.collect()


def messages(
    broker_url: str, queue_name: str, count: int = 1, keys_of: str | None = None
) -> list[Any]:
    """Take all messages from the broker, after it has received `count`."""
    found: list[Any] = []
    options = own_keys(keys_of or queue_name)
    with kombu.Connection(broker_url, transport_options=options) as broker:
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


@pytest.mark.parametrize(
    ("broker_url", "pool"), [("redis", "prefork"), ("amqp", "threads")], indirect=["broker_url"]
)
def test_a_worker_with_beat_transfers_all_files(
    storage: Any, queue: CeleryQueue, start_worker: StartWorker, pool: str, tmp_path: Path
) -> None:
    with mock.patch.object(queue, "enqueue", return_value=None):  # the message is lost
        names = [storage.save("lost.bin", ContentFile(CONTENT))]
    beat = {"queued-storage": {"task": "queued_storage.sweep", "schedule": 1}}
    arguments = ["-P", pool, "-c", "2", "--beat", "--schedule", str(tmp_path / "beat")]
    start_worker(*arguments, CELERY_BEAT_SCHEDULE=beat)
    with transaction.atomic():
        names += [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
    storage.wait(timeout=60)
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * 4
    assert rows() == [(State.TRANSFERRED, 1)] * 4


def rows() -> list[tuple[str, int]]:
    return list(QueuedFile.objects.order_by("pk").values_list("state", "attempts"))


@pytest.fixture
def latch(settings: Settings, tmp_path: Path) -> Path:
    """The file with which a remote of other processes stops in the middle of an upload."""
    latch = tmp_path / "latch"
    far = {
        "BACKEND": f"{LatchedStorage.__module__}.LatchedStorage",
        "OPTIONS": {"latch": str(latch), "location": str(tmp_path / "far")},
    }
    settings.STORAGES = settings.STORAGES | {"far": far}
    return latch


def process_at(latch: Path) -> int:
    """The id of the process that stopped at the latch."""
    return int(until(lambda: latch.exists() and latch.read_text(), timeout=60))


def save_two(storage: Any, first: int) -> list[str]:
    with transaction.atomic():
        return [storage.save(f"{first + each}.bin", ContentFile(CONTENT)) for each in range(2)]


def let_go_on(storage: Any, latch: Path, *names: str) -> None:
    def are_remote() -> bool:
        latch.unlink(missing_ok=True)
        return all(map(storage.using_remote, names))

    until(are_remote, timeout=60)


def assert_whole_and_alone(*names: str) -> None:
    assert [content_of(storages["far"], name) for name in names] == [CONTENT] * len(names)
    assert sorted(storages["far"].listdir("")[1]) == sorted(names)


def test_a_killed_worker_is_made_up_for(
    latch: Path, storage: Any, start_worker: StartWorker
) -> None:
    worker = start_worker()
    name = storage.save("a.bin", ContentFile(CONTENT))
    process_at(latch)
    services.kill_group(worker)
    assert rows() == [(State.TRANSFERRING, 1)]
    half = storages["far"].size(name)
    assert 0 < half < len(CONTENT)
    assert content_of(storage, name) == CONTENT

    lease = QueuedFile.objects.get().lease_token
    start_worker()
    until(lambda: QueuedFile.objects.get().lease_token != lease or sweep())  # once it has expired
    let_go_on(storage, latch, name)
    assert_whole_and_alone(name)
    assert rows() == [(State.TRANSFERRED, 1)]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_a_redelivered_message_transfers_the_rest(
    latch: Path, storage: Any, queue: CeleryQueue, queue_name: str, start_worker: StartWorker
) -> None:
    """After the visibility timeout, and after a process was killed."""
    start_worker("-c", "2")
    timely = save_two(storage, 1)
    process_at(latch)
    let_unacknowledged_come_again(queue, queue_name)
    until(lambda: rows() == [(State.TRANSFERRING, 1)] * 2)  # one in each process
    let_go_on(storage, latch, *timely)
    assert_whole_and_alone(*timely)
    assert rows() == [(State.TRANSFERRED, 1)] * 2

    first, second = save_two(storage, 3)
    lost = process_at(latch)
    lease = storage.queued_file(first).lease_token
    os.kill(lost, signal.SIGKILL)
    let_go_on(storage, latch, second)
    # Once its lease has expired, by the message that came again or by a sweep
    until(lambda: storage.queued_file(first).lease_token != lease or sweep())
    let_go_on(storage, latch, first)
    assert_whole_and_alone(*timely, first, second)
    assert rows()[2:] == [(State.TRANSFERRED, 1)] * 2


def let_unacknowledged_come_again(queue: CeleryQueue, queue_name: str) -> None:
    """Do what every worker does when it starts, and at intervals."""
    options = own_keys(queue_name) | {"visibility_timeout": 0}
    with queue.app.connection_for_read(transport_options=options) as broker:
        broker.default_channel.qos.restore_visible(interval=1)


# Soft limits


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_a_soft_limit_ends_one_message(
    latch: Path,
    storage: Any,
    queue: CeleryQueue,
    queue_name: str,
    start_worker: StartWorker,
    settings: Settings,
) -> None:
    limited = CeleryQueue(queue.app, queue=queue_name, soft_time_limit=1)
    settings.QUEUED_STORAGE = {"QUEUE": limited, "LEASE": 60, "RETRY_DELAY": 1}
    start_worker()
    names = save_two(storage, 1)
    process = process_at(latch)
    until(lambda: rows()[0][0] == State.PENDING)
    first, second = QueuedFile.objects.order_by("pk")
    assert (first.lease_token, first.attempts) == ("", 1)
    assert first.last_error == "TimeLimitReached: Celery's soft time limit was reached."
    assert (second.state, second.attempts) == (State.PENDING, 0)
    assert on_disk() == names
    assert content_of(storage, names[0]) == CONTENT

    until(lambda: ledger().due().count() == 2)
    latch.unlink()
    queue.app.send_task("queued_storage.sweep", queue=queue_name)
    assert process_at(latch) == process  # the same process continues
    let_go_on(storage, latch, *names)
    assert_whole_and_alone(*names)
    assert rows() == [(State.TRANSFERRED, 2), (State.TRANSFERRED, 1)]


@pytest.fixture
def soft_limit() -> Iterator[Callable[[], None]]:
    """Send this process the signal that Celery sends to a process of its pool."""
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.signal(signal.SIGUSR1, before) is soft_timeout_sighandler


def test_a_soft_limit_interrupts_an_upload(
    soft_limit: Callable[[], None],
    s3_server: S3Server,
    s3_client: BaseClient,
    s3_bucket: str,
    s3_proxy: FaultProxy,
    s3_proxy_options: dict[str, Any],
) -> None:
    """botocore repeats an upload after any exception."""
    config = s3_server.client_config(retries={"mode": "standard", "total_max_attempts": 3})
    remote = S3Storage(**s3_proxy_options | {"client_config": config})
    storage = QueuedStorage("disk", remote, alias="limited", queue=DummyQueue())
    for name in ("a.bin", "b.bin"):
        storage.save(name, ContentFile(CONTENT * 30))  # more than one part
    s3_proxy.mode = Mode.SLOW
    s3_proxy.requests.clear()

    def reach_limit() -> None:
        until(lambda: any(request.startswith("PUT") for request in s3_proxy.requests))
        s3_proxy.mode = Mode.OK
        soft_limit()

    with ThreadPoolExecutor(1) as thread:
        reaching = thread.submit(reach_limit)
        adapter.run([row.pk for row in QueuedFile.objects.order_by("pk")])
        reaching.result()
    assert rows() == [(State.PENDING, 1), (State.PENDING, 0)]
    assert not any("b.bin" in request for request in s3_proxy.requests)
    assert not s3_client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads")
    assert not s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents")


def test_a_thread_has_no_soft_limit(soft_limit: Callable[[], None]) -> None:
    """Only the main thread can handle signals."""

    def run() -> None:
        adapter.run([1])
        connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()


# Messages


def test_a_message_contains_only_ids(
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


def test_options_are_sent_with_the_message(
    broker_url: str, queue_name: str, make_app: Callable[[str], Celery]
) -> None:
    app = make_app(broker_url)
    CeleryQueue(app, queue=queue_name, priority=3, expires=60, time_limit=9).enqueue([1])
    (message,) = messages(broker_url, queue_name)
    assert message.properties["priority"] == 3
    assert message.headers["expires"]
    assert message.headers["timelimit"] == [9, pytest.approx(8.1)]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("options", "conf", "soft_limit"),
    [
        ({}, {}, None),
        ({}, {"task_time_limit": 100}, 90),
        ({"time_limit": 10}, {"task_time_limit": 100}, 9),
        ({"time_limit": 10, "soft_time_limit": 2}, {}, 2),
        ({"time_limit": 10, "soft_time_limit": 2}, {"task_soft_time_limit": 5}, 2),
    ],
)
def test_a_hard_limit_gets_a_soft_one(
    broker_url: str,
    queue_name: str,
    make_app: Callable[[str], Celery],
    options: dict[str, Any],
    conf: dict[str, Any],
    soft_limit: float | None,
) -> None:
    app = make_app(broker_url)
    app.conf.update(conf)
    CeleryQueue(app, queue=queue_name, **options).enqueue([1])
    (message,) = messages(broker_url, queue_name)
    assert message.headers["timelimit"][1] == soft_limit


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_storages_can_have_separate_queues(
    broker_url: str, queue_name: str, make_app: Callable[[str], Celery], settings: Settings
) -> None:
    app = make_app(broker_url)
    aliases = ("photos", "videos")
    for alias in aliases:
        queue = {"BACKEND": PATH, "OPTIONS": {"app": app, "queue": f"{queue_name}-{alias}"}}
        options = {"local": "disk", "remote": "far", "queue": queue}
        backend = settings.STORAGES["default"]["BACKEND"]
        own = {alias: {"BACKEND": backend, "OPTIONS": options}}
        settings.STORAGES = settings.STORAGES | own
    for alias in aliases:
        storages[alias].save(f"{alias}.bin", ContentFile(b"a"))
    for alias in aliases:
        (message,) = messages(broker_url, f"{queue_name}-{alias}", keys_of=queue_name)
        pk = QueuedFile.objects.get(alias=alias).pk
        assert json.loads(message.body)[0] == [[pk]]


def test_the_routes_of_the_app_apply(
    broker_url: str, queue_name: str, make_app: Callable[[str], Celery]
) -> None:
    app = make_app(broker_url)
    app.conf.task_routes = {"queued_storage.*": {"queue": queue_name}}
    CeleryQueue(app).enqueue([1])
    assert len(messages(broker_url, queue_name)) == 1


def test_urgent_messages_come_first(
    broker_url: str, queue_name: str, make_app: Callable[[str], Celery]
) -> None:
    app = make_app(broker_url)
    app.conf.task_queue_max_priority = 9
    low, high = (0, 9) if broker_url.startswith("amqp") else (9, 0)
    for pk, priority in enumerate([low, high, low, high]):
        CeleryQueue(app, queue=queue_name, priority=priority).enqueue([pk])
    found = [json.loads(each.body)[0][0] for each in messages(broker_url, queue_name, 4)]
    assert found == [[1], [3], [0], [2]]


def test_sweeps_expire() -> None:
    assert 60 < adapter.sweep.expires < 3600


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


def test_a_lost_connection_is_replaced(
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


# Brokers that are unavailable


class TestBroker(BrokerContract):
    @pytest.fixture(params=["redis", "amqp"])
    def dead_queue(
        self,
        request: pytest.FixtureRequest,
        dead_port: int,
        make_app: Callable[[str], Celery],
    ) -> CeleryQueue:
        return CeleryQueue(make_app(f"{request.param}://127.0.0.1:{dead_port}//"))

    @pytest.fixture
    def outage(
        self,
        proxy: BrokerProxy,
        broker_url: str,
        queue_name: str,
        make_app: Callable[[str], Celery],
    ) -> Outage:
        def received() -> list[list[int]]:
            return [json.loads(each.body)[0][0] for each in messages(broker_url, queue_name)]

        return proxy.outage(CeleryQueue(make_app(proxy.url), queue=queue_name), received)


# The app


def test_the_app_can_be_a_path() -> None:
    assert CeleryQueue("tests.support.celeryapp.app").app is project_app
    for wrong in ("nowhere.app", "tests.support.celeryapp.Celery"):
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


def test_a_fork_has_connections_of_its_own(
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
