"""Many processes that use the same files at the same time.

QUEUED_STORAGE_TEST_ROUNDS is the number of rounds of each process (default: 40).
``QUEUED_STORAGE_TEST_ROUNDS=1000 pytest --timeout 3600 tests/journeys/test_races.py`` takes about
ten minutes on each database.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql.statements import Statement, returns_rows
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.operations import errands
from queued_storage.queues.base import run_all
from queued_storage.tasks import TransferAndDelete
from tests.support.forks import ended, forks
from tests.support.scripted import make, mark, on_disk
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = int(os.environ.get("QUEUED_STORAGE_TEST_ROUNDS", "40"))
TURNS = ROUNDS // 2  # for rounds that do more than one save
PROCESSES = 8
SHARED = "docs/same.bin"


class Meeting:
    """A directory through which the processes of a test communicate."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def begin(self) -> None:
        (self.place / "begun").touch()

    def wait_for_the_others(self) -> None:
        until((self.place / "begun").exists)

    def end(self) -> None:
        (self.place / "over").touch()

    @property
    def is_over(self) -> bool:
        return (self.place / "over").exists()

    def put(self, kind: str, data: Any) -> None:
        """Publish a value atomically."""
        draft = self.place / f"draft-{os.getpid()}-{random.getrandbits(64)}"
        draft.write_text(json.dumps(data))
        draft.rename(self.place / draft.name.replace("draft", kind))

    def get(self, kind: str) -> list[Any]:
        return [json.loads(path.read_text()) for path in self.place.glob(f"{kind}-*")]

    def take(self, kind: str) -> Iterator[Any]:
        """Take values; each is given to one process only."""
        for path in self.place.glob(f"{kind}-*"):
            taken = path.with_name(f"taken-{path.name}")
            try:
                path.rename(taken)
            except FileNotFoundError:
                continue
            yield json.loads(taken.read_text())


@pytest.fixture
def meeting(tmp_path: Path) -> Meeting:
    return Meeting(tmp_path)


@pytest.fixture
def race(
    child_environment: dict[str, str], settings: Settings, meeting: Meeting
) -> Iterator[Callable[..., None]]:
    """Run functions in many processes, and others in the background until these have ended."""

    def run(runners: list[tuple[Any, ...]], beside: list[tuple[Any, ...]] | None = None) -> None:
        running = [children.start(function, meeting, *args) for function, *args in runners]
        others = [children.start(function, meeting, *args) for function, *args in beside or []]
        meeting.begin()
        assert [ended(child, timeout=30 + ROUNDS) for child in running] == [0] * len(running)
        meeting.end()
        assert [ended(child, timeout=30 + ROUNDS) for child in others] == [0] * len(others)

    with forks(child_environment, settings) as children:
        yield run


@pytest.fixture
def evicting(settings: Settings) -> None:
    """The default storage evicts local copies."""
    default = settings.STORAGES["default"]
    options = default["OPTIONS"] | {"task": "queued_storage.tasks.TransferAndDelete"}
    settings.STORAGES = settings.STORAGES | {"default": default | {"OPTIONS": options}}


def read(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def transfer_and_sweep(meeting: Meeting) -> None:
    """Process every due file until the race is over."""
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    while not meeting.is_over:
        sweep()
        assert storage.queue.deliver() == {}


def settle() -> dict[str, str]:
    """Process all files that are left; return the remote name of every file.

    There is no lease to wait for: processes that have ended hold none.
    """
    storage: Any = storages["default"]
    while sweep():
        assert storage.queue.deliver() == {}
    rows = list(ledger().all())
    assert {(row.state, row.lease_token, row.last_error) for row in rows} <= {
        ("transferred", "", "")
    }
    return {row.name: row.remote_name for row in rows}


# Saves of the same name


def save_often(meeting: Meeting, number: int) -> None:
    """Save files, read those that are kept, and mark every other one for deletion."""
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    kept = {}
    for turn in range(ROUNDS):
        content = f"{number}, {turn}; " * (1 + turn * 100)
        name = storage.save(SHARED, ContentFile(content))
        assert read(storage, name).decode() == content
        if turn % 2:
            meeting.put("doomed", name)
        else:
            kept[name] = content
        chosen = random.choice(list(kept))
        assert read(storage, chosen).decode() == kept[chosen]
        assert storage.size(chosen) == len(kept[chosen])
    meeting.put("kept", kept)


def delete_transfer_and_sweep(meeting: Meeting) -> None:
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    is_over = False
    while not is_over:
        is_over = meeting.is_over  # one more pass, for values put before the end
        for name in meeting.take("doomed"):
            storage.delete(name)
        sweep()
        assert storage.queue.deliver() == {}


@pytest.mark.usefixtures("evicting")
def test_processes_save_and_delete_the_same_name(
    race: Callable[..., None], meeting: Meeting
) -> None:
    race(
        [(save_often, number) for number in range(PROCESSES)],
        beside=[(delete_transfer_and_sweep,)] * PROCESSES,
    )
    kept: dict[str, str] = {}
    for found in meeting.get("kept"):
        assert not kept.keys() & found.keys()
        kept.update(found)
    assert len(kept) == PROCESSES * len(range(0, ROUNDS, 2))
    assert settle().keys() == kept.keys()
    assert on_disk() == []
    assert on_disk("far") == sorted(kept)
    assert {name: read(storages["far"], name).decode() for name in kept} == kept


def save_on_own_disk(meeting: Meeting, number: int) -> None:
    """Save as on a host with its own disk, where only the ledger shows which names are taken."""
    local = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(meeting.place / f"host-{number}")},
    }
    storage = QueuedStorage(local, "far", alias="hosts", delayed=True)
    mark(storage.location)
    meeting.wait_for_the_others()
    kept = {}
    for turn in range(ROUNDS):
        content = f"{number}, {turn}"
        if turn % 2:
            name = storage.save(SHARED, ContentFile(content))
        else:
            with transaction.atomic():
                name = storage.save(SHARED, ContentFile(content))
        assert name not in kept
        kept[name] = content
    assert {name: read(storage.local, name).decode() for name in kept} == kept
    meeting.put("kept", kept)


def test_hosts_save_the_same_name(race: Callable[..., None], meeting: Meeting) -> None:
    race([(save_on_own_disk, number) for number in range(PROCESSES)])
    names = [name for kept in meeting.get("kept") for name in kept]
    assert len(names) == len(set(names)) == PROCESSES * ROUNDS
    assert set(ledger().values_list("name", flat=True)) == set(names)


# Workers that process the same rows


def run_in_any_order(meeting: Meeting, pks: list[int]) -> None:
    random.shuffle(pks)
    meeting.wait_for_the_others()
    assert run_all(pks) == {}


def test_workers_transfer_each_row_once(race: Callable[..., None]) -> None:
    storage: Any = storages["default"]
    for number in range(ROUNDS):
        storage.save(f"{number}.bin", ContentFile(b"content"))
    pks = list(ledger().values_list("pk", flat=True))
    race([(run_in_any_order, pks)] * PROCESSES)
    rows = set(ledger().values_list("state", "attempts", "lease_token"))
    assert rows == {(State.TRANSFERRED, 1, "")}
    assert on_disk("far") == sorted(f"{number}.bin" for number in range(ROUNDS))


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_long_transaction_blocks_no_other_file() -> None:
    storage: Any = storages["default"]
    name, other = [storage.save(each, ContentFile(b"content")) for each in ("a.bin", "b.bin")]

    def work() -> None:
        try:
            assert run_all([ledger().get(name=other).pk]) == {}
        finally:
            connections.close_all()

    with transaction.atomic(), ThreadPoolExecutor(1) as threads:
        storage.delete(name)
        threads.submit(work).result(timeout=20)
    assert storage.using_remote(other)


@pytest.mark.skipif(connection.vendor != "mysql", reason="the bug was specific to MySQL")
def test_claim_locks_only_its_own_row() -> None:
    """Using the index on due_at, a claim locked all due rows and deadlocked with deletes."""
    storage: Any = storages["default"]
    storage.save(SHARED, ContentFile(b"content"))
    (row,) = ledger().all()
    with CaptureQueriesContext(connection) as queries:
        assert ledger().claim(row.pk)
    (update,) = [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    ledger().update(due_at=row.due_at)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {update}")
        (plan,) = cursor.fetchall()
        columns = [column[0] for column in cursor.description]
    assert dict(zip(columns, plan, strict=True))["key"] == "PRIMARY"


# Deleted and saved again


def delete_and_save_again(meeting: Meeting, number: int, *, in_one_transaction: bool) -> None:
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    name = storage.save(SHARED, ContentFile(b""))
    content = b""
    for turn in range(TURNS):
        content = f"{number}, {turn}; ".encode() * (1 + turn * 100)
        if in_one_transaction:
            with transaction.atomic():
                storage.delete(name)
                name = storage.save(SHARED, ContentFile(content))
        else:
            storage.delete(name)
            name = storage.save(SHARED, ContentFile(content))
        assert read(storage, name) == content
    meeting.put("last", [name, content.decode()])


def in_one(meeting: Meeting, number: int) -> None:
    delete_and_save_again(meeting, number, in_one_transaction=True)


def in_two(meeting: Meeting, number: int) -> None:
    delete_and_save_again(meeting, number, in_one_transaction=False)


@pytest.mark.parametrize("again", [in_one, in_two])
def test_name_is_deleted_and_saved_again(
    again: Callable[..., None], race: Callable[..., None], meeting: Meeting
) -> None:
    race([(again, number) for number in range(4)], beside=[(transfer_and_sweep,)] * 3)
    last = dict(meeting.get("last"))
    assert len(last) == 4
    assert settle().keys() == last.keys()
    assert on_disk() == on_disk("far") == sorted(last)
    assert {name: read(storages["far"], name).decode() for name in last} == last


# Readers, which must see whole files


def content_of(version: int) -> bytes:
    return f"{version:06}".encode() * (20_000 + version)


def version_of(content: bytes) -> int:
    """Return the version of this content, which must be complete."""
    version = int(content[:6])
    assert content == content_of(version), f"not the whole of version {version}"
    return version


def overwrite_often(meeting: Meeting) -> None:
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    for version in range(1, TURNS + 1):
        with storage.open(SHARED, "wb") as file:
            file.write(content_of(version))
        if version % 3 == 0:  # otherwise it may be transferring or still pending
            storage.wait(timeout=30)


def read_versions(meeting: Meeting) -> None:
    """Read the file repeatedly; its version must never decrease."""
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    seen = 0
    while not meeting.is_over:
        version = version_of(read(storage, SHARED))
        assert seen <= version, f"{version} after {seen}"
        seen = version
        assert storage.size(SHARED) >= len(content_of(seen))
        assert storage.exists(SHARED)


@pytest.mark.usefixtures("evicting")
def test_new_content_replaces_content_being_transferred(race: Callable[..., None]) -> None:
    storage: Any = storages["default"]
    assert storage.save(SHARED, ContentFile(content_of(0))) == SHARED
    race([(overwrite_often,)], beside=[(transfer_and_sweep,)] * 2 + [(read_versions,)] * 2)
    assert settle() == {SHARED: SHARED}
    assert on_disk() == []
    assert on_disk("far") == [SHARED]
    assert version_of(read(storages["far"], SHARED)) == TURNS


@pytest.mark.one_database
def test_new_content_replaces_content_on_s3(
    race: Callable[..., None],
    settings: Settings,
    s3_options: dict[str, Any],
    s3_client: Any,
    s3_bucket: str,
) -> None:
    options = s3_options | {"client_config": None}  # it cannot be passed to another process
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": far}
    storage: Any = storages["default"]
    assert storage.save(SHARED, ContentFile(content_of(0))) == SHARED
    race([(overwrite_often,)], beside=[(transfer_and_sweep,)] * 2 + [(read_versions,)] * 2)
    assert settle() == {SHARED: SHARED}
    (found,) = s3_client.list_objects_v2(Bucket=s3_bucket)["Contents"]
    assert found["Key"] == SHARED
    assert version_of(read(storages["far"], SHARED)) == TURNS


def test_read_during_overwrite_returns_whole_content() -> None:
    storage = make(task=TransferAndDelete())
    name = storage.save("a.txt", ContentFile(b"old"))
    storage.queue.deliver()

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as file:
            file.write(b"newer")
        Path(storage.remote.path(name)).write_bytes(b"new")  # a worker has uploaded half of it

    storage.remote.before["_open"] = overwrite
    assert read(storage, name) == b"newer"


def test_read_survives_removal_of_the_old_object() -> None:
    storage = make(task=TransferAndDelete())
    name = storage.save("a.txt", ContentFile(b"old"))
    storage.queue.deliver()

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as file:
            file.write(b"newer")
        storage.remote.delete(name)  # a worker has deleted the old object

    storage.remote.before["_open"] = overwrite
    assert read(storage, name) == b"newer"


@pytest.mark.parametrize("delayed", [False, True])
def test_new_content_saved_during_the_claim_wins(
    delayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make(delayed=delayed)
    name = storage.save("a.txt", ContentFile(b"old"))
    storage.transfer(name)
    # Where an UPDATE returns no rows, a SELECT follows it, which may find another file.
    way = "instances" if returns_rows("default") else "execute"
    take = getattr(Statement, way)

    def take_and_overwrite(*args: Any) -> Any:
        taken = take(*args)
        monkeypatch.undo()
        with storage.open(name, "wb") as file:
            file.write(b"newer")
        return taken

    monkeypatch.setattr(Statement, way, take_and_overwrite)
    assert storage.queue.deliver() == {}
    row = ledger().get()
    assert (row.lease_token, row.due_at, row.last_error) == ("", None, "")
    if delayed:
        assert row.state == State.HELD
    else:
        assert row.state == State.TRANSFERRED
        assert read(storage.remote, name) == b"newer"


def save_in_turn(meeting: Meeting) -> None:
    """Transfer, evict, restore and evict again one file after the other while others read them."""
    meeting.wait_for_the_others()
    storage: Any = storages["default"]
    for version in range(TURNS):
        name = storage.save(f"{version}.bin", ContentFile(content_of(version)))
        meeting.put("saved", version)
        until(partial(is_evicted, storage, name))
        assert errands.restore(ledger().filter(name=name)) == 1
        assert errands.evict(ledger().filter(name=name)) == 1


def is_evicted(storage: Any, name: str) -> bool:
    return not storage.queued_file(name).is_local


def read_in_turn(meeting: Meeting) -> None:
    storage: Any = storages["default"]
    seen = -1
    while not meeting.is_over:
        for version in meeting.get("saved"):
            if version > seen:
                read_until_evicted(storage, f"{version}.bin", version)
                seen = version
        if seen >= 0:
            assert version_of(read(storage, f"{seen}.bin")) == seen


def read_until_evicted(storage: Any, name: str, version: int) -> None:
    """Read the file until it is evicted, and once more."""
    is_last = False
    while not is_last:
        is_last = is_evicted(storage, name)
        assert version_of(read(storage, name)) == version
        assert storage.size(name) == len(content_of(version))
        assert storage.exists(name)
        url = storage.url(name)
        if url.startswith("https://far.example/"):
            assert version_of(read(storages["far"], name)) == version
        else:
            assert url == f"/media/{name}"
            assert not is_last


@pytest.mark.usefixtures("evicting")
def test_readers_see_whole_files_during_transfers(race: Callable[..., None]) -> None:
    race([(save_in_turn,)], beside=[(transfer_and_sweep,)] * 2 + [(read_in_turn,)] * 3)
    assert len(settle()) == TURNS
    assert on_disk() == []
