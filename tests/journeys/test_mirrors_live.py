"""A site with a mirror on a second real S3 server, which is gone for the whole run.

QUEUED_STORAGE_TEST_MIRRORED_FILES is the number of files.
"""

import contextlib
import hashlib
import io
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.test import override_settings
from pytest_django import Settings

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.transfers import probing
from tests.support.forks import Forks, forks
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

FILES = int(os.environ.get("QUEUED_STORAGE_TEST_MIRRORED_FILES", "21"))
PATIENCE = 60 + FILES / 20
SHORT = {"RETRIES": 3, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "PROBE_EVERY": 0.5, "LEASE": 4}
WORKER = "queued_storage.queues.worker.WorkerQueue"
QUEUED = "queued_storage.backends.QueuedStorage"
BUCKET = "mirrored"


@pytest.fixture
def servers(s3_server: S3Server) -> Iterator[dict[str, S3Server]]:
    with S3Server() as mirror:
        make_bucket(s3_server)
        make_bucket(mirror)
        yield {"main": s3_server, "mirror": mirror}
    with contextlib.closing(s3_server.client()) as client:
        client.delete_bucket(Bucket=BUCKET)


def make_bucket(server: S3Server) -> None:
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=BUCKET)


@pytest.fixture
def fork(
    servers: dict[str, S3Server], child_environment: dict[str, str], settings: Settings
) -> Iterator[Forks]:
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": WORKER}
    for name, server in servers.items():
        # The configuration of a client cannot be passed to other processes.
        options = server.options(BUCKET) | {"client_config": None, "addressing_style": "path"}
        backend = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | {name: backend}
    with forks(child_environment, settings) as found:
        yield found


def configured() -> Any:
    from django.conf import settings

    options = {"local": "disk", "remote": "main", "mirrors": ["mirror"]}
    default = {"BACKEND": QUEUED, "OPTIONS": options}
    override_settings(STORAGES=settings.STORAGES | {"default": default}).enable()
    return storages["default"]


def content_of(name: str) -> bytes:
    return f"{name} {hashlib.sha256(name.encode()).hexdigest()}".encode() * 20


def work() -> None:
    configured()
    call_command("queued_storage", "worker", poll=0.1, threads=2, stdout=io.StringIO())


def test_a_mirror_that_is_lost_is_filled_again(fork: Forks, servers: dict[str, S3Server]) -> None:
    storage = configured()
    first = [save(storage, f"first/{number}.txt") for number in range(FILES // 3)]
    worker = fork.start(work)
    until(lambda: copies().filter(state=CopyState.TRANSFERRED).count() == len(first), PATIENCE)

    servers["mirror"].kill()  # for the whole run
    names = first + [save(storage, f"then/{number}.txt") for number in range(FILES)]
    transferred = ledger().filter(state=State.TRANSFERRED)
    until(lambda: transferred.count() == len(names), PATIENCE)
    until(lambda: remotes().filter(state=RemoteState.AWAY).count() == 1, PATIENCE)
    overwritten = names[::7]
    for name in overwritten:
        write(storage, name, b"new " + content_of(name))
    for name in names[1::7]:
        storage.delete(name)
    names = [name for name in names if name not in names[1::7]]
    until(lambda: transferred.filter(generation__gt=1).count() == len(overwritten), PATIENCE)
    assert not copies().filter(state=CopyState.FAILED).exists()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0

    servers["mirror"].wipe()  # its disk is lost, and a new one is put in its place
    servers["mirror"].start()
    make_bucket(servers["mirror"])
    killed = fork.start(work)  # which dies while it makes copies
    probing.probe_closed(["default"])
    until(lambda: copies().filter(state=CopyState.PENDING).exclude(lease_token="").exists(), 20)
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join(30)
    with contextlib.suppress(CommandError):
        call_command(
            "queued_storage", "reconcile", "--repair", "missing-mirror", stdout=io.StringIO()
        )
    fork.start(work)
    until(lambda: is_done(names), PATIENCE)
    wanted = {name: content_of(name) for name in names}
    wanted |= {name: b"new " + content_of(name) for name in overwritten}
    assert objects(servers["main"]) == wanted
    assert objects(servers["mirror"]) == wanted


def save(storage: Any, name: str) -> str:
    found: str = storage.save(name, ContentFile(content_of(name)))
    return found


def write(storage: Any, name: str, data: bytes) -> None:
    with storage.open(name, "wb") as file:
        file.write(data)


def is_done(names: list[str]) -> bool:
    made = copies().filter(state=CopyState.TRANSFERRED).count()
    return made == len(names) == ledger().count() == copies().count()


def objects(server: S3Server) -> dict[str, bytes]:
    with contextlib.closing(server.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        keys = [key for key in keys if not key.startswith(".queued-storage")]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
