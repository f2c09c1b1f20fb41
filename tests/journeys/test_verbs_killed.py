"""Verbs that are killed and then repeated; see tests/support/failpoints.py."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from pytest_django import Settings

from queued_storage.files.localfiles import is_unfinished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from tests.support.failpoints import FailPoint
from tests.support.forks import ended, forks
from tests.support.scripted import LONG_AGO, file, on_disk, read

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = ["a.txt", "b.txt", "c.txt"]


def call(*arguments: str) -> None:
    with open(os.devnull, "w") as nowhere:
        call_command("queued_storage", *arguments, stdout=nowhere, stderr=nowhere)


@pytest.fixture
def kill(
    child_environment: dict[str, str], settings: Settings, tmp_path: Path
) -> Iterator[Callable[..., None]]:
    """Run a verb until the fail point of this name kills it."""
    with forks(child_environment, settings) as found:

        def run(point: str, *arguments: str) -> None:
            child = found.start(call, *arguments, point=FailPoint(point, tmp_path / "reached"))
            assert ended(child) == -signal.SIGKILL

        yield run


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def transferred(storage: Any) -> None:
    for name in NAMES:
        assert storage.save(name, file()) == name
    assert storage.queue.deliver() == {}


def finish(storage: Any) -> None:
    """Let all leases expire, and process every due file."""
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)
    while sweep():
        assert storage.queue.deliver() == {}


def require_whole(storage: Any) -> None:
    """Check that no file is lost, and that no claim is left."""
    finish(storage)
    assert {row.name for row in ledger()} == set(NAMES)
    assert {(row.state, row.lease_token) for row in ledger()} == {(State.TRANSFERRED, "")}
    assert [read(storage, name) for name in NAMES] == [b"bytes"] * 3
    call("verify", "--content")


def test_killed_retry_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    ledger().update(state=State.FAILED, due_at=None)
    kill("retried", "retry", "--all")
    call("retry", "--all")
    assert {row.state for row in ledger()} == {State.PENDING}
    require_whole(storage)


def test_killed_cancel_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    for name in NAMES:
        storage.save(name, file())
    kill("cancelled", "cancel", "--all")
    call("cancel", "--all")
    assert {(row.state, row.due_at) for row in ledger()} == {(State.HELD, None)}


@pytest.mark.parametrize("point", ["evicting", "local copy freed", "second claimed"])
def test_killed_evict_can_be_repeated(point: str, kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    kill(point, "evict", "--all")
    assert [read(storage, name) for name in NAMES] == [b"bytes"] * 3
    finish(storage)
    call("evict", "--all")
    assert on_disk() == []
    require_whole(storage)


@pytest.mark.parametrize("point", ["put in place", "restored", "second claimed"])
def test_killed_restore_can_be_repeated(
    point: str, kill: Callable[..., None], storage: Any
) -> None:
    transferred(storage)
    call("evict", "--all")
    kill(point, "restore", "--all")
    assert [read(storage, name) for name in NAMES] == [b"bytes"] * 3
    finish(storage)
    call("restore", "--all")
    unfinished = [name for name in on_disk() if is_unfinished(name)]
    assert len(unfinished) == (point != "second claimed")
    assert sorted({*on_disk()} - {*unfinished}) == NAMES
    require_whole(storage)
    for name in unfinished:
        os.utime(storage.local.path(name), (0, 0))
    call("orphans", "local", "--storage", "default", "--delete", "--yes")
    assert on_disk() == NAMES


def test_killed_reconcile_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    for name in NAMES:
        storages["far"].delete(name)
    kill("sent again", "reconcile", "--repair", "missing-remote")
    call("reconcile", "--repair", "missing-remote")
    require_whole(storage)


def test_killed_orphans_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    for number in range(3):
        name = storages["far"].save(f"orphan-{number}.txt", file())
        os.utime(storages["far"].path(name), (0, 0))  # type: ignore[attr-defined]
    command = ["orphans", "remote", "--storage", "default", "--delete", "--yes"]
    kill("orphan deleted", *command)
    assert len(on_disk("far")) == 5
    call(*command)
    assert on_disk("far") == NAMES
    require_whole(storage)


@pytest.mark.parametrize("verb", ["adopt", "backfill"])
def test_killed_adopt_or_backfill_can_be_repeated(
    verb: str, kill: Callable[..., None], storage: Any
) -> None:
    for name in NAMES:
        storages["far" if verb == "adopt" else "disk"].save(name, file())
    command = [verb, "--storage", "default", "--under", "."]
    kill("second adopted" if verb == "adopt" else "second backfilled", *command)
    assert ledger().count() == (2 if verb == "adopt" else 0)
    call(*command)
    require_whole(storage)


def test_killed_flush_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    for name in NAMES:
        storage.save(name, file())
    kill("retried", "flush")
    call("flush")
    assert storage.queue.deliver() == {}
    call("flush", "--wait")
    require_whole(storage)


def test_killed_prune_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    for name in NAMES[:2]:
        storages["disk"].delete(name)
        storages["far"].delete(name)
    kill("pruned", "prune", "--all", "--yes")
    call("prune", "--all", "--yes")
    finish(storage)
    assert [row.name for row in ledger()] == NAMES[2:]
    with pytest.raises(CommandError):
        call("prune")
