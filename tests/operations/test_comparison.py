from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.operations import comparison, passes
from queued_storage.operations.comparison import Difference, Kind
from queued_storage.operations.passes import Step
from tests.operations.files import evicted, files, transferred
from tests.support.scripted import (
    disk,
    file,
    make,
    row,
)

pytestmark = pytest.mark.django_db(transaction=True)


def differences(storage: Any, **options: Any) -> list[tuple[str, str, Kind]]:
    found = comparison.verify(files(storage), **options)
    return [(each.name, each.side, each.kind) for each in found]


@pytest.mark.parametrize("content", [False, True])
def test_intact_files_have_no_differences(content: bool) -> None:
    storage = make()
    transferred(storage, "both.txt")
    evicted(storage, "remote.txt")
    storage.save("local.txt", file())
    storage.delete(transferred(storage, "gone.txt"))
    steps: list[Step] = []
    assert differences(storage, content=content, report=steps.append) == []
    assert len(steps) == 3


def test_missing_copies() -> None:
    storage = make()
    for name in ("both.txt", "near.txt"):
        transferred(storage, name)
    storage.save("pending.txt", file())
    disk().delete("pending.txt")
    disk().delete("near.txt")
    Path(storage.remote.path("both.txt")).unlink()
    assert differences(storage) == [
        ("both.txt", "remote", Kind.MISSING),
        ("near.txt", "local", Kind.MISSING),
        ("pending.txt", "local", Kind.MISSING),
    ]


def test_extra_local_file() -> None:
    storage = make()
    name = evicted(storage)
    disk().save(name, file(b"left by a process that died"))
    assert differences(storage) == [(name, "local", Kind.EXTRA)]


def test_copies_with_a_different_size() -> None:
    storage = make()
    name = transferred(storage)
    Path(storage.remote.path(name)).write_bytes(b"shorter")
    Path(disk().path(name)).write_bytes(b"longer than before")
    [local, remote] = comparison.verify(files(storage))
    assert (local.side, local.kind) == ("local", Kind.DIFFERENT)
    assert "18 bytes" in local.details
    assert (remote.side, remote.kind) == ("remote", Kind.DIFFERENT)
    assert "7" in remote.details


def test_only_content_finds_a_flipped_byte() -> None:
    storage = make()
    name = transferred(storage)
    Path(storage.remote.path(name)).write_bytes(b"bytez")
    Path(disk().path(name)).write_bytes(b"bytez")
    assert differences(storage) == []
    assert differences(storage, content=True) == [
        (name, "local", Kind.DIFFERENT),
        (name, "remote", Kind.DIFFERENT),
    ]


def test_unreachable_remote_is_unreadable() -> None:
    storage = make()
    name = transferred(storage)
    storage.remote.refuses = True
    [difference] = comparison.verify(files(storage))
    assert difference == Difference(
        row(storage, name).pk,
        storage.alias,
        name,
        "remote",
        Kind.UNREADABLE,
        "ConnectionError: The remote is away.",
    )


def test_file_of_an_unknown_storage_is_unreadable() -> None:
    storage = make()
    storage.save("a.txt", file())
    files(storage).update(alias="gone")
    [difference] = comparison.verify(ledger().all())
    assert (difference.alias, difference.kind) == ("gone", Kind.UNREADABLE)


def test_files_that_change_meanwhile_are_not_reported() -> None:
    storage = make()
    name = transferred(storage)

    def delete(_name: str) -> None:
        storage.delete(name)
        storage.queue.deliver()

    storage.remote.before["size"] = delete
    assert differences(storage) == []


def test_local_copies_on_other_hosts_are_skipped(settings: Settings) -> None:
    storage = make()
    disk().delete(transferred(storage))
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-2"}
    assert differences(storage) == []


def test_verify_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BATCH", 2)
    storage = make()
    for number in range(5):
        transferred(storage, f"{number}.txt")
    with CaptureQueriesContext(connection) as queries:
        assert differences(storage, content=True) == []
    assert all(query["sql"].startswith("SELECT") for query in queries)
    assert len(queries) == 3  # no query per file
