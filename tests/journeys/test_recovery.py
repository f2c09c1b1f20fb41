"""Every file is transferred eventually, despite faults and crashes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.queues.threads import ThreadQueue
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

Spawn = Callable[..., subprocess.Popen[Any]]
WORKER = [sys.executable, "-m", "django", "queued_storage", "worker"]
CONTENT = os.urandom(300_000)


def read(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


@pytest.fixture
def threads() -> Iterator[ThreadQueue]:
    queue = ThreadQueue(threads=2, poll=0.1)
    yield queue
    assert queue.stop(timeout=20)


@pytest.fixture
def short_retry_delays(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {
        "RETRY_DELAY": 0.2,
        "RETRY_MAX_DELAY": 0.5,
        "RETRIES": 1000,
        "PROBE_EVERY": 0.5,
    }


@pytest.fixture
def storage(
    threads: ThreadQueue, short_retry_delays: None, s3_proxy_options: dict[str, Any]
) -> QueuedStorage:
    remote = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": s3_proxy_options}
    alias = f"recovery-{s3_proxy_options['bucket_name']}"  # other tests' may still exist
    return QueuedStorage("disk", remote, alias=alias, queue=threads)


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HANG, Mode.STATUS_500, Mode.STATUS_503])
def test_file_is_served_locally_during_an_outage(
    storage: QueuedStorage,
    s3_proxy: FaultProxy,
    s3_client: BaseClient,
    s3_bucket: str,
    mode: Mode,
) -> None:
    s3_proxy.mode = mode
    name = storage.save("docs/report.bin", ContentFile(CONTENT))
    row = storage.queued_file(name)
    assert row

    until(remotes().closed().exists, 60)
    assert storage.url(name) == "/media/docs/report.bin"
    assert read(storage, name) == CONTENT
    assert storage.size(name) == len(CONTENT)
    assert QueuedFile.objects.get(pk=row.pk).state in {State.PENDING, State.TRANSFERRING}

    s3_proxy.mode = Mode.OK
    storage.wait(timeout=30)
    answer = s3_client.get_object(Bucket=s3_bucket, Key=name)  # type: ignore[attr-defined]
    assert answer["Body"].read() == CONTENT
    assert s3_proxy.endpoint_url in storage.url(name)
    row = QueuedFile.objects.get(pk=row.pk)
    assert (row.state, row.verified, row.last_error) == (State.TRANSFERRED, "checksum", "")


def test_interrupted_upload_is_repeated(
    storage: QueuedStorage, s3_proxy: FaultProxy, s3_client: BaseClient, s3_bucket: str
) -> None:
    s3_proxy.mode = Mode.RESET_MID_BODY
    name = storage.save("cut.bin", ContentFile(CONTENT))
    row = storage.queued_file(name)
    assert row
    until(remotes().closed().exists, 60)
    s3_proxy.mode = Mode.OK
    storage.wait(timeout=30)
    listing = s3_client.list_objects_v2(Bucket=s3_bucket)  # type: ignore[attr-defined]
    assert [(each["Key"], each["Size"]) for each in listing["Contents"]] == [(name, len(CONTENT))]


def test_lost_response_leaves_one_object(
    storage: QueuedStorage, s3_proxy: FaultProxy, s3_client: BaseClient, s3_bucket: str
) -> None:
    s3_proxy.mode = Mode.LOSE_ANSWER
    name = storage.save("lost.bin", ContentFile(CONTENT))
    row = storage.queued_file(name)
    assert row
    until(remotes().closed().exists, 60)
    s3_proxy.mode = Mode.OK
    storage.wait(timeout=30)
    listing = s3_client.list_objects_v2(Bucket=s3_bucket)  # type: ignore[attr-defined]
    assert [each["Key"] for each in listing["Contents"]] == [name]


SAVE_AND_DIE = """
import os, signal, django
django.setup()
from django.core.files.base import ContentFile
from django.db import transaction
from queued_storage.backends import QueuedStorage
from queued_storage.queues.base import BaseQueue

class DeadlyQueue(BaseQueue):
    def enqueue(self, pks):
        os.kill(os.getpid(), signal.SIGKILL)

storage = QueuedStorage("disk", "far", alias="default", queue=DeadlyQueue())
with transaction.atomic():
    storage.save("precious.bin", ContentFile(b"precious" * 1000))
"""


def test_file_survives_crash_between_commit_and_enqueue(
    spawn: Spawn, child_environment: dict[str, str]
) -> None:
    child = spawn([sys.executable, "-c", SAVE_AND_DIE], env=child_environment)
    assert child.wait(30) == -signal.SIGKILL
    assert QueuedFile.objects.get().state == State.PENDING

    worker = spawn([*WORKER, "--until-empty", "--poll", "0.1"], env=child_environment)
    assert worker.wait(30) == 0
    assert QueuedFile.objects.get().state == State.TRANSFERRED
    assert read(storages["far"], "precious.bin") == b"precious" * 1000


TRANSFER_AND_HANG = """
import sys, time, django
django.setup()
from django.core.files.storage import storages
from queued_storage.models import QueuedFile
from queued_storage.transfers import work

def hang(name, content, max_length=None):
    path = storages["far"].path(name)
    with open(path, "wb") as half:
        half.write(content.read(1000))
    print("half written", flush=True)
    time.sleep(600)

storages["far"].save = hang
work.run(QueuedFile.objects.get().pk)
"""


def test_file_survives_crash_during_transfer(
    spawn: Spawn, child_environment: dict[str, str]
) -> None:
    storage: Any = storages["default"]
    name = storage.save("big.bin", ContentFile(CONTENT))
    Path(storages["far"].path("")).mkdir(exist_ok=True)
    child = spawn(
        [sys.executable, "-c", TRANSFER_AND_HANG],
        env=child_environment,
        stdout=subprocess.PIPE,
    )
    assert child.stdout
    assert child.stdout.readline() == b"half written\n"
    child.kill()
    child.wait()
    child.stdout.close()
    row = QueuedFile.objects.get()
    assert row.state == State.TRANSFERRING
    assert row.lease_expires_at

    other = [*WORKER, "--until-empty", "--poll", "0.1"]
    assert spawn(other, env=child_environment).wait(30) == 0
    assert QueuedFile.objects.get().state == State.TRANSFERRING  # its lease has not expired

    QueuedFile.objects.update(due_at=row.saved_at)  # the lease expires
    assert spawn(other, env=child_environment).wait(30) == 0
    row = QueuedFile.objects.get()
    assert (row.state, row.remote_name, row.attempts) == (State.TRANSFERRED, name, 1)
    assert storages["far"].listdir("") == ([], [name])
    assert read(storages["far"], name) == CONTENT


def test_worker_stops_on_sigterm(spawn: Spawn, child_environment: dict[str, str]) -> None:
    worker = spawn([*WORKER, "--poll", "0.1"], env=child_environment, stdout=subprocess.PIPE)
    assert worker.stdout
    assert worker.stdout.readline() == b"Transferring files of default.\n"
    storages["default"].save("one.txt", ContentFile(b"one"))
    until(lambda: QueuedFile.objects.get().state == State.TRANSFERRED)
    worker.terminate()
    assert worker.wait(30) == 0
    assert worker.stdout.read() == b"Stopped.\n"
    worker.stdout.close()
