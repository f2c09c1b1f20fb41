"""Outages of a real S3 server, with several sites and workers of different kinds.

QUEUED_STORAGE_TEST_OUTAGE_FILES is the number of files that are saved during the outage.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from botocore.client import BaseClient
from celery import Celery
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.test import override_settings
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.remotes import Remote, RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.queues.celery import CeleryQueue
from tests.support.fault_proxy import FaultProxy
from tests.support.forks import ended, forks
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

FILES = int(os.environ.get("QUEUED_STORAGE_TEST_OUTAGE_FILES", "300"))
PATIENCE = 60 + FILES / 10  # seconds, on a busy machine
PROBE_EVERY = 1.0
SHORT = {"RETRIES": 2, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.2, "PROBE_EVERY": PROBE_EVERY}
SLACK = 5.0  # seconds for which a busy machine may do something else
WATCHED = 5.0  # seconds of the outage; longer than all retries together
WARM_UP = 9  # files that are uploaded before the outage
THREADS = "queued_storage.queues.threads.ThreadQueue"
WORKER = "queued_storage.queues.worker.WorkerQueue"
CELERY = [sys.executable, "-m", "celery", "-A", "tests.support.celeryapp", "worker"]
CELERY += ["-l", "WARNING", "-c", "1", "--without-mingle", "--without-gossip"]

Fork = Callable[..., Any]


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Fork]:
    with forks(child_environment, settings) as found:
        yield found.start


@pytest.fixture
def on_s3(settings: Settings, s3_proxy_options: dict[str, Any]) -> None:
    """The remote is the bucket behind `s3_proxy`."""
    # The configuration of a client cannot be passed to other processes.
    options = s3_proxy_options | {"client_config": None, "addressing_style": "path"}
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": far}
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": WORKER}


# The processes


def threads_site(number: int, count: int) -> None:
    """Save files, and upload them in threads."""
    use_queue({"BACKEND": THREADS, "OPTIONS": {"poll": 0.2}})
    save(number, count)
    threading.Event().wait()


def celery_site(number: int, count: int, broker_url: str, name: str) -> None:
    """Save files, and notify the workers of Celery."""
    app = Celery("tests", broker=broker_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": f"{name}:"}
    use_queue(CeleryQueue(app, queue=name))
    save(number, count)


def worker_site(number: int, count: int) -> None:
    """Save files for a worker that looks for them."""
    save(number, count)


def work() -> None:
    call_command("queued_storage", "worker", poll=0.2)


def use_queue(queue: Any) -> None:
    from django.conf import settings

    override_settings(QUEUED_STORAGE=settings.QUEUED_STORAGE | {"QUEUE": queue}).enable()


def save(number: int, count: int) -> None:
    for each in range(count):
        storages["default"].save(f"{number}/{each}.txt", ContentFile(b"%d" % each))


@pytest.fixture
def start_celery(
    redis_url: str,
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
    settings: Settings,
) -> Callable[[], subprocess.Popen[Any]]:
    def start() -> subprocess.Popen[Any]:
        environment = child_settings(
            CELERY_BROKER_URL=redis_url,
            CELERY_BROKER_TRANSPORT_OPTIONS={"global_keyprefix": f"{queue_name}:"},
            CELERY_TASK_DEFAULT_QUEUE=queue_name,
            QUEUED_STORAGE=settings.QUEUED_STORAGE
            | {"QUEUE": f"{CeleryQueue.__module__}.CeleryQueue"},
            STORAGES=settings.STORAGES,
        )
        return spawn([*CELERY, "-Q", queue_name], env=environment)

    return start


# What the ledger says


def remote() -> Remote:
    return remotes().get()


def is_closed() -> bool:
    return remotes().closed().exists()


def transferred() -> int:
    return ledger().filter(state=State.TRANSFERRED).count()


def require_untouched_by_outage() -> None:
    waiting = ledger().exclude(state=State.TRANSFERRED)
    assert set(waiting.values_list("state", "attempts", "lease_token")) <= {(State.PENDING, 0, "")}


def rank_correlation(rows: list[QueuedFile]) -> float:
    """Spearman's, of the order of saving and the order of uploading; 1 if they are the same."""
    by_upload = sorted(rows, key=lambda row: (row.transferred_at, row.pk))
    uploaded = {row.pk: rank for rank, row in enumerate(by_upload)}
    by_save = sorted(rows, key=lambda row: row.pk)
    distances = sum((rank - uploaded[row.pk]) ** 2 for rank, row in enumerate(by_save))
    return 1 - 6 * distances / (len(rows) * (len(rows) ** 2 - 1))


# Switched off


@pytest.mark.timeout(0)
def test_outage_longer_than_all_retries(
    on_s3: None,
    fork: Fork,
    start_celery: Callable[[], subprocess.Popen[Any]],
    redis_url: str,
    queue_name: str,
    s3_server: S3Server,
    s3_proxy: FaultProxy,
) -> None:
    celery, share = (redis_url, queue_name), FILES // 3
    start_celery()
    fork(work)
    fork(threads_site, 0, WARM_UP // 3)
    fork(celery_site, 1, WARM_UP // 3, *celery)
    fork(worker_site, 2, WARM_UP // 3)
    until(lambda: transferred() == WARM_UP, PATIENCE)
    warm_up = ledger().latest("pk").pk

    s3_server.stop()
    sites = [fork(threads_site, 3, share), fork(celery_site, 4, share, *celery)]
    sites += [fork(worker_site, 5, share)]
    count = WARM_UP + 3 * share
    until(lambda: ledger().count() == count, PATIENCE)
    assert [ended(site) for site in sites[1:]] == [0, 0]
    until(is_closed, PATIENCE)
    until(lambda: remote().probes > 1, PATIENCE)  # the interval has grown to its maximum
    assert remote().state == RemoteState.AWAY

    until(lambda: not ledger().exclude(lease_token="").exists(), PATIENCE)  # begun before
    before = s3_proxy.accepted
    started = time.monotonic()
    while time.monotonic() - started < WATCHED:
        require_untouched_by_outage()
        assert is_closed()
        time.sleep(0.2)
    probes = (time.monotonic() - started) / PROBE_EVERY
    assert 0 < s3_proxy.accepted - before <= probes + 1
    use_without_remote(s3_proxy)

    s3_server.start()
    ready_at = datetime.now(UTC)
    until(lambda: transferred() == count, PATIENCE)
    saved = ledger().filter(pk__gt=warm_up, state=State.TRANSFERRED)  # not what was deleted
    rows = list(saved.order_by("pk"))
    assert len(rows) == 3 * share
    assert rank_correlation(rows) >= 0.95
    first = min(row.transferred_at for row in rows)
    assert (first - ready_at).total_seconds() <= 2 * PROBE_EVERY + SLACK
    assert {row.attempts for row in rows} <= {1}


def use_without_remote(proxy: FaultProxy) -> None:
    """Do what a site does, and require that it asks nothing of the remote."""
    storage: Any = storages["default"]
    refuse = mock.Mock(side_effect=AssertionError("The site called the remote."))
    with mock.patch.object(BaseClient, "_make_api_call", refuse):
        name = storage.save("used.txt", ContentFile(b"used"))
        assert storage.exists(name)
        assert storage.size(name) == 4
        assert storage.url(name) == storage.local.url(name)
        with storage.open(name) as file:
            assert file.read() == b"used"
        storage.delete(name)
        assert not storage.exists(name)
