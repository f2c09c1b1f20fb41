"""The two storages as a task sees them."""

from collections.abc import Callable
from typing import Any

import pytest

from queued_storage.tasks import TransferAndDelete
from tests.support.scripted import (
    ReadsOn,
    Sniff,
    Step,
    file,
    make,
    on_disk,
    read,
    row,
)
from tests.transfers.workers import retry

pytestmark = pytest.mark.django_db(transaction=True)


def transferred_with(act: Callable[..., object]) -> Any:
    """Return a storage whose file "a.txt" was transferred with `act` as the first step."""
    storage = make(task=Step(act))
    storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert row(storage, "a.txt").is_remote
    return storage


def test_remote_proxy_maps_the_name() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        storage.remote.save(name, file(b"theirs"))
        assert remote.save(name, file(b"hello")) == name
        assert remote.exists(name)
        assert remote.size(name) == 5
        assert read(remote, name) == b"hello"
        assert remote.url(name) == storage.remote.url(row(storage, name).remote_name)
        assert remote.path(name) != storage.remote.path(name)
        assert read(storage.remote, name) == b"theirs"
        remote.delete(name)
        assert on_disk("far") == [name]

    storage = make(task=Step(act))
    storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert read(storage.remote, row(storage, "a.txt").remote_name) == b"hello"


def test_other_files_are_passed_on() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        assert remote.save("thumb.txt", file(b"small")) == "thumb.txt"
        assert read(remote, "thumb.txt") == b"small"
        local.save("scratch.txt", file(b"work"))
        with local.open("scratch.txt", "rb+") as scratch:
            scratch.write(b"WORK")
        assert read(local, "scratch.txt") == b"WORK"
        local.delete("scratch.txt")
        assert local.base_url == "/media/"

    transferred_with(act)
    assert on_disk() == ["a.txt"]
    assert on_disk("far") == ["a.txt", "thumb.txt"]


def test_content_sent_by_task_is_read() -> None:
    class Shout(TransferAndDelete):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            remote.save(name, file(read(local, name).upper() + b"!"))
            local.delete(name)
            assert local.exists(name)  # until the remote copy is verified
            return True

    storage = make(task=Shout)
    name = storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert read(storage, name) == b"HELLO!"
    assert storage.size(name) == 6
    assert on_disk() == []


def test_failed_task_does_not_evict() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        local.delete(name)
        raise ConnectionError("too bad")

    storage = make(task=Step(act))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert read(storage, name) == b"bytes"
    assert retry(storage, name) is None
    assert row(storage, name).is_local


def test_task_may_send_twice() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        remote.save(name, file(b"first try"))

    storage = transferred_with(act)
    assert read(storage.remote, "a.txt") == b"hello"
    assert on_disk("far") == ["a.txt"]


def test_whole_file_is_sent_after_partial_read() -> None:
    sniff = Sniff()
    storage = make(remote=ReadsOn(), task=sniff)
    name = storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert sniff.seen == b"hel"
    assert read(storage.remote, name) == b"hello"
