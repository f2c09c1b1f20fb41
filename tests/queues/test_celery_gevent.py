"""Celery's gevent pool, which patches threads, locks, sleeps and sockets."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from pytest_django import Settings

from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.queues import celery as adapter
from queued_storage.queues.celery import CeleryQueue
from tests.support.latched import LatchedStorage
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

PATH = f"{CeleryQueue.__module__}.CeleryQueue"
CONTENT = os.urandom(300_000)


@pytest.fixture
def queue(redis_url: str, queue_name: str) -> Iterator[CeleryQueue]:
    app = Celery("tests", broker=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": f"{queue_name}:"}
    yield CeleryQueue(app, queue=queue_name)
    for producer in adapter._producers_of(app)._idle:
        assert producer.connection
        producer.connection.collect()
    app.close()


def test_greenlets_transfer_in_parallel(
    redis_url: str,
    queue: CeleryQueue,
    queue_name: str,
    settings: Settings,
    tmp_path: Path,
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
) -> None:
    latch = tmp_path / "latch"
    backend = f"{LatchedStorage.__module__}.LatchedStorage"
    options = {"latch": str(latch), "location": str(tmp_path / "far")}
    settings.STORAGES = settings.STORAGES | {"far": {"BACKEND": backend, "OPTIONS": options}}
    settings.QUEUED_STORAGE = {"QUEUE": queue, "LEASE": 2}
    env = child_settings(
        CELERY_BROKER_URL=redis_url,
        CELERY_BROKER_TRANSPORT_OPTIONS=queue.app.conf.broker_transport_options,
        QUEUED_STORAGE={"QUEUE": PATH, "LEASE": 2},
        STORAGES=settings.STORAGES,
    )
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.support.celeryapp",
        "worker",
        "-P",
        "gevent",
    ]
    quiet = ["-l", "WARNING", "--without-mingle", "--without-gossip"]
    spawn([*command, "-c", "10", "-Q", queue_name, *quiet], env=env)

    storage: Any = storages["default"]
    names = [storage.save(f"{number}.bin", ContentFile(CONTENT)) for number in range(3)]
    running = QueuedFile.objects.filter(state=State.TRANSFERRING)
    until(lambda: running.count() == 3, timeout=60)
    ends = max(running.values_list("due_at", flat=True))
    until(lambda: running.filter(due_at__gt=ends).count() == 3)  # their leases are renewed

    def are_remote() -> bool:
        latch.unlink(missing_ok=True)
        return all(map(storage.using_remote, names))

    until(are_remote)
    for name in names:
        with storages["far"].open(name) as file:
            assert file.read() == CONTENT
    assert set(QueuedFile.objects.values_list("attempts", flat=True)) == {1}
