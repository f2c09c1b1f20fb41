"""Workers that are killed or frozen at each step; see tests/support/failpoints.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from celery import Celery
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import transaction
from pytest_django import Settings

from queued_storage.files.localfiles import is_unfinished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.queues.celery import CeleryQueue
from queued_storage.transfers import copies
from tests.support import services
from tests.support.failpoints import FailPoint
from tests.support.forks import ended, forks
from tests.support.scripted import LONG_AGO, on_disk
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

CONTENT = os.urandom(300_000)
NEWER = os.urandom(290_000)


@pytest.fixture
def fail_point(tmp_path: Path) -> Callable[[str], FailPoint]:
    return lambda name: FailPoint(name, tmp_path / "reached")


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Callable[..., Any]]:
    with forks(child_environment, settings) as found:
        yield found.start


@pytest.fixture
def evicting(settings: Settings) -> None:
    """The default storage evicts local copies."""
    default = settings.STORAGES["default"]
    options = default["OPTIONS"] | {"task": "queued_storage.tasks.TransferAndDelete"}
    settings.STORAGES = settings.STORAGES | {"default": default | {"OPTIONS": options}}


def work(threads: int = 4) -> None:
    call_command("queued_storage", "worker", poll=0.05, threads=threads)


@pytest.fixture
def kill_worker(
    fork: Callable[..., Any], fail_point: Callable[[str], FailPoint]
) -> Callable[[str], None]:
    """Run a worker until the fail point of this name kills it."""

    def kill(name: str) -> None:
        worker = fork(work, point=fail_point(name))
        assert ended(worker) == -signal.SIGKILL

    return kill


def end_leases() -> None:
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)


def finish() -> None:
    """Process every due file in this process, as another worker."""
    storage: Any = storages["default"]
    end_leases()
    while sweep():
        assert storage.queue.deliver() == {}


def read(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def the_row() -> QueuedFile:
    return ledger().get()


def is_settled(row: QueuedFile) -> bool:
    return (row.state, row.lease_token, row.due_at) == (State.TRANSFERRED, "", None)


# Killed in a transfer


TRANSFER = ["claiming", "claimed", "reserved", "copying", "written", "verified", "promoted"]
EVICTION = ["promoted", "evicting", "local copy freed", "evicted"]


@pytest.mark.parametrize("point", TRANSFER)
def test_another_worker_finishes_the_transfer(
    point: str, kill_worker: Callable[[str], None]
) -> None:
    storage: Any = storages["default"]
    name = storage.save("docs/a.bin", ContentFile(CONTENT))
    kill_worker(point)
    assert read(storage, name) == CONTENT
    assert storage.size(name) == len(CONTENT)

    finish()
    assert is_settled(the_row())
    assert the_row().attempts <= 2
    assert on_disk() == on_disk("far") == [name]
    assert read(storages["far"], name) == read(storages["disk"], name) == CONTENT


@pytest.mark.usefixtures("evicting")
@pytest.mark.parametrize("point", EVICTION)
def test_another_worker_finishes_the_eviction(
    point: str, kill_worker: Callable[[str], None]
) -> None:
    storage: Any = storages["default"]
    name = storage.save("docs/a.bin", ContentFile(CONTENT))
    kill_worker(point)
    assert read(storage, name) == CONTENT
    assert storage.size(name) == len(CONTENT)
    assert storage.using_remote(name)

    finish()
    assert is_settled(the_row())
    assert not the_row().is_local
    assert on_disk() == []
    assert on_disk("far") == [name]
    assert read(storage, name) == CONTENT


# Killed in a delete

PURGE = [
    "purging",
    "remote copy removed",
    "dropping",
    "local copy removed",
    "both removed",
    "purged",
]


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> str:
    """A transferred file, deleted by a process that wrote the tombstone and nothing else."""
    storage: Any = storages["default"]
    name: str = storage.save("docs/a.bin", ContentFile(CONTENT))
    storage.queue.deliver()
    with monkeypatch.context() as patches:
        patches.setattr(copies, "drop_local", lambda *args: None)
        storage.delete(name)
    assert on_disk() == on_disk("far") == [name]
    return name


@pytest.mark.parametrize("point", PURGE)
def test_another_worker_finishes_the_delete(
    point: str, deleted: str, kill_worker: Callable[[str], None]
) -> None:
    kill_worker(point)
    assert not storages["default"].exists(deleted)

    finish()
    assert not ledger().exists()
    assert on_disk() == on_disk("far") == []
    assert storages["default"].save(deleted, ContentFile(b"")) == deleted


# Frozen past the end of its lease


class Frozen:
    """A worker that is stopped at a fail point until it is thawed."""

    def __init__(self, process: Any, point: FailPoint) -> None:
        self.process = process
        self.point = point

    def freeze(self) -> None:
        until(lambda: self.point.reached)
        os.kill(self.process.pid, signal.SIGSTOP)
        until(lambda: process_state(self.process.pid) == "T")

    def thaw(self) -> None:
        """Let the worker continue and exit."""
        self.point.release()
        os.kill(self.process.pid, signal.SIGTERM)  # a worker ends after its current file
        os.kill(self.process.pid, signal.SIGCONT)
        assert ended(self.process) == 0


def process_state(pid: int) -> str:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout[:1]


@pytest.fixture
def freeze_worker(
    fork: Callable[..., Any], fail_point: Callable[[str], FailPoint]
) -> Callable[[str], Frozen]:
    def freeze(name: str) -> Frozen:
        point = fail_point(name)
        # Its only thread is at the point, so it is not stopped while it locks the database.
        frozen = Frozen(fork(work, 1, point=point, hold=True), point)
        frozen.freeze()
        return frozen

    return freeze


def everything() -> Any:
    """Return all rows, and all files with inode, modification time and content."""
    files = [path for path in Path(django_settings.DIRECTORY).glob("[df]*/**/*") if path.is_file()]
    return list(ledger().order_by("pk").values()), {
        path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files
    }


def nothing(name: str) -> None:
    """Do nothing; another worker finishes the transfer."""


def overwrite(name: str) -> None:
    with storages["default"].open(name, "wb") as file:
        file.write(NEWER)


def delete_and_save(name: str) -> None:
    """Delete the file, also on the remote, and save a newer one under its name."""
    storage: Any = storages["default"]
    storage.delete(name)
    finish()
    assert storage.save(name, ContentFile(NEWER)) == name


def delete(name: str) -> None:
    storages["default"].delete(name)


MEANWHILE = pytest.mark.parametrize("meanwhile", [nothing, overwrite, delete_and_save, delete])


@MEANWHILE
@pytest.mark.parametrize("point", ["claimed", "written", "verified"])
def test_a_zombie_changes_nothing(
    point: str, meanwhile: Callable[[str], None], freeze_worker: Callable[[str], Frozen]
) -> None:
    name = storages["default"].save("docs/a.bin", ContentFile(CONTENT))
    zombie = freeze_worker(point)
    end_leases()
    meanwhile(name)
    finish()
    settled = everything()
    zombie.thaw()
    assert everything() == settled


@MEANWHILE
@pytest.mark.parametrize("point", ["reserved", "copying"])
def test_a_zombie_with_expired_lease_changes_nothing(
    point: str,
    meanwhile: Callable[[str], None],
    freeze_worker: Callable[[str], Frozen],
    settings: Settings,
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LEASE": 1}
    name = storages["default"].save("docs/a.bin", ContentFile(CONTENT))
    zombie = freeze_worker(point)
    until(lambda: ledger().due().exists())
    meanwhile(name)
    finish()
    settled = everything()
    zombie.thaw()
    assert everything() == settled


@pytest.mark.usefixtures("evicting")
@MEANWHILE
@pytest.mark.parametrize("point", ["promoted", "evicted"])
def test_a_zombie_evicts_nothing(
    point: str, meanwhile: Callable[[str], None], freeze_worker: Callable[[str], Frozen]
) -> None:
    name = storages["default"].save("docs/a.bin", ContentFile(CONTENT))
    zombie = freeze_worker(point)
    end_leases()
    meanwhile(name)
    finish()
    settled = everything()
    zombie.thaw()
    assert everything() == settled


@pytest.mark.parametrize("point", ["purging", "remote copy removed"])
def test_a_zombie_deletes_no_newer_file(
    point: str, deleted: str, freeze_worker: Callable[[str], Frozen]
) -> None:
    zombie = freeze_worker(point)
    finish()
    assert storages["default"].save(deleted, ContentFile(NEWER)) == deleted
    finish()
    settled = everything()
    zombie.thaw()
    assert everything() == settled
    assert read(storages["far"], deleted) == NEWER


# The same on a real S3 server

PART = TransferConfig().multipart_chunksize


@pytest.fixture
def on_s3(settings: Settings, s3_options: dict[str, Any]) -> None:
    options = s3_options | {"client_config": None}  # it cannot be passed to other processes
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": far}


@pytest.fixture
def in_bucket(on_s3: None, s3_client: Any, s3_bucket: str) -> Callable[[], dict[str, bytes]]:
    """Return the objects in the bucket; unfinished uploads, which are billed, are an error."""

    def bucket_content() -> dict[str, bytes]:
        assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=s3_bucket)
        found = s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents", [])
        return {
            each["Key"]: s3_client.get_object(Bucket=s3_bucket, Key=each["Key"])["Body"].read()
            for each in found
        }

    return bucket_content


TO_S3 = pytest.mark.parametrize(
    ("point", "size"),
    [
        ("read for S3", len(CONTENT)),
        ("sending parts to S3", 2 * PART + 1),
        ("written to S3", 2 * PART + 1),
    ],
)


@pytest.mark.one_database
@TO_S3
def test_another_worker_finishes_transfer_to_s3(
    point: str,
    size: int,
    in_bucket: Callable[[], dict[str, bytes]],
    kill_worker: Callable[[str], None],
) -> None:
    storage: Any = storages["default"]
    content = os.urandom(size)
    name = storage.save("docs/a.bin", ContentFile(content))
    kill_worker(point)
    assert read(storage, name) == content

    finish()
    assert is_settled(the_row())
    assert in_bucket() == {name: content}


@pytest.mark.one_database
@TO_S3
def test_delete_removes_remains_on_s3(
    point: str,
    size: int,
    in_bucket: Callable[[], dict[str, bytes]],
    kill_worker: Callable[[str], None],
) -> None:
    storage: Any = storages["default"]
    name = storage.save("docs/a.bin", ContentFile(bytes(size)))
    kill_worker(point)
    storage.delete(name)
    finish()
    assert not ledger().exists()
    assert in_bucket() == {}


@pytest.mark.one_database
@pytest.mark.parametrize("meanwhile", [overwrite, delete_and_save, delete])
@pytest.mark.parametrize(
    ("point", "size"),
    [("reserved", 3000), ("read for S3", len(CONTENT)), ("sending parts to S3", 2 * PART + 1)],
)
def test_a_zombie_uploads_nothing_old_to_s3(
    point: str,
    size: int,
    meanwhile: Callable[[str], None],
    in_bucket: Callable[[], dict[str, bytes]],
    freeze_worker: Callable[[str], Frozen],
    settings: Settings,
) -> None:
    """The zombie has not sent its whole request yet. Once the last byte has been sent, or read from
    the local copy, a request cannot be stopped."""
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LEASE": 1}
    name = storages["default"].save("docs/a.bin", ContentFile(bytes(size)))
    zombie = freeze_worker(point)
    until(lambda: ledger().due().exists())
    meanwhile(name)
    finish()
    settled = everything(), in_bucket()
    assert settled[1] == ({} if meanwhile is delete else {name: NEWER})
    zombie.thaw()
    assert (everything(), in_bucket()) == settled


# Killed in the embedded threads of the process that saved

THREADS = {
    "BACKEND": "queued_storage.queues.threads.ThreadQueue",
    "OPTIONS": {"threads": 2, "poll": 0.05},
}


def save_and_go_on(name: str, content: bytes) -> None:
    with transaction.atomic():
        storages["default"].save(name, ContentFile(content))
    time.sleep(60)


def save_delete_and_go_on(name: str, content: bytes) -> None:
    storage: Any = storages["default"]
    storage.save(name, ContentFile(content))
    storage.wait(timeout=30)
    storage.delete(name)
    time.sleep(60)


@pytest.fixture
def kill_application(
    fork: Callable[..., Any], fail_point: Callable[[str], FailPoint], settings: Settings
) -> Callable[..., None]:
    """Run a function in a process with embedded threads until the fail point kills it."""

    def kill(point: str, function: Callable[..., None], *args: Any) -> None:
        ours = settings.QUEUED_STORAGE
        settings.QUEUED_STORAGE = ours | {"QUEUE": THREADS}
        application = fork(function, *args, point=fail_point(point))
        settings.QUEUED_STORAGE = ours
        assert ended(application) == -signal.SIGKILL

    return kill


@pytest.mark.one_database
@pytest.mark.usefixtures("evicting")
@pytest.mark.parametrize("point", ["claimed", "copying", "verified", "promoted", "evicting"])
def test_worker_finishes_transfer_of_embedded_threads(
    point: str, kill_application: Callable[..., None]
) -> None:
    name = "docs/a.bin"
    kill_application(point, save_and_go_on, name, CONTENT)
    assert read(storages["default"], name) == CONTENT

    finish()
    assert is_settled(the_row())
    assert on_disk() == []
    assert on_disk("far") == [name]
    assert read(storages["default"], name) == CONTENT


@pytest.mark.one_database
@pytest.mark.parametrize("point", ["buried", "purging", "both removed"])
def test_worker_finishes_delete_of_embedded_threads(
    point: str, kill_application: Callable[..., None]
) -> None:
    kill_application(point, save_delete_and_go_on, "docs/a.bin", CONTENT)
    assert not storages["default"].exists("docs/a.bin")

    finish()
    assert not ledger().exists()
    assert on_disk() == on_disk("far") == []


@pytest.mark.parametrize("point", ["saved locally", "recorded"])
def test_crash_before_commit_saves_nothing(
    point: str, kill_application: Callable[..., None]
) -> None:
    kill_application(point, save_and_go_on, "docs/a.bin", CONTENT)
    assert not ledger().exists()
    draft, left = on_disk()  # as after a rolled-back save; see docs/guarantees.md
    assert (is_unfinished(draft), left) == (True, "docs/a.bin")

    name = storages["default"].save("docs/a.bin", ContentFile(NEWER))
    assert name != "docs/a.bin"
    finish()
    assert on_disk("far") == [name]
    assert read(storages["far"], name) == NEWER


# Celery with prefork workers


@pytest.fixture
def start_celery(
    redis_url: str,
    queue_name: str,
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
    settings: Settings,
) -> Iterator[Callable[[dict[str, Any]], subprocess.Popen[Any]]]:
    """Make Celery the queue; return a function that starts its workers."""
    own_keys = {"global_keyprefix": f"{queue_name}:"}
    celery = Celery("tests", broker=redis_url, set_as_current=False)
    celery.conf.broker_transport_options = own_keys
    settings.QUEUED_STORAGE = {"QUEUE": CeleryQueue(celery, queue=queue_name)}
    command = [sys.executable, "-m", "celery", "-A", "tests.support.celeryapp", "worker"]
    options = ["-Q", queue_name, "-c", "1", "--without-mingle", "--without-gossip"]

    def start(fail_point: dict[str, Any]) -> subprocess.Popen[Any]:
        environment = child_settings(
            CELERY_BROKER_URL=redis_url,
            CELERY_BROKER_TRANSPORT_OPTIONS=own_keys,
            QUEUED_STORAGE={"QUEUE": "queued_storage.queues.celery.CeleryQueue"},
            INSTALLED_APPS=[*settings.INSTALLED_APPS, "tests.support.failpoints.FailPoints"],
            FAIL_POINT=fail_point,
            STORAGES=settings.STORAGES,
        )
        return spawn([*command, *options, "-l", "ERROR"], env=environment)

    yield start
    celery.close()


@pytest.mark.one_database
@pytest.mark.usefixtures("evicting")
@pytest.mark.parametrize(
    ("killed", "name"), [("child", "copying"), ("tree", "written"), ("tree", "promoted")]
)
def test_sweep_finds_files_that_celery_loses(
    killed: str,
    name: str,
    fail_point: Callable[[str], FailPoint],
    start_celery: Callable[[dict[str, Any]], subprocess.Popen[Any]],
) -> None:
    point = fail_point(name)
    worker = start_celery(point.setting(hold=killed == "tree"))
    storage: Any = storages["default"]
    saved = storage.save("docs/a.bin", ContentFile(CONTENT))
    until(lambda: point.reached, timeout=60)
    assert point.pid != worker.pid
    if killed == "tree":
        services.kill_group(worker)
        start_celery(point.setting())
    assert the_row().lease_token
    assert read(storage, saved) == CONTENT

    end_leases()
    assert sweep() == 1
    until(lambda: is_settled(the_row()), timeout=60)
    assert the_row().attempts == (2 if name == "promoted" else 1)
    assert on_disk() == []
    assert on_disk("far") == [saved]
    assert read(storage, saved) == CONTENT
