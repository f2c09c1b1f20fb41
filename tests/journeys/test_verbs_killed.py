"""Verbs that are killed and then repeated; see tests/support/failpoints.py."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError

from queued_storage.files.localfiles import is_unfinished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from tests.support.command import silently
from tests.support.scripted import LONG_AGO, file, on_disk, read

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

NAMES = ["a.txt", "b.txt", "c.txt"]


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
    silently("verify", "--content")


def test_killed_retry_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    ledger().update(state=State.FAILED, due_at=None)
    kill("retried", "retry", "--all")
    silently("retry", "--all")
    assert {row.state for row in ledger()} == {State.PENDING}
    require_whole(storage)


def test_killed_cancel_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    for name in NAMES:
        storage.save(name, file())
    kill("cancelled", "cancel", "--all")
    silently("cancel", "--all")
    assert {(row.state, row.due_at) for row in ledger()} == {(State.HELD, None)}


@pytest.mark.parametrize("point", ["evicting", "local copy freed", "second claimed"])
def test_killed_evict_can_be_repeated(point: str, kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    kill(point, "evict", "--all")
    assert [read(storage, name) for name in NAMES] == [b"bytes"] * 3
    finish(storage)
    silently("evict", "--all")
    assert on_disk() == []
    require_whole(storage)


@pytest.mark.parametrize("point", ["put in place", "restored", "second claimed"])
def test_killed_restore_can_be_repeated(
    point: str, kill: Callable[..., None], storage: Any
) -> None:
    transferred(storage)
    silently("evict", "--all")
    kill(point, "restore", "--all")
    assert [read(storage, name) for name in NAMES] == [b"bytes"] * 3
    finish(storage)
    silently("restore", "--all")
    unfinished = [name for name in on_disk() if is_unfinished(name)]
    assert len(unfinished) == (point != "second claimed")
    assert sorted({*on_disk()} - {*unfinished}) == NAMES
    require_whole(storage)
    for name in unfinished:
        os.utime(storage.local.path(name), (0, 0))
    silently("orphans", "local", "--storage", "default", "--delete", "--yes")
    assert on_disk() == NAMES


def test_killed_reconcile_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    for name in NAMES:
        storages["far"].delete(name)
    kill("sent again", "reconcile", "--repair", "missing-remote")
    silently("reconcile", "--repair", "missing-remote")
    require_whole(storage)


def test_killed_orphans_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    for number in range(3):
        name = storages["far"].save(f"orphan-{number}.txt", file())
        os.utime(storages["far"].path(name), (0, 0))  # type: ignore[attr-defined]
    command = ["orphans", "remote", "--storage", "default", "--delete", "--yes"]
    kill("orphan deleted", *command)
    assert len(on_disk("far")) == 5
    silently(*command)
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
    silently(*command)
    require_whole(storage)


def test_killed_flush_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    for name in NAMES:
        storage.save(name, file())
    kill("retried", "flush")
    silently("flush")
    assert storage.queue.deliver() == {}
    silently("flush", "--wait")
    require_whole(storage)


def test_killed_prune_can_be_repeated(kill: Callable[..., None], storage: Any) -> None:
    transferred(storage)
    for name in NAMES[:2]:
        storages["disk"].delete(name)
        storages["far"].delete(name)
    kill("pruned", "prune", "--all", "--yes")
    silently("prune", "--all", "--yes")
    finish(storage)
    assert [row.name for row in ledger()] == NAMES[2:]
    with pytest.raises(CommandError):
        silently("prune")
