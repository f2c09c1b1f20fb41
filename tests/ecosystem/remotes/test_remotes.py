"""Every remote: the report of the contract, and the life cycle of a file."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage

from queued_storage.backends import QueuedStorage
from queued_storage.files.markers import MARKER
from queued_storage.operations.contract import check_remote
from queued_storage.queues.dummy import DummyQueue
from queued_storage.tasks import TransferAndDelete
from queued_storage.uploaders import uploader_for
from tests.ecosystem.remotes import report
from tests.ecosystem.remotes.servers import Make

NUMBERS = itertools.count()
REPORTS = {"small": b"first", "large": os.urandom(9 * 2**20)}
# Some remotes cannot find names with spaces again without the uploader of this package.
NAMES = ("plain.bin", "two words/three more words.bin", "Größe/猫.bin")


def queued(make: Make, directory: Path, **options: Any) -> Any:
    return QueuedStorage(
        local=FileSystemStorage(directory, "/media/"),
        remote=make(),
        alias=f"remotes-{next(NUMBERS)}",
        queue=DummyQueue(),
        **options,
    )


def read(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def names_on(make: Make) -> list[str]:
    """Return the names on the remote as another process sees them."""
    try:
        return sorted(uploader_for(make()).names())
    except FileNotFoundError:  # the directory does not exist until the first save
        return []


def test_report_matches_the_docs(remote: tuple[str, Make]) -> None:
    name, make = remote
    findings = list(check_remote(make()))
    if os.environ.get("QUEUED_STORAGE_TEST_WRITE_DOCS") == "1":
        report.write(name, findings)
    assert [str(found) for found in findings if found.is_problem] == []
    assert report.cells(findings) == report.documented(name)
    assert names_on(make) == []


@pytest.mark.parametrize("size", REPORTS)
def test_save_overwrite_and_delete(remote: tuple[str, Make], tmp_path: Path, size: str) -> None:
    label, make = remote
    storage = queued(make, tmp_path)
    content = REPORTS[size]
    name = storage.save("reports/a.bin", ContentFile(content))
    assert storage.queue.deliver() == {}
    row = storage.queued_file(name)
    assert row.is_remote
    assert row.verified == ("checksum" if label == "s3" else "size")
    assert read(make(), row.remote_name) == content
    assert storage.url(name).startswith(("http://", "https://"))

    with storage.open(name, "wb") as file:
        file.write(b"second")
    assert storage.queue.deliver() == {}
    assert read(make(), storage.queued_file(name).remote_name) == b"second"

    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None
    assert names_on(make) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != MARKER] == []


@pytest.mark.parametrize("name", NAMES)
def test_names_and_evicted_files(remote: tuple[str, Make], tmp_path: Path, name: str) -> None:
    _label, make = remote
    storage = queued(make, tmp_path, task=TransferAndDelete)
    assert storage.save(name, ContentFile(b"content")) == name
    assert storage.queue.deliver() == {}
    assert not (tmp_path / name).exists()
    assert read(storage, name) == b"content"
    assert storage.size(name) == 7
    storage.delete(name)
    assert storage.queue.deliver() == {}
    remote_storage: Any = make()
    assert not remote_storage.exists(name)


def test_foreign_object_is_kept(remote: tuple[str, Make], tmp_path: Path) -> None:
    _label, make = remote
    theirs = make().save("shared/a.bin", ContentFile(b"theirs"))
    storage = queued(make, tmp_path)
    name = storage.save(theirs, ContentFile(b"ours"))
    assert storage.queue.deliver() == {}
    row = storage.queued_file(name)
    assert (row.name, row.is_remote) == (theirs, True)
    assert row.remote_name != theirs
    assert read(make(), theirs) == b"theirs"
    assert read(make(), row.remote_name) == b"ours"
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert read(make(), theirs) == b"theirs"
    make().delete(theirs)
    assert names_on(make) == []
