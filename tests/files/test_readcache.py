"""The read cache: its limit, several processes, and never a wrong byte."""

import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files import locks
from django.core.files.storage import FileSystemStorage, storages
from django.db import connection
from pytest_django import Settings

from queued_storage.exceptions import VerificationError
from queued_storage.files import cachespace, readcache
from queued_storage.ledger.database import ledger
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.forks import Forks, ended, forks
from tests.support.scripted import ScriptedStorage, file, make, make_due, on_disk, read, row
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

KB = 1000
MB = 1000 * KB


@pytest.fixture
def cache(settings: Settings, tmp_path: Path) -> Path:
    """The directory of a cache with a limit of 10,000 bytes."""
    with_limit(settings, tmp_path / "cache", 10 * KB)
    return tmp_path / "cache"


def with_limit(settings: Settings, location: Path, limit: int) -> None:
    place = {"LOCATION": str(location), "MAX_BYTES": limit}
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "READ_CACHE": place}


def evicted(storage: Any, name: str, data: bytes) -> str:
    """Save a file and evict it; return its name."""
    name = storage.save(name, file(data))
    storage.queue.deliver()
    FileSystemStorage.delete(storage.local, name)
    ledger().filter(alias=storage.alias, name=name).update(is_local=False)
    storage.remote.calls.clear()
    return str(name)


def copies(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.name != ".lock")


def size_of(cache: Path) -> int:
    """The size of all files in the directory at this moment, parts included."""
    total = 0
    for entry in os.scandir(cache):
        try:
            total += entry.stat().st_size if entry.is_file() else 0
        except FileNotFoundError:
            continue
    return total


# Strangers


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o702])
def test_directory_that_others_can_write_is_refused(
    cache: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir()
    cache.chmod(mode)
    assert read_uncached(cache) == b"bytes"
    assert "chmod 700" in caplog.text


def test_copies_are_not_readable_by_others(cache: Path) -> None:
    cache.mkdir(mode=0o755)
    storage = make()
    read(storage, evicted(storage, "a.txt", b"bytes"))
    assert {path.stat().st_mode & 0o777 for path in copies(cache)} == {0o600}


def test_a_directory_of_another_user_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(cachespace.os, "geteuid", lambda: os.getuid() + 1)
    assert read_uncached(cache) == b"bytes"
    assert "another user" in caplog.text


@pytest.mark.parametrize("to", ["directory", "nothing"])
def test_a_link_is_refused(
    cache: Path, to: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "directory").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / to)
    storage = make()
    assert read(storage, evicted(storage, "a.txt", b"bytes")) == b"bytes"
    assert list((tmp_path / "directory").iterdir()) == []
    assert "not a directory" in caplog.text


def read_uncached(cache: Path) -> bytes:
    """Read a file, of which nothing may be kept."""
    storage = make()
    found = read(storage, evicted(storage, "a.txt", b"bytes"))
    assert list(cache.iterdir()) == []
    return found


# Reading


def test_a_second_read_uses_the_cache(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    assert read(storage, name) == b"bytes"
    assert storage.remote.calls == {"_open": 1}
    storage.remote.refuses = True
    assert read(storage, name) == b"bytes"
    with storage.open(name, "r") as opened:
        assert opened.read() == "bytes"
    with storage.local_path(name) as path:
        assert Path(path).read_bytes() == b"bytes"
    assert storage.remote.calls == {"_open": 1}
    assert [path.read_bytes() for path in copies(cache)] == [b"bytes"]


def test_a_local_copy_is_not_cached(cache: Path) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    read(storage, name)
    storage.queue.deliver()
    read(storage, name)
    assert not cache.exists()


def test_without_the_setting_nothing_is_cached(tmp_path: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    read(storage, name)
    read(storage, name)
    assert storage.remote.calls == {"_open": 2}


def test_a_copy_cannot_be_written_to(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    for _first_and_later in range(2):
        with storage.open(name) as opened, pytest.raises(OSError, match="write"):
            opened.write(b"spoiled")
    assert read(storage, name) == b"bytes"
    [path] = copies(cache)
    assert path.stat().st_mode & 0o077 == 0
    assert cache.stat().st_mode & 0o077 == 0


def test_a_path_is_a_link_to_the_copy(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "docs/a.txt", b"bytes")
    with storage.local_path(name) as path:
        assert os.path.basename(path) == "a.txt"
        [copy] = [found for found in copies(cache) if found.is_file()]
        assert os.path.samefile(path, copy)
        copy.unlink()
        assert Path(path).read_bytes() == b"bytes"
        output = subprocess.run(["cat", path], capture_output=True, check=True).stdout
        assert output == b"bytes"
    assert copies(cache) == []


def test_new_content_and_deletes_bypass_the_cache(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"first")
    assert read(storage, name) == b"first"
    with storage.open(name, "wb") as opened:
        opened.write(b"newer")
    assert read(storage, name) == b"newer"
    storage.queue.deliver()
    FileSystemStorage.delete(storage.local, name)
    ledger().update(is_local=False)
    assert read(storage, name) == b"newer"
    assert len(copies(cache)) == 2
    storage.delete(name)
    with pytest.raises(FileNotFoundError):
        storage.open(name)
    make_due(storage, name)
    storage.queue.deliver()
    assert [path.read_bytes() for path in copies(cache)] == [b"first"]
    assert evicted(storage, name, b"third") == name
    assert read(storage, name) == b"third"


def test_new_content_with_the_same_checksum(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"first")
    for data in (b"first", b"newer"):
        if data == b"newer":
            with storage.open(name, "wb") as opened:
                opened.write(data)
            storage.queue.deliver()
            FileSystemStorage.delete(storage.local, name)
        ledger().update(checksum="", is_local=False)
        assert read(storage, name) == data


def test_two_storages_with_one_file_name(cache: Path) -> None:
    one, other = make(), make(remote=ScriptedStorage("elsewhere"))
    evicted(one, "a.txt", b"one's")
    evicted(other, "a.txt", b"other")
    assert [read(one, "a.txt"), read(other, "a.txt")] == [b"one's", b"other"]
    assert [read(one, "a.txt"), read(other, "a.txt")] == [b"one's", b"other"]


@pytest.mark.parametrize("wrong", [b"bytez", b"bytes and more", b"byte", b""])
def test_content_unlike_the_ledger_is_not_cached(cache: Path, wrong: bytes) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    Path(storage.remote.path(name)).write_bytes(wrong)
    with pytest.raises(VerificationError, match=r"a\.txt"):
        storage.open(name)
    assert copies(cache) == []


def test_an_adopted_file_is_compared_by_size(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    ledger().update(checksum="", size=4)
    assert read(storage, name) == b"bytes"
    assert copies(cache) == []
    ledger().update(size=5)
    assert read(storage, name) == b"bytes"
    assert len(copies(cache)) == 1


def test_an_error_of_the_remote_is_raised(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    storage.remote.refuses = True
    with pytest.raises(ConnectionError, match="The remote is away"):
        storage.open(name)
    assert storage.remote.calls == {"_open": 1}
    assert copies(cache) == []


def test_a_copy_of_another_length_is_fetched_again(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    read(storage, name)
    [path] = copies(cache)
    path.write_bytes(b"byt")
    assert read(storage, name) == b"bytes"
    assert storage.remote.calls == {"_open": 2}


def test_content_that_changes_while_it_is_fetched(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"first")

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    storage.remote.after["_open"] = overwrite
    assert read(storage, name) == b"newer"


# The limit


def test_the_least_recently_read_go_first(cache: Path) -> None:
    storage = make()
    names = [evicted(storage, f"{letter}.txt", letter.encode() * 3 * KB) for letter in "abcd"]
    for age, name in zip((30, 20, 10), names, strict=False):
        read(storage, name)
        path = readcache.slot_of(row(storage, name)).path  # type: ignore[union-attr]
        os.utime(path, (time.time() - age,) * 2)
    storage.remote.calls.clear()
    read(storage, names[0])  # now the most recently read
    assert read(storage, names[3]) == b"d" * 3 * KB  # b is deleted
    assert storage.remote.calls == {"_open": 1}
    assert size_of(cache) == 9 * KB
    storage.remote.refuses = True
    for kept in (0, 2, 3):
        assert len(read(storage, names[kept])) == 3 * KB
    with pytest.raises(ConnectionError):
        storage.open(names[1])


def test_a_file_above_the_limit_is_not_cached(cache: Path) -> None:
    storage = make()
    small, large = evicted(storage, "a", b"a" * KB), evicted(storage, "b", b"b" * 11 * KB)
    read(storage, small)
    assert len(read(storage, large)) == 11 * KB
    with storage.local_path(large) as path:
        assert Path(path).stat().st_size == 11 * KB
    assert size_of(cache) == KB


def test_a_dropped_copy_stays_readable(cache: Path) -> None:
    storage = make()
    first, second = (evicted(storage, letter, letter.encode() * 6 * KB) for letter in "ab")
    with storage.open(first) as opened, storage.local_path(first) as path:
        assert opened.read(1) == b"a"
        read(storage, second)
        assert size_of(cache) == 6 * KB
        assert opened.read() == b"a" * (6 * KB - 1)
        assert Path(path).read_bytes() == b"a" * 6 * KB
    assert len(copies(cache)) == 1


def test_parts_of_other_processes_count(cache: Path, storage_with_part: Any) -> None:
    storage, name = storage_with_part
    assert len(read(storage, name)) == 5 * KB
    assert size_of(cache) == 6 * KB  # the part alone


@pytest.fixture
def storage_with_part(cache: Path) -> Iterator[Any]:
    """Read a file of 5,000 bytes while another process writes a part of 6,000."""
    storage = make()
    name = evicted(storage, "a", b"a" * 5 * KB)
    cache.mkdir()
    with (cache / f"{'0' * 64}.part").open("wb") as part:
        part.truncate(6 * KB)
        locks.lock(part, locks.LOCK_EX)
        yield storage, name


# Errors of the directory


def test_a_directory_that_cannot_be_made(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    with_limit(settings, tmp_path / "file" / "cache", KB)
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    assert read(storage, name) == b"bytes"
    assert "The read cache is not used" in caplog.text


def read_with_little_disk(name: str, size: int) -> None:
    """The files of this process cannot exceed a megabyte, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MB, resource.RLIM_INFINITY))
    assert len(read(storages["default"], name)) == size


@pytest.fixture
def children(child_environment: dict[str, str], settings: Settings) -> Iterator[Forks]:
    with forks(child_environment, settings) as found:
        yield found


def default_with(name: str, data: bytes) -> str:
    """Save a file to the default storage and evict it; return its name."""
    storage: Any = storages["default"]
    name = storage.save(name, file(data))
    storage.queue.deliver()
    storage.local.delete(name)
    ledger().filter(name=name).update(is_local=False)
    return str(name)


def test_a_full_disk(cache: Path, settings: Settings, children: Forks) -> None:
    with_limit(settings, cache, 10 * MB)
    name = default_with("a", bytes(3 * MB))
    assert ended(children.start(read_with_little_disk, name, 3 * MB)) == 0
    assert copies(cache) == []


# Concurrency


def test_concurrent_readers_fetch_once(cache: Path) -> None:
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    go_on = threading.Event()
    storage.remote.after["_open"] = lambda name: go_on.wait(30)
    found: list[bytes] = []

    def look() -> None:
        found.append(read(storage, name))
        connection.close()

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    until(lambda: storage.remote.calls["_open"])
    go_on.set()
    for reader in readers:
        reader.join(30)
    assert found == [b"bytes"] * 4
    assert storage.remote.calls == {"_open": 1}


def test_a_stuck_writer_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readcache, "PATIENCE", 0.1)
    storage = make()
    name = evicted(storage, "a.txt", b"bytes")
    cache.mkdir()
    path = readcache.slot_of(row(storage, name)).path  # type: ignore[union-attr]
    with path.with_suffix(".part").open("wb") as part:
        locks.lock(part, locks.LOCK_EX)
        assert read(storage, name) == b"bytes"
    assert storage.remote.calls == {"_open": 1}
    assert read(storage, name) == b"bytes"  # no process holds the lock now
    assert [found.name for found in copies(cache)] == [path.name]


def content(name: str) -> bytes:
    return random.Random(name).randbytes(200 * KB)


def read_at_random(names: list[str], seed: int, rounds: int) -> None:
    storage: Any = storages["default"]
    chance = random.Random(seed)
    for _round in range(rounds):
        name = chance.choice(names)
        if chance.random() < 0.5:
            with storage.local_path(name) as path:
                found = Path(path).read_bytes()
        else:
            found = read(storage, name)
        assert found == content(name)


def test_several_processes_stay_within_the_limit(
    cache: Path, settings: Settings, children: Forks
) -> None:
    """Readers of twelve files share a cache for five; some of them are killed."""
    with_limit(settings, cache, MB)
    names = [default_with(f"{number}.bin", content(f"{number}.bin")) for number in range(12)]
    cache.mkdir()
    readers = [children.start(read_at_random, names, seed, 60) for seed in range(3)]
    doomed = [children.start(read_at_random, names, seed, 10**6) for seed in (7, 8)]
    most = 0
    until(lambda: len(copies(cache)) >= 3)
    for victim in [*doomed, None]:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            most = max(most, size_of(cache))
        if victim and victim.pid:
            os.kill(victim.pid, signal.SIGKILL)
    while any(reader.is_alive() for reader in readers):
        most = max(most, size_of(cache))
    assert [ended(reader) for reader in readers] == [0, 0, 0]
    assert 400 * KB <= most <= MB + 200 * KB  # listing takes time, and files may change meanwhile
    assert size_of(cache) <= MB
    for place in cache.glob(f"{cachespace.IN_USE_PREFIX}*"):
        os.utime(place, (0, 0))  # a process killed before it made its link leaves one for a day
    storage: Any = storages["default"]
    for name in names:  # the next readers clear up
        assert read(storage, name) == content(name)
    left = copies(cache)
    assert [path for path in left if path.suffix or path.is_dir()] == []
    assert len(left) == 5


def test_a_part_of_a_dead_process_is_reused(
    cache: Path,
    settings: Settings,
    children: Forks,
    s3_proxy_options: dict[str, Any],
    s3_proxy: FaultProxy,
) -> None:
    with_limit(settings, cache, 10 * MB)
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": s3_proxy_options}
    settings.STORAGES = settings.STORAGES | {"far": far}
    first, second = (default_with(name, content(name) * 10) for name in ("a", "b"))
    for name, who_takes_it in ((first, first), (first, second)):
        ledger().update(generation=1 if who_takes_it == first else 2)
        s3_proxy.mode = Mode.SLOW
        s3_proxy.delay = 1
        child = children.start(read_at_random, [name], 0, 1)
        until(lambda: list(cache.glob("*.part")))
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        ended(child)
        assert len(list(cache.glob("*.part"))) == 1
        s3_proxy.mode = Mode.OK
        assert read(storages["default"], who_takes_it) == content(who_takes_it) * 10
        assert list(cache.glob("*.part")) == []


def hold_a_path(name: str, told: Path) -> None:
    with storages["default"].local_path(name) as path:  # type: ignore[attr-defined]
        draft = told.with_suffix(".draft")
        draft.write_text(path)
        draft.rename(told)
        time.sleep(600)


def test_only_paths_of_dead_processes_are_removed(
    cache: Path, children: Forks, tmp_path: Path
) -> None:
    name, other = default_with("a", b"a" * 6 * KB), default_with("b", b"b" * 2 * KB)
    child = children.start(hold_a_path, name, tmp_path / "told")
    until((tmp_path / "told").exists)
    path = Path((tmp_path / "told").read_text())
    read(storages["default"], other)
    assert path.read_bytes() == b"a" * 6 * KB
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    ended(child)
    third = default_with("c", b"c" * KB)
    read(storages["default"], third)
    assert not path.parent.exists()
    assert len(copies(cache)) == 3


def test_an_old_directory_without_a_link_is_removed(cache: Path) -> None:
    storage = make()
    young, old = cache / "path-young", cache / "path-old"
    for directory in (young, old):
        directory.mkdir(parents=True)
    os.utime(old, (time.time() - 10**6,) * 2)
    read(storage, evicted(storage, "a", b"bytes"))
    assert young.exists()
    assert not old.exists()


def test_small_proxied_files_are_cached(cache: Path, client: Any, settings: Settings) -> None:
    storage = make(url_mode="proxied")
    name = evicted(storage, "a.txt", b"bytes")
    for _time in range(2):
        answer = client.get(storage.url(name))
        assert answer.getvalue() == b"bytes"
    assert storage.remote.calls == {"_open": 1}
    part = client.get(storage.url(name), headers={"Range": "bytes=1-2"})
    assert part.getvalue() == b"yt"
    large = evicted(storage, "b.txt", bytes(9 * MB))
    with_limit(settings, cache, 100 * MB)
    answer = client.get(storage.url(large), headers={"Range": "bytes=-3"})
    assert answer.getvalue() == bytes(3)
    assert len(copies(cache)) == 1
    assert on_disk("disk") == []
