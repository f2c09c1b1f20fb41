"""The two storages as a task sees them."""

import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage

from queued_storage.files import stamps
from queued_storage.ledger.states import State
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import proxies
from queued_storage.transfers.proxies import AT_ONCE_MAX
from tests.support.scripted import (
    ReadsOn,
    Sniff,
    Step,
    disk,
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


def test_task_of_the_project_gets_an_open_file() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        with local.open(name) as content:
            assert os.read(content.fileno(), 10) == b"hello"

    transferred_with(act)


@pytest.mark.parametrize("size", [0, 1, AT_ONCE_MAX, AT_ONCE_MAX + 1])
def test_file_is_read_at_once_if_it_is_small(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def read_at_once(path: str, most: int) -> Any:
        found.append(path)
        return stamps.read_at_once(path, most)

    monkeypatch.setattr(proxies, "read_at_once", read_at_once)
    content = random.Random(size).randbytes(size)
    storage = make()
    storage.save("a.bin", file(content))
    assert storage.queue.deliver() == {}
    assert read(storage.remote, "a.bin") == content
    assert found == ([storage.local.path("a.bin")] if size <= AT_ONCE_MAX else [])


class Near(FileSystemStorage):
    pass


@pytest.mark.parametrize("owner", [FileSystemStorage, Near, None])
def test_method_that_is_replaced_later_is_called(
    owner: type[FileSystemStorage] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make(local=Near(disk().location))
    storage.save("a.bin", file(b"hello"))
    assert storage.queue.deliver() == {}

    def refuse(*args: Any) -> Any:
        raise ZeroDivisionError

    storage.save("b.bin", file(b"hello"))
    monkeypatch.setattr(owner or storage.local, "_open", refuse)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, ZeroDivisionError)


def test_file_that_has_become_large_is_not_read_at_once() -> None:
    storage = make()
    storage.save("a.bin", file(b"hello"))
    os.truncate(storage.local.path("a.bin"), 64 * AT_ONCE_MAX)
    tracemalloc.start()
    try:
        assert "67108864 bytes, but 5 were saved" in str(storage.queue.deliver())
        assert tracemalloc.get_traced_memory()[1] < 8 * AT_ONCE_MAX
    finally:
        tracemalloc.stop()


def test_link_whose_target_is_away_is_tried_again(tmp_path: Path) -> None:
    storage = make()
    storage.save("a.txt", file(b"hello"))
    target = tmp_path / "target"
    path = Path(storage.local.path("a.txt"))
    path.rename(target)
    path.symlink_to(tmp_path / "later")
    assert "No such file" in str(storage.queue.deliver())
    assert row(storage, "a.txt").state == State.PENDING
    target.rename(tmp_path / "later")
    assert retry(storage, "a.txt") is None
    assert read(storage.remote, "a.txt") == b"hello"


def test_file_that_vanishes_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_at_once(path: str, most: int) -> Any:
        Path(path).unlink(missing_ok=True)
        return stamps.read_at_once(path, most)

    monkeypatch.setattr(proxies, "read_at_once", read_at_once)
    storage = make()
    storage.save("a.bin", file(b"hello"))
    assert "No such file" in str(storage.queue.deliver())
    assert row(storage, "a.bin").state == State.PENDING
    assert on_disk("far") == []
