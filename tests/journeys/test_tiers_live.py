"""The chain of tiers in the docs, on two disks and a real S3 server.

Workers are killed while they transfer, and the server is away for a while.
"""

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.test import override_settings
from pytest_django import Settings

from queued_storage.exceptions import TransferTimeout
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.operations import tiers
from queued_storage.transfers import probing
from tests.support.forks import Forks, forks
from tests.support.services import S3Server
from tests.support.waiting import until
from tests.test_docs import blocks, section

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

SHORT = {"RETRIES": 3, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "PROBE_EVERY": 0.5, "LEASE": 4}
WORKER = "queued_storage.queues.worker.WorkerQueue"
FILES = 12
PATIENCE = 60


@pytest.fixture
def fork(
    s3_server: S3Server,
    s3_bucket: str,
    child_environment: dict[str, str],
    settings: Settings,
) -> Iterator[Forks]:
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": WORKER}
    settings.STORAGES = settings.STORAGES | documented(s3_server, s3_bucket, settings)
    with forks(child_environment, settings) as found:
        yield found


def documented(server: S3Server, bucket: str, settings: Settings) -> dict[str, Any]:
    """The storages of the docs, with the places of this test."""
    [source] = blocks(section("storages", "Tiers"), "python")
    names: dict[str, Any] = {}
    exec(source, names)  # it is ours
    found: dict[str, Any] = names["STORAGES"]
    for name in ("disk", "share"):
        location = Path(settings.DIRECTORY) / f"tier-{name}"
        location.mkdir(exist_ok=True)
        found[name].setdefault("OPTIONS", {})["location"] = str(location)
    # The configuration of a client cannot be passed to other processes.
    options = server.options(bucket) | {"client_config": None, "addressing_style": "path"}
    found["archive"]["OPTIONS"] = options
    return found


def configured() -> Any:
    from django.conf import settings

    override_settings(STORAGES=settings.STORAGES).enable()
    return storages["default"]


def work() -> None:
    configured()
    call_command("queued_storage", "worker", poll=0.1, threads=2, stdout=io.StringIO())


def content_of(name: str) -> bytes:
    return f"{name} ".encode() * 2000


def test_files_get_to_the_last_tier(fork: Forks, s3_server: S3Server, s3_bucket: str) -> None:
    storage = configured()
    names = [save(storage, f"first/{number}.txt") for number in range(FILES)]
    worker = fork.start(work)
    until(lambda: archived().exists(), PATIENCE)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(30)

    s3_server.kill()
    names += [save(storage, f"then/{number}.txt") for number in range(FILES)]
    worker = fork.start(work)
    # The first tier works, so all files of the site are transferred; the second one waits.
    until(lambda: of("default", State.TRANSFERRED) == len(names), PATIENCE)
    until(lambda: remotes().filter(alias="nas", state=RemoteState.AWAY).exists(), PATIENCE)
    with pytest.raises(TransferTimeout, match="has been away"):
        storage.wait(timeout=0)
    storage.wait(timeout=0, tier="nas")
    [chain] = [each for each in tiers.chains() if each.alias == "default"]
    assert chain.pending == len(names) - archived().count() > 0
    assert chain.failed == 0
    deleted, names = names[-1], names[:-1]
    storage.delete(deleted)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(30)

    s3_server.start()
    fork.start(work)
    probing.probe_closed(["nas"])
    storage.wait(names, timeout=PATIENCE)
    until(lambda: not ledger().filter(name=deleted).exists(), PATIENCE)
    assert objects(s3_server, s3_bucket) == {name: content_of(name) for name in names}
    [chain] = [each for each in tiers.chains() if each.alias == "default"]
    assert (chain.pending, chain.failed) == (0, 0)


def save(storage: Any, name: str) -> str:
    found: str = storage.save(name, ContentFile(content_of(name)))
    return found


def of(alias: str, state: str) -> int:
    return ledger().filter(alias=alias, state=state).count()


def archived() -> Any:
    return ledger().filter(alias="nas", state=State.TRANSFERRED)


def objects(server: S3Server, bucket: str) -> dict[str, bytes]:
    with contextlib.closing(server.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        keys = [key for key in keys if not key.startswith(".queued-storage")]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
