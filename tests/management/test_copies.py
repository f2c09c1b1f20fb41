from collections import namedtuple
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, storages
from django.core.management import CommandError, call_command
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.files import limits
from queued_storage.ledger.database import ledger
from tests.support.command import run, save, transferred
from tests.support.scripted import LONG_AGO, make, on_disk, read

pytestmark = pytest.mark.django_db(transaction=True)


# evict


def test_evict(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    save(storage, "c.txt")
    assert run("evict", "--all", "--dry-run") == "2 files would be evicted, 2.0 KB.\n"
    assert on_disk() == ["a.txt", "b.txt", "c.txt"]
    assert run("evict", "--all") == "2 files were evicted, 2.0 KB.\n"
    assert on_disk() == ["c.txt"]
    assert run("evict", "--all") == "0 files were evicted, 0 bytes.\n"


def test_evict_of_any_age(storage: Any) -> None:
    transferred(storage, "a.txt")
    assert run("evict", "--older-than", "0s").startswith("1 file was evicted")


def test_evict_by_age(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    ledger().filter(name="b.txt").update(saved_at=LONG_AGO)
    assert run("evict", "--older-than", "1d") == "1 file was evicted, 1,000 bytes.\n"
    assert on_disk() == ["a.txt"]


@pytest.mark.parametrize(("wanted", "left"), [("1", "bcd"), ("1000", "bcd"), ("1001", "cd")])
def test_evict_by_size(storage: Any, wanted: str, left: str) -> None:
    transferred(storage, "a.txt", "b.txt", "c.txt", "d.txt")
    files = "1 file" if len(left) == 3 else "2 files"
    assert run("evict", "--size", wanted, "--dry-run").startswith(f"{files} w")
    assert run("evict", "--size", wanted).startswith(f"{files} w")
    assert on_disk() == [f"{name}.txt" for name in left]


@pytest.mark.parametrize("wanted", ["7000", "7%"])
def test_evict_by_free_space(
    storage: Any, wanted: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    def disk_usage(path: str) -> Any:
        assert Path(path) == Path(storage.local.location)
        return namedtuple("Usage", "total free")(100_000, 10_000 - 1000 * len(on_disk()))

    monkeypatch.setattr(limits.shutil, "disk_usage", disk_usage)
    transferred(storage, "a.txt", "b.txt", "c.txt", "d.txt", "e.txt")
    arguments = ["evict", "--storage", "default", "--until-free", wanted]
    assert run(*arguments, "--dry-run") == "2 files would be evicted, 2.0 KB.\n"
    assert run(*arguments) == "2 files were evicted, 2.0 KB.\n"
    assert on_disk() == ["c.txt", "d.txt", "e.txt"]
    assert run(*arguments) == "0 files were evicted, 0 bytes.\n"


def test_free_space_requires_one_storage(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other")
    assert other.alias
    with pytest.raises(CommandError, match="--storage"):
        run("evict", "--until-free", "1G")


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_missing_directory_has_no_free_space(tmp_path: Path, dry: list[str]) -> None:
    storage = make(local=FileSystemStorage(tmp_path / "mount"))
    transferred(storage, "a.txt")
    (tmp_path / "mount").rename(tmp_path / "away")
    with pytest.raises(CommandError, match="does not exist"):
        run("evict", "--until-free", "1G", "--storage", storage.alias, *dry)
    assert (tmp_path / "away" / "a.txt").exists()


# restore


def test_restore(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    run("evict", "--all")
    assert run("restore", "--all", "--dry-run") == "2 files would be restored, 2.0 KB.\n"
    assert on_disk() == []
    assert run("restore", "a.txt") == "1 file was restored, 1,000 bytes.\n"
    assert on_disk() == ["a.txt"]
    assert run("restore", "--all") == "1 file was restored, 1,000 bytes.\n"
    assert read(storages["disk"], "b.txt") == b"x" * 1000


@pytest.mark.parametrize("verb", ["evict", "restore"])
def test_failed_files_set_the_exit_code(storage: Any, verb: str) -> None:
    transferred(storage, "a.txt", "b.txt")
    if verb == "restore":
        run("evict", "--all")
    Path(storage.remote.path("a.txt")).unlink()
    out = StringIO()
    with pytest.raises(CommandError, match="1 file could not be") as caught:
        call_command("queued_storage", verb, "--all", stdout=out, stderr=out)
    assert caught.value.returncode == 1
    first, last = out.getvalue().splitlines()
    assert first.startswith("a.txt (default): FileNotFoundError")
    assert last.startswith("1 file was")


# accept-local


def test_accept_local(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt", "c.txt")
    Path(storage.local.path("a.txt")).write_bytes(b"changed in place")
    with pytest.raises(CommandError, match="1 file could not be evicted"):
        run("evict", "--all")
    assert on_disk() == ["a.txt"]
    assert "accept-local" in run("status")
    with pytest.raises(CommandError, match="1 copy differs"):
        run("verify")
    with pytest.raises(CommandError, match="--all"):
        run("accept-local")
    assert run("accept-local", "a.txt", "--dry-run") == "1 file would be accepted, 16 bytes.\n"
    assert run("accept-local", "b.txt") == "0 files were accepted, 0 bytes.\n"
    assert run("accept-local", "--all") == "1 file was accepted, 16 bytes.\n"
    assert storage.queue.deliver() == {}
    assert read(storage.remote, "a.txt") == b"changed in place"
    assert run("evict", "--all").startswith("1 file was evicted")


def test_unreadable_copies_set_the_exit_code(storage: Any) -> None:
    transferred(storage, "a.txt")
    Path(storage.local.path("a.txt")).unlink()
    with pytest.raises(CommandError, match="1 file could not be accepted") as caught:
        run("accept-local", "--all")
    assert caught.value.returncode == 1
