"""The name of a file on the remote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from queued_storage.exceptions import InvalidResult, TransferError
from queued_storage.ledger.sql import statements
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers.naming import STEPS, Situation, first_situation
from tests.support.scripted import (
    ReadsOn,
    RenamingStorage,
    ScriptedStorage,
    disk,
    file,
    make,
    on_disk,
    read,
    row,
)
from tests.transfers.workers import retry

pytestmark = pytest.mark.django_db(transaction=True)

# The situations in which nothing is left to do
ENDS = {Situation.SENT}


def test_every_situation_has_a_step_or_ends() -> None:
    assert set(STEPS) | ENDS == set(Situation)
    assert not set(STEPS) & ENDS


def test_every_situation_can_end() -> None:
    open_ones = set(STEPS)
    while leads_on := {
        situation
        for situation in open_ones
        if {STEPS[situation].if_true, STEPS[situation].if_false} - open_ones
    }:
        open_ones -= leads_on
    assert not open_ones


def test_only_its_own_object_is_overwritten() -> None:
    """It may be overwritten after an answered upload, or after a comparison."""
    leading = [each for each, step in STEPS.items() if Situation.ALONE in (step[1], step[2])]
    assert leading == [Situation.OWN]
    assert not [each for each, step in STEPS.items() if Situation.OWN in (step[1], step[2])]


class Uploads:
    """An uploader that only knows whether it never overwrites an object."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.asked = 0

    def never_overwrites(self, size: int) -> bool:
        self.asked += 1
        return self.answer


RESERVED = {"remote_name": "a_7.txt", "unconfirmed": "5 crc32:00000001 other"}


@pytest.mark.parametrize(
    ("columns", "is_verbatim", "never_overwrites", "situation", "asked"),
    [
        ({}, True, False, Situation.UNKNOWN, 1),
        ({}, True, True, Situation.UNTRIED, 1),
        ({"checksum": ""}, True, True, Situation.UNKNOWN, 1),
        ({}, False, True, Situation.UNKNOWN, 0),
        ({"remote_name": "a.txt"}, True, True, Situation.OWN, 0),
        ({"unconfirmed": "5 crc32:00000001 other"}, True, True, Situation.UNTRIED, 1),
        ({"unconfirmed": "5 crc32:00000001 other"}, True, False, Situation.UNKNOWN, 1),
        (RESERVED, True, False, Situation.UNKNOWN, 1),
        (RESERVED, True, True, Situation.UNTRIED, 1),
        ({"unconfirmed": "5 crc32:00000001 mine"}, True, True, Situation.UNTRIED, 1),
        ({"unconfirmed": "5 crc32:00000001 mine"}, True, False, Situation.UNKNOWN, 1),
    ],
)
def test_first_situation_follows_from_the_row(
    columns: dict[str, str],
    is_verbatim: bool,
    never_overwrites: bool,
    situation: Situation,
    asked: int,
) -> None:
    """The uploader is asked only if the row does not decide it: that may cost a request."""
    saved = {"name": "a.txt", "size": 5, "checksum": "crc32:00000001", "lease_token": "mine"}
    uploader: Any = Uploads(never_overwrites)
    found = first_situation(QueuedFile(**saved | columns), uploader, is_verbatim=is_verbatim)
    assert (found, uploader.asked) == (situation, asked)


def test_foreign_object_is_neither_overwritten_nor_served() -> None:
    """Ancestor 6 overwrote it."""
    storage = make(task=TransferAndDelete)
    storage.remote.save("docs/a.txt", file(b"theirs"))
    name = storage.save("docs/a.txt", file(b"our own"))
    storage.queue.deliver()

    mapped = row(storage, name).remote_name
    assert mapped != name
    assert mapped.startswith("docs/a_")
    assert mapped.endswith(".txt")
    assert read(storage.remote, name) == b"theirs"
    assert read(storage, name) == b"our own"
    assert storage.size(name) == 7
    assert storage.url(name) == f"https://far.example/{mapped}"
    assert storage.urls([name]) == {name: storage.url(name)}
    assert storage.listdir("docs") == ([], ["a.txt"])
    with storage.local_path(name) as path, open(path, "rb") as opened:
        assert opened.read() == b"our own"

    storage.delete(name)
    storage.queue.deliver()
    assert on_disk("far") == ["docs/a.txt"]
    assert read(storage.remote, name) == b"theirs"


@pytest.mark.parametrize("theirs", [b"", b"our", b"OUR OWN", b"our owner"])
def test_retry_overwrites_only_its_own_object(theirs: bytes) -> None:
    storage = make()
    storage.remote.save("a.txt", file(theirs))
    name = storage.save("a.txt", file(b"our own"))

    def fail(name: str) -> None:
        raise ConnectionError("after the upload")

    storage.remote.after["_save"] = fail
    storage.queue.deliver()
    mapped = row(storage, name).remote_name
    assert mapped != name
    assert retry(storage, name) is None
    assert row(storage, name).remote_name == mapped
    assert on_disk("far") == sorted(["a.txt", mapped])
    assert read(storage.remote, "a.txt") == theirs


def test_object_with_same_bytes_is_not_taken_over() -> None:
    storage = make(task=TransferAndDelete)
    storage.remote.save("a.txt", file(b"the same"))
    name = storage.save("a.txt", file(b"the same"))
    storage.queue.deliver()
    assert row(storage, name).state == State.TRANSFERRED
    assert row(storage, name).remote_name != "a.txt"
    assert on_disk("far") == sorted(["a.txt", row(storage, name).remote_name])
    storage.delete(name)
    storage.queue.deliver()
    assert on_disk("far") == ["a.txt"]


def mapped_file(storage: Any) -> str:
    """Save "a.txt" where the remote has a foreign object; return its name on the remote."""
    storage.remote.save("a.txt", file(b"theirs"))
    storage.save("a.txt", file(b"our own"))
    storage.queue.deliver()
    mapped: str = row(storage, "a.txt").remote_name
    assert mapped != "a.txt"
    return mapped


def test_two_files_never_share_an_object() -> None:
    storage = make(task=TransferAndDelete)
    mapped = mapped_file(storage)
    name = storage.save(mapped, file(b"our own"))
    assert name == mapped
    storage.queue.deliver()
    assert row(storage, name).state == State.TRANSFERRED

    storage.delete(name)
    storage.queue.deliver()
    assert read(storage, "a.txt") == b"our own"


def test_two_storages_never_share_an_object() -> None:
    remote = ScriptedStorage()
    one = make(remote=remote, local=ScriptedStorage("disk/one"), task=TransferAndDelete)
    two = make(remote=remote, local=ScriptedStorage("disk/two"), task=TransferAndDelete)
    for storage in (one, two):
        storage.save("logo.png", file(b"the same logo"))
        storage.queue.deliver()
    one.delete("logo.png")
    one.queue.deliver()
    assert read(two, "logo.png") == b"the same logo"


def test_deleting_unknown_name_spares_other_remote_names() -> None:
    storage = make(task=TransferAndDelete)
    mapped = mapped_file(storage)
    storage.delete(mapped)
    storage.queue.deliver()
    assert read(storage, "a.txt") == b"our own"


def test_name_chosen_by_remote_is_kept() -> None:
    """Ancestor 6 forgot it."""
    storage = make(remote=RenamingStorage(), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"our own"))
    storage.queue.deliver()
    [chosen] = on_disk("far")
    assert chosen != "a.txt"
    assert row(storage, name).remote_name == chosen
    storage.remote.save_as = None
    assert read(storage, name) == b"our own"
    storage.delete(name)
    storage.queue.deliver()
    assert on_disk("far") == []


def test_renaming_remote_keeps_no_remains() -> None:
    storage = make(remote=RenamingStorage())
    name = storage.save("a.txt", file())

    def fail(name: str) -> None:
        raise ConnectionError("while it is verified")

    storage.remote.before["size"] = fail
    assert storage.queue.deliver()
    assert len(on_disk("far")) == 1
    assert retry(storage, name) is None
    assert on_disk("far") == [row(storage, name).remote_name]


def test_renaming_remote_keeps_no_deleted_file() -> None:
    storage = make(remote=RenamingStorage())
    name = storage.save("a.txt", file())
    storage.remote.after["_save"] = storage_deletes(storage, name)
    storage.queue.deliver()
    assert on_disk("far") == []
    assert storage.queued_file(name) is None


def test_renaming_remote_keeps_no_old_content() -> None:
    storage = make(remote=RenamingStorage())
    name = storage.save("a.txt", file(b"old"))

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    storage.remote.after["_save"] = overwrite
    storage.queue.deliver()
    assert row(storage, name).state == State.TRANSFERRED
    assert on_disk("far") == [row(storage, name).remote_name]
    assert read(storage.remote, row(storage, name).remote_name) == b"newer"


def storage_deletes(storage: Any, name: str) -> Callable[[str], None]:
    return lambda _name: storage.delete(name)


def test_transfer_fails_if_every_name_is_taken() -> None:
    class Full(ScriptedStorage):
        def exists(self, name: str) -> bool:
            return True

        def size(self, name: str) -> int:
            return -1

    storage = make(remote=Full())
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, TransferError)
    assert on_disk("far") == []
    assert row(storage, name).state == State.PENDING


@pytest.mark.parametrize(
    "name", ["n" * 251 + ".txt", "d/" + "ü" * 124 + ".tar.gz", "2024." + "01." * 82 + "txt"]
)
def test_longest_names_have_alternatives(name: str) -> None:
    storage = make()
    storage.remote.save(name, file(b"theirs"))
    assert storage.save(name, file(b"our own")) == name
    assert storage.queue.deliver() == {}
    mapped = row(storage, name).remote_name
    assert mapped != name
    assert Path(mapped).suffix == Path(name).suffix
    assert read(storage.remote, name) == b"theirs"
    assert read(storage.remote, mapped) == b"our own"


def test_whole_file_is_sent_under_alternative_name() -> None:
    storage = make(remote=ReadsOn())
    storage.remote.save("a.txt", file(b"theirs"))
    name = storage.save("a.txt", file(b"our's."))
    assert storage.queue.deliver() == {}
    assert read(storage.remote, row(storage, name).remote_name) == b"our's."


def test_path_returned_by_remote_is_its_name() -> None:
    class Paths(ScriptedStorage):
        def save(self, name: Any, content: Any, max_length: int | None = None) -> Any:
            return Path(super().save(f"in/{name}", content, max_length))

    storage = make(remote=Paths())
    name = storage.save("a.txt", file(b"hello"))
    with mock.patch.dict(statements._texts, clear=True):
        assert storage.queue.deliver() == {}
    assert row(storage, name).remote_name == "in/a.txt"
    assert read(storage.remote, "in/a.txt") == b"hello"


def test_remote_must_return_a_name() -> None:
    class Nameless(ScriptedStorage):
        def save(self, name: Any, content: Any, max_length: int | None = None) -> Any:
            super().save(name, content, max_length)

    storage = make(remote=Nameless())
    name = storage.save("a.txt", file(b"hello"))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, InvalidResult)
    assert row(storage, name).state == State.FAILED
    assert "Nameless.save() returned None; it must" in row(storage, name).last_error
    assert read(disk(), name) == b"hello"
