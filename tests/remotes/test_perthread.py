"""Storages with a single connection, such as those for FTP and SFTP: one per thread."""

import copy
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, Storage
from django.utils.deconstruct import deconstructible
from storages.backends.ftp import FTPStorage

from queued_storage.remotes import perthread
from queued_storage.remotes.perthread import PerThread, for_threads
from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.ftp import FTPUploader
from tests.support.scripted import file, make, read

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

FILES = InMemoryStorage()  # the server


@deconstructible
class Connected(Storage):
    """Records its instances and calls of close(), and raises an error on request."""

    made: list["Connected"] = []

    def __init__(self, place: str, fails: type[Exception] | None = None) -> None:
        self.place = place
        self.fails = fails
        self.is_closed = False
        Connected.made.append(self)

    def close(self) -> None:
        self.is_closed = True

    def exists(self, name: str) -> bool:
        if self.fails:
            raise self.fails
        return FILES.exists(f"{self.place}/{name}")

    def delete(self, name: str) -> None:
        FILES.delete(f"{self.place}/{name}")

    def size(self, name: str) -> int:
        return FILES.size(f"{self.place}/{name}")

    def url(self, name: str | None) -> str:
        return f"https://{self.place}.example/{name}"

    def _save(self, name: str, content: Any) -> str:
        FILES.save(f"{self.place}/{name}", content)
        return name

    def _open(self, name: str, mode: str = "rb") -> Any:
        return (
            FailingFile(b"content") if name == "broken.txt" else FILES.open(f"{self.place}/{name}")
        )


class FailingFile(ContentFile):
    """Loses the connection while it is read."""

    def read(self, *args: Any) -> bytes:
        raise ConnectionError


class Derived(Connected):
    pass


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Connected]]:
    monkeypatch.setattr(perthread, "ONE_CONNECTION", {f"{__name__}.Connected"})
    monkeypatch.setattr(Connected, "made", [])
    yield Connected.made
    for name in FILES.listdir("far")[1] if FILES.exists("far") else []:
        FILES.delete(f"far/{name}")


def in_a_thread(job: Callable[[], object]) -> None:
    thread = threading.Thread(target=job)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_other_storages_are_returned_unchanged() -> None:
    storage = InMemoryStorage()
    assert for_threads(storage) is storage


def test_each_storage_has_one_wrapper() -> None:
    storage = Derived("far")
    assert isinstance(for_threads(storage), PerThread)
    assert for_threads(storage) is for_threads(storage)
    assert for_threads(Connected("far")) is not for_threads(storage)


def test_each_thread_has_its_own_storage(made: list[Connected]) -> None:
    storage = for_threads(Derived("far"))
    users: list[Any] = []

    def use() -> None:
        storage.exists("a.txt")
        storage.exists("b.txt")
        users.append(made[-1])

    in_a_thread(use)
    use()
    assert len(made) == 3  # with the one that tells how they are made
    assert users == made[1:]
    assert {(type(each), each.place) for each in made} == {(Derived, "far")}


def test_a_connection_is_closed_with_its_thread(made: list[Connected]) -> None:
    storage = for_threads(Connected("far"))
    storage.exists("a.txt")
    in_a_thread(lambda: storage.exists("a.txt"))
    assert [each.is_closed for each in made] == [False, False, True]


def test_an_error_replaces_the_connection(made: list[Connected]) -> None:
    storage: Any = for_threads(Connected("far"))
    storage.exists("a.txt")
    made[-1].fails = ConnectionError
    with pytest.raises(ConnectionError):
        storage.exists("a.txt")
    assert made[-1].is_closed
    assert not storage.exists("a.txt")
    assert len(made) == 3


@pytest.mark.parametrize("error", [FileNotFoundError, NotImplementedError])
def test_a_negative_reply_keeps_the_connection(
    made: list[Connected], error: type[Exception]
) -> None:
    storage: Any = for_threads(Connected("far", error))
    with pytest.raises(error):
        storage.exists("a.txt")
    assert not made[-1].is_closed


def test_a_read_error_closes_the_connection(made: list[Connected]) -> None:
    storage = for_threads(Connected("far"))
    with pytest.raises(ConnectionError), storage.open("broken.txt") as opened:
        opened.read()
    assert made[-1].is_closed


def test_a_child_does_not_close_its_parents_connection(
    made: list[Connected], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = for_threads(Connected("far"))
    storage.exists("a.txt")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    storage.exists("a.txt")
    assert len(made) == 3
    assert not made[1].is_closed


def test_other_attributes_are_forwarded(made: list[Connected]) -> None:
    storage: Any = for_threads(Connected("far"))
    assert storage.place == "far"
    assert storage.url("a.txt") == "https://far.example/a.txt"
    assert storage.get_valid_name("a b") == "a_b"
    with pytest.raises(AttributeError):
        _ = storage.nothing
    assert copy.copy(storage).place == "far"


@pytest.mark.django_db
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_queued_storage_in_use_is_copyable(copied: Callable[[Any], Any]) -> None:
    storage = make(remote=Connected("far"))
    storage.remote.exists("a.txt")
    twin = copied(storage)
    assert twin.remote is not storage.remote
    assert twin.remote.storage is not storage.remote.storage
    assert not twin.remote.exists("a.txt")
    assert twin.remote.place == "far"


@pytest.mark.django_db(transaction=True)
def test_a_queued_storage_uses_the_wrapper(made: list[Connected]) -> None:
    storage = make(remote=Connected("far"))
    storage.save("a.txt", file(b"hello"))
    errors: list[Any] = []
    in_a_thread(lambda: errors.append(storage.remote.exists("a.txt")))
    assert errors == [False]
    assert storage.queue.deliver() == {}
    assert storage.using_remote("a.txt")
    assert storage.get_storage("a.txt") is storage.remote
    assert read(storage.remote, "a.txt") == b"hello"
    assert len(made) == 3
    storage.delete("a.txt")
    assert storage.queue.deliver() == {}
    assert not FILES.exists("far/a.txt")


def test_the_uploader_suits_the_wrapped_class() -> None:
    storage = FTPStorage(location="ftp://user:password@far.example:21/")
    assert isinstance(uploader_for(PerThread(storage)), FTPUploader)
