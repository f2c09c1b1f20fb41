"""Names that the ledger does not have."""

from typing import Any

import pytest

from tests.support.actions import write
from tests.support.scripted import disk, file, make, read

pytestmark = pytest.mark.django_db(transaction=True)


def test_unrecorded_files_are_read_where_they_are(storage: Any) -> None:
    disk().save("near.txt", file(b"near"))
    storage.remote.save("away.txt", file(b"away"))
    assert storage.exists("near.txt")
    assert storage.exists("away.txt")
    assert read(storage, "near.txt") == b"near"
    assert read(storage, "away.txt") == b"away"
    assert storage.size("near.txt") == storage.size("away.txt") == 4
    assert storage.url("near.txt") == "/media/near.txt"
    assert storage.url("away.txt") == "https://far.example/away.txt"
    assert storage.urls(["near.txt", "away.txt"]) == {
        "near.txt": "/media/near.txt",
        "away.txt": "https://far.example/away.txt",
    }
    for ask in ("get_modified_time", "get_created_time", "get_accessed_time"):
        assert getattr(storage, ask)("near.txt") == getattr(disk(), ask)("near.txt")
        assert getattr(storage, ask)("away.txt") == getattr(storage.remote, ask)("away.txt")
    assert not storage.exists("nowhere.txt")
    for ask in (storage.open, storage.size, storage.get_modified_time):
        with pytest.raises(FileNotFoundError):
            ask("nowhere.txt")


def test_a_save_does_not_overwrite_an_unrecorded_file(storage: Any) -> None:
    """``adopt`` would record the file first."""
    storage.remote.save("old.txt", file(b"old"))
    assert storage.save("old.txt", file(b"new")) == "old.txt"
    storage.queue.deliver()
    disk().delete("old.txt")
    assert read(storage, "old.txt") == b"new"
    assert storage.queued_file("old.txt").remote_name != "old.txt"
    assert read(storage.remote, "old.txt") == b"old"


def test_unknown_absent_does_not_ask_the_remote() -> None:
    storage = make(unknown="absent")
    storage.remote.save("away.txt", file())
    storage.remote.calls.clear()
    assert not storage.exists("away.txt")
    for ask in ("size", "get_modified_time", "get_created_time", "get_accessed_time"):
        with pytest.raises(FileNotFoundError):
            getattr(storage, ask)("away.txt")
    assert storage.remote.calls == {}


def test_unknown_absent_deletes_nothing() -> None:
    storage = make(unknown="absent")
    storage.delete("new.txt")
    assert storage.queued_file("new.txt") is None
    assert storage.save("new.txt", file()) == "new.txt"


def test_unknown_absent_deletes_a_local_file() -> None:
    storage = make(unknown="absent")
    disk().save("near.txt", file())
    storage.delete("near.txt")
    storage.queue.deliver()
    assert not disk().exists("near.txt")
    assert storage.queued_file("near.txt") is None


def test_an_unrecorded_file_is_overwritten_through_open(storage: Any) -> None:
    storage.remote.save("old.txt", file(b"old"))
    write(storage, "old.txt", b"new")
    storage.queue.deliver()
    disk().delete("old.txt")
    assert read(storage, "old.txt") == b"new"


def test_a_remote_name_below_a_local_file(storage: Any) -> None:
    storage.save("report", file())
    with pytest.raises(FileNotFoundError):
        storage.open("report/part.txt")
    with pytest.raises(FileNotFoundError):
        storage.size("report/part.txt")
    storage.remote.save("report/part.txt", file(b"part"))
    assert storage.exists("report/part.txt")
    assert read(storage, "report/part.txt") == b"part"
    assert storage.size("report/part.txt") == 4
