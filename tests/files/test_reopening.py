"""Opening a file of a storage again, wherever its bytes are then."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.storage import InMemoryStorage
from django.db.models import FileField
from django.db.models.fields.files import FieldFile
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from tests.support.actions import Oops, evicted, write
from tests.support.scripted import disk, file, make, on_disk, read, row

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


def field_file(storage: Any, name: str) -> FieldFile:
    return FieldFile(None, FileField(storage=storage), name)  # type: ignore[arg-type]


def evict(storage: Any, name: str) -> None:
    storage.queue.deliver()
    storage.local.delete(name)
    ledger().filter(pk=row(storage, name).pk).update(is_local=False)


def stay(storage: Any, name: str) -> None:
    pass


def leave_a_stray(storage: Any, name: str) -> None:
    """Evict the file, and leave another under its name, as a process that dies may."""
    evict(storage, name)
    Path(disk().path(name)).write_bytes(b"stray")


@pytest.mark.parametrize("change", [stay, evict, leave_a_stray])
@pytest.mark.parametrize("mode", ["rb", "r"])
def test_a_local_file_is_opened_again(change: Callable[..., None], mode: str) -> None:
    storage = make()
    opened = field_file(storage, storage.save("a.txt", file(b"bytes")))
    for _time in range(3):
        opened.open(mode)
        assert opened.read() == (b"bytes" if "b" in mode else "bytes")
        opened.close()
        assert opened.closed
        change(storage, "a.txt")
        change = stay


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_remote_file_is_opened_again(settings: Settings, tmp_path: Path, is_cached: bool) -> None:
    if is_cached:
        place = {"LOCATION": str(tmp_path), "MAX_BYTES": 1000}
        settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "READ_CACHE": place}
    storage = make(remote=InMemoryStorage())
    opened = field_file(storage, evicted(storage))
    for _time in range(2):
        with opened.open() as again:
            assert again.read() == b"bytes"
        for copy in tmp_path.iterdir():
            copy.unlink()


def test_an_open_file_is_rewound() -> None:
    storage = make()
    opened = storage.open(storage.save("a.txt", file(b"bytes")))
    assert opened.read(2) == b"by"
    evict(storage, "a.txt")
    assert opened.open().read() == b"bytes"
    opened.close()


def test_new_content_is_read_when_opened_again() -> None:
    storage = make()
    opened = storage.open(storage.save("a.txt", file(b"old")))
    assert opened.size == 3
    opened.close()
    write(storage, "a.txt", b"newer")
    with opened.open() as again:
        assert (again.size, again.read()) == (5, b"newer")


def test_a_deleted_file_is_not_opened_again() -> None:
    storage = make()
    opened = storage.open(storage.save("a.txt", file()))
    opened.close()
    storage.delete("a.txt")
    with pytest.raises(FileNotFoundError):
        opened.open()


def test_a_written_file_is_opened_again() -> None:
    storage = make()
    opened = storage.open("a.txt", "wb")
    opened.write(b"bytes")
    opened.close()
    assert opened.open("rb").read() == b"bytes"
    opened.close()
    with opened.open("wb") as again:
        again.write(b"newer")
    assert read(storage, "a.txt") == b"newer"
    assert row(storage, "a.txt").generation == 2


def test_a_block_that_raises_discards_what_was_written() -> None:
    storage = make()
    with contextlib.suppress(Oops), storage.open("a.txt", "wb") as opened:
        opened.write(b"half")
        raise Oops
    assert on_disk() == []


class Marked(File):
    color = "green"


def test_a_file_keeps_what_its_class_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make()
    name = evicted(storage)
    monkeypatch.setattr(
        storage.remote, "open", lambda name, mode: Marked(io.BytesIO(b"bytes"), name)
    )
    with storage.open(name) as opened:
        assert (opened.name, opened.color, opened.read()) == (name, "green", b"bytes")
        assert list(opened.chunks()) == list(opened) == [b"bytes"]
        assert not hasattr(opened, "colour")
