import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.session
import kombu
import pytest
import redis
from asgiref.sync import sync_to_async
from botocore.client import BaseClient
from django.conf import settings
from django.contrib.contenttypes.management import create_contenttypes
from django.core.cache import cache
from django.db import connection, connections
from django.db.models.signals import post_migrate

from queued_storage.ledger.aliases import registry
from tests.support import services
from tests.support.fault_proxy import FaultProxy
from tests.support.lanes import keep_those_for
from tests.support.services import S3Server
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    # An earlier run with the same process id may have left the directory.
    shutil.rmtree(settings.DIRECTORY, ignore_errors=True)
    Path(settings.DIRECTORY).mkdir(mode=0o700)


def pytest_unconfigure() -> None:
    shutil.rmtree(settings.DIRECTORY, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if lanes := os.environ.get("QUEUED_STORAGE_TEST_LANES", "").split():
        others = keep_those_for(settings.DATABASE, lanes, items)
        config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let a flush write no permissions and content types again, which ``flush`` of the test app
    keeps. At the end, wait until the threads of the last test have closed their connections, before
    PostgreSQL refuses to delete the database. One thread of asgiref lives as long as the process:
    that in which ``asyncio.run()`` has synchronous code run."""
    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")
    yield
    with django_db_blocker.unblock():
        asyncio.run(sync_to_async(connections.close_all)())
        until_alone()


def until_alone() -> None:
    if connection.vendor != "postgresql":
        return
    others = "datname = current_database() AND pid <> pg_backend_pid()"

    def ended() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT state, query FROM pg_stat_activity WHERE {others}")
            found.append(cursor.fetchall())
        return not found[-1]

    found: list[Any] = []
    try:
        until(ended)
    except AssertionError:
        raise AssertionError(f"Other sessions use the database: {found[-1]}") from None


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """Isolate the files, cache entries, inline storages and remotes of each test."""
    from queued_storage.files import volumes  # needs the models, as do the next ones
    from queued_storage.transfers import (
        circuit,
        mounting,
        signs,
        throughput,
        watching,
    )

    before = registry.living_storages()
    yield
    watching.stop()
    throughput.forget()
    mounting.wait(10)
    signs.wait(10)
    circuit.reset()
    volumes.forget()
    # The alias of a field's storage may be from a test with other STORAGES.
    registry.reset(keep=before)
    cache.clear()
    for alias in ("disk", "far"):
        shutil.rmtree(Path(settings.DIRECTORY) / alias, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def service_models() -> Iterator[None]:
    """Let all sessions of boto3 read the models of its services only once, which saves nine tenths
    of the time that a new client takes."""
    once = functools.cache(botocore.session.create_loader)
    with mock.patch.object(botocore.session, "create_loader", once):
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    services.require("s3")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_client(s3_server: S3Server) -> Iterator[BaseClient]:
    """A boto3 client that connects to the server directly."""
    client = s3_server.client()
    yield client
    client.close()


@pytest.fixture
def asked_soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Probe the S3 server at the first upload, and forget earlier results."""
    from queued_storage.uploaders.s3 import trust  # needs the models

    monkeypatch.setattr(trust, "PROBE_AFTER", 1)
    trust.forget()
    yield
    trust.forget()


@pytest.fixture
def s3_bucket(s3_server: S3Server, s3_client: BaseClient) -> Iterator[str]:
    """The name of a bucket for this test only. A test may leave the server stopped."""
    name = f"bucket-{uuid.uuid4().hex}"
    if s3_server.process is None:
        s3_server.start()
    s3_client.create_bucket(Bucket=name)
    yield name
    if s3_server.process is None:
        s3_server.start()
    s3_client.delete_bucket(Bucket=name)  # SeaweedFS also deletes buckets that are not empty


@pytest.fixture
def s3_options(s3_server: S3Server, s3_bucket: str) -> dict[str, Any]:
    """OPTIONS of an S3Storage on `s3_bucket`."""
    return s3_server.options(s3_bucket)


@pytest.fixture
def s3_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server without faults until its `mode` is set."""
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def s3_proxy_options(s3_server: S3Server, s3_proxy: FaultProxy, s3_bucket: str) -> dict[str, Any]:
    """OPTIONS of an S3Storage that reaches `s3_bucket` through `s3_proxy`."""
    return s3_server.options(s3_bucket, s3_proxy.endpoint_url)


@pytest.fixture
def queue_name() -> str:
    """A unique name for the queues, key prefixes and consumers of this test."""
    return f"queued-storage-{uuid.uuid4().hex}"


@pytest.fixture
def redis_url(queue_name: str) -> Iterator[str]:
    """The URL of Redis. The keys that contain `queue_name` are deleted after the test."""
    services.require("redis")
    yield services.url("redis")
    with redis.Redis.from_url(services.url("redis")) as client:
        if keys := list(client.scan_iter(f"*{queue_name}*")):
            client.delete(*keys)


@pytest.fixture
def amqp_url(queue_name: str) -> Iterator[str]:
    """The URL of RabbitMQ. The queue and exchange `queue_name` are deleted after the test."""
    services.require("rabbitmq")
    yield services.url("rabbitmq")
    with kombu.Connection(services.url("rabbitmq")) as broker, broker.channel() as channel:
        channel.queue_delete(queue_name)
        channel.exchange_delete(queue_name)


@pytest.fixture
def child_environment(transactional_db: None) -> dict[str, str]:
    """The environment of a process that uses the database and directories of this test."""
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
        "QUEUED_STORAGE_TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
        "QUEUED_STORAGE_TEST_DIRECTORY": settings.DIRECTORY,
    }


@pytest.fixture
def child_settings(child_environment: dict[str, str]) -> Callable[..., dict[str, str]]:
    """Return the same environment with some settings changed."""

    def environment(**changes: Any) -> dict[str, str]:
        return child_environment | {
            "DJANGO_SETTINGS_MODULE": "tests.support.worker_settings",
            "QUEUED_STORAGE_TEST_SETTINGS": json.dumps(changes, default=str),
        }

    return environment


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Start processes with the arguments of Popen, and kill them and their children afterwards."""
    with contextlib.ExitStack() as stack:

        def start(args: list[str], **options: Any) -> subprocess.Popen[Any]:
            process = services.spawn(args, **{"cwd": ROOT} | options)
            stack.callback(services.kill_group, process)
            return process

        yield start


@pytest.fixture
def changes() -> Iterator[list[str]]:
    """The states of all remotes, in the order in which they were announced."""
    from queued_storage.signals import remote_changed  # needs the settings

    found: list[str] = []

    def receiver(state: str, **kwargs: Any) -> None:
        found.append(str(state))

    remote_changed.connect(receiver)
    yield found
    remote_changed.disconnect(receiver)
