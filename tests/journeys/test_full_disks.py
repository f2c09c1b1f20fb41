"""Full disks of all kinds: clean errors, nothing half-written, and everything goes on by itself."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages
from django.db import connection, transaction
from pytest_django import Settings

from queued_storage.exceptions import NoRoom
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import errands
from queued_storage.storage import sums
from queued_storage.transfers.work import run as run_row
from tests.support.failpoints import FailPoint
from tests.support.forks import ended
from tests.support.scripted import file, make, on_disk, read, row
from tests.support.small_disks import MEGABYTE, remount, small_disk

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]
LARGE = 700_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", MEGABYTE) as path:
        yield path


@pytest.fixture(autouse=True)
def no_memory() -> None:
    sums._sums.clear()


def left_in(disk: Path) -> list[str]:
    return [name for name in on_disk(str(disk)) if name != "filler"]


def fill(disk: Path) -> Path:
    """Use up the disk by a file of another program."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(4096))
    return filler


def test_temporary_files_of_downloads(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    name = storage.save("a.bin", file(b"x" * LARGE))
    storage.queue.deliver()
    errands.evict(ledger().filter(name=name))
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    filler = fill(disk)
    with pytest.raises(OSError, match="No space"), storage.local_path(name):
        pytest.fail("a cut file was given")
    assert left_in(disk) == []
    filler.unlink()
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"x" * LARGE


def test_the_read_cache(disk: Path, settings: Settings) -> None:
    cache = disk / "cache"
    settings.QUEUED_STORAGE = {
        **settings.QUEUED_STORAGE,
        "READ_CACHE": {"LOCATION": str(cache), "MAX_BYTES": 10 * LARGE},
    }
    storage = make()
    name = storage.save("a.bin", file(b"x" * LARGE))
    storage.queue.deliver()
    errands.evict(ledger().filter(name=name))
    filler = fill(disk)
    assert read(storage, name) == b"x" * LARGE  # past the cache
    filler.unlink()
    assert read(storage, name) == b"x" * LARGE
    assert any(path.stat().st_size == LARGE for path in cache.iterdir())


def test_a_restore(disk: Path) -> None:
    storage = make(local=FileSystemStorage(disk))
    name = storage.save("a.bin", file(b"x" * LARGE))
    storage.queue.deliver()
    errands.evict(ledger().filter(name=name))
    filler = fill(disk)
    assert errands.restore(ledger().filter(name=name)) == 0
    assert "No space" in row(storage, name).last_error
    assert left_in(disk) == []
    filler.unlink()
    assert errands.restore(ledger().filter(name=name)) == 1
    assert read(storage, name) == b"x" * LARGE


def test_a_delete_needs_no_room(disk: Path) -> None:
    storage = make(local=FileSystemStorage(disk))
    storage.save("a.bin", file(b"x" * 1000))
    fill(disk)
    storage.delete("a.bin")
    storage.queue.deliver()
    assert left_in(disk) == []
    assert not ledger().filter(alias=storage.alias).exists()


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_file_opened_for_writing(disk: Path, mode: str) -> None:
    storage = make(local=FileSystemStorage(disk))
    storage.save("a.bin", file(b"old"))
    filler = fill(disk)
    with pytest.raises(OSError, match="No space"), storage.open("a.bin", f"{mode}b") as opened:
        opened.write(b"x" * LARGE)
    assert left_in(disk) == ["a.bin"]
    assert read(storage, "a.bin") == b"old"
    filler.unlink()
    with storage.open("a.bin", "wb") as opened:
        opened.write(b"new")
    assert read(storage, "a.bin") == b"new"


def test_a_read_only_disk_keeps_working_for_reads(disk: Path) -> None:
    storage = make(local=FileSystemStorage(disk), keep_local={"max_bytes": 1})
    storage.save("a.bin", file(b"bytes"))
    remount(disk, "ro")
    storage.queue.deliver()
    assert row(storage, "a.bin").state == State.TRANSFERRED
    assert read(storage, "a.bin") == b"bytes"
    assert errands.evict(ledger().filter(alias=storage.alias)) == 0
    assert row(storage, "a.bin").is_local
    remount(disk, "rw")
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1


SITE = """
import errno, os, sys
from pathlib import Path
from tests.support import site
disk = Path(sys.argv[1])
site.set_up(disk / "site", {"BACKEND": site.FILES, "OPTIONS": {"location": sys.argv[2]}}, None)
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import OperationalError
from queued_storage.ledger.database import ledger
storage = storages["default"]
saved = set()
errors = set()
for number in range(100_000):
    try:
        saved.add(storage.save(f"{number}.txt", ContentFile(b"x")))
    except (OperationalError, OSError) as error:
        errors.add(type(error).__name__)
        if len(errors) == 2 or number > 20_000 or errors:
            break
os.truncate(disk / "filler", 0)
known = set(ledger().values_list("name", flat=True))
local = {p.name for p in (disk / "site" / "disk").iterdir() if not p.name.startswith(".")}
print(errors, known == saved == local, storage.save("more.txt", ContentFile(b"x")))
"""


@pytest.mark.one_database
def test_the_database_on_the_same_disk(disk: Path, tmp_path: Path) -> None:
    """A site with its SQLite database on the full disk."""
    (disk / "filler").write_bytes(bytes(MEGABYTE // 4))
    remount(disk, "size=2m")
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", SITE, str(disk), str(tmp_path / "far")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("True more.txt"), done.stdout
    assert "OperationalError" in done.stdout or "NoRoom" in done.stdout


# Processes that die while they save to the remote


@pytest.fixture
def remote_only(settings: Settings) -> Any:
    """The default storage, without room for any file, here and in child processes."""
    options = {"local": "disk", "remote": "far", "max_pending_bytes": 1, "when_full": "remote"}
    default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"default": default}
    return storages["default"]


def save_and_die(*, in_transaction: bool) -> None:
    """Save a file to the remote, and die right before the commit."""
    storage = storages["default"]
    if in_transaction:
        with transaction.atomic():
            storage.save("a.txt", ContentFile(b"bytes"))
            os.kill(os.getpid(), signal.SIGKILL)
    storage.save("a.txt", ContentFile(b"bytes"))


def purge() -> None:
    ledger().filter(state=State.DELETING).update(due_at="2001-01-01T00:00Z")
    for pk in list(ledger().values_list("pk", flat=True)):
        run_row(pk)


def in_a_transaction() -> None:
    save_and_die(in_transaction=True)


def without_a_transaction() -> None:
    save_and_die(in_transaction=False)


def test_a_death_before_the_commit_leaves_no_row(
    remote_only: Any, fork: Callable[..., Any]
) -> None:
    storage = remote_only
    assert ended(fork(in_a_transaction)) == -signal.SIGKILL
    assert not storage.exists("a.txt") or connection.vendor == "sqlite"
    purge()
    assert not ledger().exists()
    if connection.vendor != "sqlite":  # there, 'orphans' finds the object
        assert not storage.remote.exists("a.txt")


@pytest.mark.parametrize(
    "point", ["name reserved", "reserved", "object verified", "filling remotely", "filled remotely"]
)
def test_a_death_around_the_record(
    remote_only: Any, fork: Callable[..., Any], point: str, tmp_path: Path
) -> None:
    storage = remote_only
    child = fork(without_a_transaction, point=FailPoint(point, tmp_path / "reached"))
    assert ended(child) == -signal.SIGKILL
    purge()
    found = ledger().filter(name="a.txt").first()
    if found is None:
        assert not storage.remote.exists("a.txt")
    else:
        assert found.state == State.TRANSFERRED
        assert read(storage, "a.txt") == b"bytes"


def test_the_error_is_an_oserror() -> None:
    error = NoRoom("No room.")
    assert (error.errno, str(error)) == (errno.ENOSPC, "No room.")
