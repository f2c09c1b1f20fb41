"""Local storages without paths, where two processes save under one name at once."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import Storage
from django.db import connection, transaction
from pytest_django import Settings

from queued_storage.exceptions import NameUnavailable
from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile
from tests.support.actions import elsewhere, rolled_back, write
from tests.support.rows import past
from tests.support.scripted import file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


class Near(Storage):
    """Keeps files in memory, without paths. `during` is called in the middle of the next save."""

    overwrites = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.during: Callable[[], object] | None = None
        self.fails = False

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name if self.overwrites else super().get_available_name(name, max_length)

    def _save(self, name: str, content: Any) -> str:
        data = content.read()
        during, self.during = self.during, None
        if during:
            self.files[name] = data[:1]
            during()
            if self.fails:
                raise OSError("The connection was lost.")
        if not self.overwrites:
            self.files.pop(name, None)
            name = super().get_available_name(name)
        self.files[name] = data
        return name

    def _open(self, name: str, mode: str = "rb") -> ContentFile:
        if name not in self.files:
            raise FileNotFoundError(name)
        return ContentFile(self.files[name], name)

    def exists(self, name: str) -> bool:
        return name in self.files

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

    def size(self, name: str) -> int:
        return len(self.files[name])

    def url(self, name: str | None) -> str:
        return f"/near/{name}"


class Renaming(Near):
    overwrites = False


@pytest.fixture(params=[Near, Renaming])
def storage(request: pytest.FixtureRequest) -> Any:
    return make(local=request.param())


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("is_in_transaction", [True, False])
def test_both_savers_read_their_own_bytes(
    storage: Any, fails: bool, is_in_transaction: bool
) -> None:
    saved: dict[str, bytes] = {}
    local = storage.local
    local.fails = fails
    local.during = lambda: saved.update({storage.save("a.txt", file(b"theirs")): b"theirs"})

    def save() -> None:
        saved[storage.save("a.txt", file(b"mine"))] = b"mine"

    def attempt() -> None:
        if fails:
            with pytest.raises(OSError, match="lost"):
                save()
        else:
            save()

    if is_in_transaction:
        with transaction.atomic():
            attempt()
    else:
        attempt()
    assert sorted(saved.values()) == [b"mine", b"theirs"][fails:]
    assert {name: read(storage, name) for name in saved} == saved == local.files
    storage.queue.deliver()
    assert {name: read(storage.remote, name) for name in saved} == saved
    assert sorted(QueuedFile.objects.values_list("name", flat=True)) == sorted(saved)
    assert set(QueuedFile.objects.values_list("state", "generation")) == {("transferred", 1)}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="one transaction writes at a time")
@pytest.mark.parametrize("fails", [True, False])
def test_another_process_saves_meanwhile(storage: Any, fails: bool) -> None:
    saved: dict[str, bytes] = {}
    storage.local.fails = fails
    storage.local.during = lambda: elsewhere(
        lambda: saved.update({storage.save("a.txt", file(b"theirs")): b"theirs"})
    )
    if fails:
        with pytest.raises(OSError, match="lost"):
            storage.save("a.txt", file(b"mine"))
    else:
        saved[storage.save("a.txt", file(b"mine"))] = b"mine"
    assert len(saved) == 2 - fails
    assert {name: read(storage, name) for name in saved} == saved == storage.local.files


def test_a_name_being_saved_is_not_visible(storage: Any) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(storage.exists("a.txt"))
        with pytest.raises(FileNotFoundError):
            storage.open("a.txt")
        with pytest.raises(NameUnavailable):
            write(storage, "a.txt", b"theirs")
        storage.delete("a.txt")

    storage.local.during = look
    assert storage.save("a.txt", file(b"mine")) == "a.txt"
    assert seen == [False]
    assert read(storage, "a.txt") == b"mine"


def test_a_process_that_dies_leaves_nothing(storage: Any) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    patches = pytest.MonkeyPatch()
    patches.setattr(type(ledger()), "unreserve", lambda *args: die())
    storage.local.during = die
    with pytest.raises(Killed):
        storage.save("a.txt", file(b"mine"))
    patches.undo()
    assert storage.local.files == {"a.txt": b"m"}
    ledger().update(due_at=past())
    storage.queue.messages.append([row(storage, "a.txt").pk])
    storage.queue.deliver()
    assert storage.local.files == {}
    assert not QueuedFile.objects.exists()
    assert on_disk("far") == []


def test_a_save_that_takes_too_long_removes_nothing(storage: Any) -> None:
    """A worker took the reservation for that of a dead process, and the name was saved again."""

    def take_back() -> None:
        ledger().update(due_at=past())
        storage.queue.messages.append([row(storage, "a.txt").pk])
        storage.queue.deliver()
        assert storage.save("a.txt", file(b"theirs")) == "a.txt"

    storage.local.during = take_back
    storage.local.fails = True
    with pytest.raises(OSError, match="lost"):
        storage.save("a.txt", file(b"mine"))
    assert read(storage, "a.txt") == b"theirs"


def test_save_that_takes_too_long_is_an_error() -> None:
    storage = make(local=Near())

    def take_back() -> None:
        ledger().update(due_at=past())
        storage.queue.messages.append([row(storage, "a.txt").pk])
        storage.queue.deliver()

    storage.local.during = take_back
    with pytest.raises(NameUnavailable, match="in time"):
        storage.save("a.txt", file(b"mine"))
    assert not QueuedFile.objects.exists()


def test_a_deleted_name_is_reserved_again(storage: Any) -> None:
    storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    storage.delete("a.txt")
    assert storage.save("a.txt", file(b"new")) == "a.txt"
    assert row(storage, "a.txt").generation == 2
    storage.queue.deliver()
    assert read(storage.remote, "a.txt") == b"new"
    storage.delete("a.txt")
    storage.local.during = lambda: None
    storage.local.fails = True
    with pytest.raises(OSError, match="lost"):
        storage.save("a.txt", file(b"newer"))
    assert not storage.exists("a.txt")
    storage.queue.deliver()
    assert storage.local.files == {}
    assert on_disk("far") == []
    assert not QueuedFile.objects.exists()


def test_an_unrecorded_file_is_not_overwritten(storage: Any) -> None:
    storage.local.files["a.txt"] = b"unrecorded"
    name = storage.save("a.txt", file(b"mine"))
    assert name != "a.txt"
    assert storage.local.files == {"a.txt": b"unrecorded", name: b"mine"}


def test_names_of_remote_files_are_taken(storage: Any) -> None:
    storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    storage.local.files.clear()
    ledger().update(is_local=False)
    name = storage.save("a.txt", file(b"mine"))
    assert name != "a.txt"
    assert (read(storage, "a.txt"), read(storage, name)) == (b"old", b"mine")


def test_chosen_name_of_a_remote_file() -> None:
    local = Renaming()
    storage = make(local=local)
    storage.save("b.txt", file(b"old"))
    storage.queue.deliver()
    local.files.clear()
    ledger().update(is_local=False)
    local.during = lambda: local.files.update({"a.txt": b"unrecorded"})
    choices = iter(["b.txt", "c.txt"])
    local.get_alternative_name = lambda *args: next(choices)  # type: ignore[method-assign]
    local._save = lambda name, content: Near._save(local, name, content)  # type: ignore
    name = storage.save("a.txt", file(b"mine"))
    assert read(storage, name) == b"mine"
    assert read(storage, "b.txt") == b"old"


def test_a_rolled_back_save_leaves_the_name_free(storage: Any) -> None:
    with rolled_back():
        storage.save("a.txt", file(b"mine"))
    storage.local.files.clear()
    assert storage.save("a.txt", file(b"again")) == "a.txt"


def test_many_threads_save_one_name(storage: Any, settings: Settings) -> None:
    start = threading.Barrier(4)
    saved: dict[str, bytes] = {}

    def act(number: int) -> None:
        data = f"{number}".encode()
        start.wait()
        elsewhere(lambda: saved.update({storage.save("a.txt", file(data)): data}))

    threads = [threading.Thread(target=act, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(saved) == 4
    assert storage.local.files == saved
    assert {name: read(storage, name) for name in saved} == saved
