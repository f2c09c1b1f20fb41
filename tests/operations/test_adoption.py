import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, storages
from django.db import connection
from django.test.utils import CaptureQueriesContext

from queued_storage.files.streams import checksum_of
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import comparison, errands, passes
from queued_storage.operations.adoption import adopt, backfill
from queued_storage.operations.passes import Step
from tests.support.scripted import RenamingStorage, disk, file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)


def put(place: Any, name: str, data: bytes = b"bytes") -> str:
    saved: str = place.save(name, file(data))
    os.utime(place.path(saved), (BEFORE.timestamp(),) * 2)
    return saved


def record(recording: Any, storage: Any, names: Any, **options: Any) -> tuple[int, list[str]]:
    """The number of recorded files, and the errors of the others."""
    steps: list[Step] = []
    count = recording(storage, names, steps.append, **options)
    return count, [f"{step.name}: {step.error}" for step in steps if step.error]


# backfill


def test_backfilled_file_is_transferred() -> None:
    storage = make()
    put(disk(), "d/a.png")
    assert record(backfill, storage, ["d/a.png"]) == (1, [])
    found = row(storage, "d/a.png")
    assert (found.state, found.size, found.content_type) == (State.PENDING, 5, "image/png")
    assert found.saved_at == BEFORE
    assert storage.queue.deliver() == {}
    assert read(storage.remote, "d/a.png") == b"bytes"
    assert errands.evict(ledger().all()) == 1
    assert storage.get_modified_time("d/a.png") == BEFORE
    assert read(storage, "d/a.png") == b"bytes"


def test_backfill_leaves_existing_remote_files_alone() -> None:
    """It isn't known whose they are; adopt() says so."""
    storage = make()
    put(disk(), "a.txt")
    put(storage.remote, "a.txt")
    assert record(backfill, storage, ["a.txt"]) == (1, [])
    assert storage.queue.deliver() == {}
    assert row(storage, "a.txt").remote_name != "a.txt"
    storage.delete("a.txt")
    assert storage.queue.deliver() == {}
    assert on_disk("far") == ["a.txt"]


@pytest.mark.parametrize("recording", [backfill, adopt])
def test_known_files_are_not_changed(recording: Any) -> None:
    storage = make()
    put(disk(), "a.txt")
    put(storage.remote, "a.txt")
    assert record(recording, storage, ["a.txt", "a.txt"]) == (1, [])
    ledger().update(state=State.FAILED)
    assert record(recording, storage, ["a.txt"]) == (0, [])
    assert row(storage, "a.txt").state == State.FAILED


@pytest.mark.parametrize("recording", [backfill, adopt])
def test_dry_run_records_nothing(recording: Any) -> None:
    storage = make()
    put(disk(), "a.txt")
    put(storage.remote, "a.txt")
    assert record(recording, storage, ["a.txt", "b.txt"], dry_run=True)[0] == 1
    assert not ledger().exists()
    assert storage.queue.messages == []


@pytest.mark.parametrize("recording", [backfill, adopt])
def test_names_without_a_file_are_reported(recording: Any) -> None:
    count, errors = record(recording, make(), ["a.txt"])
    assert count == 0
    assert errors[0].startswith("a.txt: ")


@pytest.mark.parametrize("recording", [backfill, adopt])
def test_unfinished_files_are_skipped(recording: Any) -> None:
    storage = make()
    put(disk(), ".queued-abc")
    put(storage.remote, ".queued-abc")
    assert record(recording, storage, [".queued-abc"]) == (0, [])
    assert not ledger().exists()


@pytest.mark.parametrize("recording", [backfill, adopt])
@pytest.mark.parametrize("name", ["caf\udce9.txt", "a\0b", "x" * 1000, "../a", "", "a\\b", "a//b"])
def test_names_that_cannot_be_recorded_are_reported(recording: Any, name: str) -> None:
    storage = make()
    put(disk(), "good.txt")
    put(storage.remote, "good.txt")
    count, errors = record(recording, storage, [name, "good.txt"])
    assert count == 1
    [error] = errors
    assert error.startswith(f"{name}: ")
    assert "name" in error


@pytest.mark.parametrize("recording", [backfill, adopt])
def test_errors_do_not_affect_other_names(recording: Any) -> None:
    storage = make(remote=storages["far"])
    for place in (disk(), storage.remote):
        put(place, "a.txt")
        put(place, "d/b.txt")
    names = ["a.txt/inside.txt", f"{'x' * 300}.txt", "d", "d/b.txt"]
    count, errors = record(recording, storage, names)
    assert count == 1
    assert [error.split(": ")[0] for error in errors] == names[:3]
    assert list(ledger().values_list("name", flat=True)) == ["d/b.txt"]


def test_files_of_other_storages_are_not_recorded() -> None:
    storage, other = make(), make(remote=storages["far"])
    for name in ("pending.txt", "own.txt"):
        put(storage.remote, name)
    put(other.local, "own.txt")
    assert other.save("pending.txt", file()) == "pending.txt"
    count, errors = record(backfill, storage, ["pending.txt"])
    assert (count, errors) == (0, ["pending.txt: It is the local file of another storage."])
    assert record(adopt, storage, ["pending.txt", "own.txt"]) == (2, [])
    assert [row(storage, name).is_local for name in ("pending.txt", "own.txt")] == [False, True]
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1
    assert on_disk() == ["pending.txt"]


def test_files_of_unknown_storages_are_recorded() -> None:
    storage, other = make(), make()
    other.save("a.txt", file())
    ledger().update(alias="unknown")
    assert record(backfill, storage, ["a.txt"]) == (1, [])


def test_names_are_read_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BATCH", 3)
    storage = make()
    drawn = []

    def names() -> Iterator[str]:
        for number in range(7):
            assert len(drawn) - ledger().count() <= 3
            drawn.append(number)
            yield put(disk(), f"{number}.txt")

    with CaptureQueriesContext(connection) as queries:
        assert record(backfill, storage, names()) == (7, [])
    selects = [query["sql"] for query in queries if "IN (" in query["sql"]]
    others = [sql for sql in selects if "NOT (" in sql]  # of other storages
    assert (len(selects) - len(others), len(others)) == (3, 2)  # the first batch finds no alias
    assert [len(message) for message in storage.queue.messages] == [3, 3, 1]


def test_killed_backfill_can_be_repeated() -> None:
    storage = make()
    names = [put(disk(), f"{number}.txt") for number in range(5)]

    def die(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backfill(storage, names[:2], die)
    assert record(backfill, storage, names) == (3, [])
    assert storage.queue.deliver() == {}
    assert on_disk("far") == names


# adopt


def test_adopted_file_is_not_read_or_written() -> None:
    storage = make()
    put(storage.remote, "a.txt")
    storage.remote.calls.clear()
    assert record(adopt, storage, ["a.txt"]) == (1, [])
    assert storage.queue.messages == []
    assert storage.remote.calls["_save"] == storage.remote.calls["_open"] == 0
    found = row(storage, "a.txt")
    assert (found.state, found.is_local, found.remote_name) == (State.TRANSFERRED, False, "a.txt")
    assert (found.size, found.checksum, found.verified) == (5, "", "")
    assert (found.saved_at, found.due_at) == (BEFORE, None)
    assert found.transferred_at is not None
    assert read(storage, "a.txt") == b"bytes"
    assert list(comparison.verify(ledger().all(), content=True)) == []
    assert errands.restore(ledger().all()) == 1
    assert read(disk(), "a.txt") == b"bytes"


@pytest.mark.parametrize(
    ("content", "verified", "checksum"),
    [(False, "size", ""), (True, "content", str(checksum_of([b"bytes"])))],
)
def test_adopted_file_keeps_its_local_copy(content: bool, verified: str, checksum: str) -> None:
    storage = make()
    put(disk(), "a.txt")
    put(storage.remote, "a.txt")
    assert record(adopt, storage, ["a.txt"], content=content) == (1, [])
    found = row(storage, "a.txt")
    assert (found.is_local, found.verified, found.checksum) == (True, verified, checksum)
    assert errands.evict(ledger().all()) == 1
    assert on_disk() == []
    assert read(storage, "a.txt") == b"bytes"


@pytest.mark.parametrize(("local", "content"), [(b"longer", False), (b"bytez", True)])
def test_different_copies_are_not_adopted(local: bytes, content: bool) -> None:
    storage = make()
    put(disk(), "a.txt", local)
    put(storage.remote, "a.txt")
    count, [error] = record(adopt, storage, ["a.txt"], content=content)
    assert count == 0
    assert "different" in error
    assert not ledger().exists()


def test_remote_copies_of_other_files_are_not_adopted() -> None:
    storage = make(remote=RenamingStorage())
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    [remote_name] = on_disk("far")
    count, [error] = record(adopt, storage, [remote_name])
    assert count == 0
    assert "remote copy of another file" in error


def test_unreachable_remote_is_reported_for_each_name() -> None:
    storage = make()
    storage.remote.refuses = True
    count, errors = record(adopt, storage, ["a.txt", "b.txt"])
    assert count == 0
    assert errors == [f"{n}.txt: ConnectionError: The remote is away." for n in "ab"]


def test_file_at_another_place_is_reported(tmp_path: Path) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    storage.sides.remote.given = FileSystemStorage(tmp_path)
    put(storage.remote, name)
    place = row(storage, name).place
    count, [error] = record(adopt, storage, [name])
    assert count == 0
    assert "remotes accept" in error
    assert row(storage, name).place == place
