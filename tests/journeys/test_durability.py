"""FSYNC flushes files and directories to disk before the row is written."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import connection
from pytest_django import Settings

from queued_storage.files.localfiles import is_unfinished
from queued_storage.models import QueuedFile
from tests.support.scripted import disk, file, make, mark, on_disk, read, row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/fd"),
    pytest.mark.one_lane,
]


@pytest.fixture
def fsync(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "FSYNC": True}


def place(path: str | os.PathLike[str]) -> str:
    """Return a path relative to the test directory, with one name for all drafts."""
    found = os.path.relpath(path, django_settings.DIRECTORY)
    directory, name = os.path.split(found)
    return os.path.join(directory, "DRAFT") if is_unfinished(name) else found


@pytest.fixture
def marked() -> None:
    """Have the marker made, which the first save of a test would do."""
    mark(disk().location)


@pytest.fixture
def steps(marked: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record every flush, link, rename and insert, in order, after the marker was made."""
    seen: list[str] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def watch_fsync(descriptor: int) -> None:
        seen.append(f"flush {place(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def watch_link(old: str, new: str, **options: Any) -> None:
        seen.append(f"name {place(new)}")
        link(old, new, **options)

    def watch_replace(old: str, new: str, **options: Any) -> None:
        seen.append(f"name {place(new)}")
        replace(old, new, **options)

    def watch_sql(execute: Any, sql: str, *args: Any) -> Any:
        answer = execute(sql, *args)
        if sql.startswith("INSERT"):
            seen.append("record")
        return answer

    monkeypatch.setattr("os.fsync", watch_fsync)
    monkeypatch.setattr("os.link", watch_link)
    monkeypatch.setattr("os.replace", watch_replace)
    with connection.execute_wrapper(watch_sql):
        yield seen


def test_nothing_is_flushed_by_default(steps: list[str]) -> None:
    storage = make()
    storage.save("docs/a.txt", file())
    with storage.open("docs/b.txt", "wb") as opened:
        opened.write(b"bytes")
    assert [step for step in steps if step.startswith("flush")] == []


@pytest.mark.usefixtures("fsync")
def test_save_is_flushed_before_its_row_is_written(steps: list[str]) -> None:
    """Flush the content, the file's directory entry and those of all parent directories."""
    make().save("docs/2024/a.txt", file())
    assert steps == [
        "flush disk/docs/2024/DRAFT",
        "name disk/docs/2024/a.txt",
        "flush disk/docs/2024",
        "flush disk/docs",
        "flush disk",
        "flush .",
        "record",
    ]


@pytest.mark.usefixtures("fsync")
def test_moved_upload_is_flushed_too(steps: list[str]) -> None:
    with TemporaryUploadedFile("a.txt", "text/plain", 5, None) as upload:
        upload.write(b"bytes")
        upload.seek(0)
        make().save("a.txt", upload)
    first = steps.index("flush disk/DRAFT")
    assert steps[first:] == [
        "flush disk/DRAFT",
        "name disk/a.txt",
        "flush disk",
        "flush .",
        "record",
    ]


@pytest.mark.usefixtures("fsync")
def test_alternative_name_is_flushed_again(steps: list[str]) -> None:
    storage = make()
    storage.save("a.txt", file())
    disk().delete("a.txt")  # the file is on another host
    steps.clear()
    name = storage.save("a.txt", file())
    assert name != "a.txt"
    assert steps[-4:] == [f"name disk/{name}", "flush disk", "flush .", "record"]


@pytest.mark.usefixtures("fsync")
def test_overwritten_file_is_flushed_before_and_after_replacing(
    steps: list[str],
) -> None:
    storage = make()
    name = storage.save("docs/a.txt", file(b"old"))
    steps.clear()
    with storage.open(name, "wb") as opened:
        opened.write(b"new")
    before_the_commit = [
        "flush disk/docs/DRAFT",
        "name disk/docs/DRAFT",
        "flush disk/docs",
        "flush disk",
        "flush .",
    ]
    assert steps[:5] == before_the_commit
    assert steps[5:] == [
        step.replace("name disk/docs/DRAFT", "name disk/docs/a.txt") for step in before_the_commit
    ]
    assert read(storage, name) == b"new"


class ContentAddressed(FileSystemStorage):
    """Names files by their content."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return "by-content/5d41402a.txt"


@pytest.mark.usefixtures("fsync")
def test_storage_that_names_files_itself_is_flushed(steps: list[str]) -> None:
    storage = make(local=ContentAddressed(disk().location))
    assert storage.save("a.txt", file()) == "by-content/5d41402a.txt"
    assert steps == [
        "flush disk/by-content/5d41402a.txt",
        "flush disk/by-content",
        "flush disk",
        "flush .",
        "record",
    ]


@pytest.mark.usefixtures("fsync")
def test_storage_without_paths_still_saves() -> None:
    storage = make(local=InMemoryStorage())
    assert read(storage, storage.save("a.txt", file())) == b"bytes"


@pytest.mark.usefixtures("fsync")
@pytest.mark.parametrize("number", range(4))
def test_flush_error_fails_the_save(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing the file, its directory or a parent directory raises EIO."""
    left = number

    def fail(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    storage = make()
    with pytest.raises(OSError, match="Input/output"):
        storage.save("docs/a.txt", file())
    assert on_disk() == []
    assert not QueuedFile.objects.exists()
    assert storage.queue.messages == []


@pytest.mark.usefixtures("fsync")
def test_flush_error_keeps_the_old_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    storage = make()
    name = storage.save("a.txt", file(b"old"))
    opened = storage.open(name, "wb")
    opened.write(b"new")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        opened.close()
    assert on_disk() == [name]
    assert read(storage, name) == b"old"
    assert (row(storage, name).generation, row(storage, name).size) == (1, 3)


@pytest.mark.usefixtures("fsync")
def test_unreadable_parent_directory_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == django_settings.DIRECTORY:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr("os.open", refuse)
    assert make().save("a.txt", file()) == "a.txt"


SAVE = """
import django
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import storages
storages["default"].save("docs/a.txt", ContentFile(b"bytes"))
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
@pytest.mark.skipif(connection.vendor != "sqlite", reason="needs a local database file")
@pytest.mark.usefixtures("marked")
def test_row_is_written_after_the_flush_system_calls(
    child_settings: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """Trace the system calls themselves: the row is written last."""
    log = tmp_path / "log"
    calls = "trace=fsync,link,linkat,pwrite64"
    environment = child_settings(
        QUEUED_STORAGE={"QUEUE": "queued_storage.queues.dummy.DummyQueue", "FSYNC": True}
    )
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(log), sys.executable, "-c", SAVE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "ptrace" in done.stderr:
        pytest.skip("no right to trace")
    assert done.returncode == 0, done.stderr
    shown = []
    for line in log.read_text().splitlines():
        if found := re.search(r"\b(fsync|linkat|link|pwrite64)\(.*?([^/<\"]+)[>\"][,)]", line):
            call, name = found.groups()
            name = "DRAFT" if is_unfinished(name) else name
            shown.append(f"{call} {name}")
    draft = shown.index("fsync DRAFT")
    assert shown[draft + 1].startswith("link")
    assert shown[draft + 2 : draft + 4] == ["fsync docs", "fsync disk"]
    wal = f"pwrite64 {Path(str(connection.settings_dict['NAME'])).name}-wal"
    assert wal not in shown[:draft]
    assert wal in shown[draft + 4 :]
