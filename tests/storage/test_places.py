"""Storages whose two sides lead to one place."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import errands
from queued_storage.operations.passes import Step
from queued_storage.operations.reconciliation import reconcile
from queued_storage.storage.places import Kind, clash_of
from queued_storage.tasks import TransferAndDelete
from tests.support.scripted import ScriptedStorage, disk, file, make, on_disk, read, row

pytestmark = pytest.mark.django_db(transaction=True)


class Sub(FileSystemStorage):
    pass


def transferred(**options: Any) -> tuple[Any, str]:
    storage = make(**options)
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    return storage, name


def far() -> Path:
    return Path(ScriptedStorage().location)


@pytest.mark.parametrize("way", ["same", "subclass", "inside", "tier", "default"])
@pytest.mark.parametrize("task", [None, TransferAndDelete])
def test_nothing_is_uploaded_to_its_own_place(way: str, task: Any, settings: Settings) -> None:
    ways = {
        "same": "disk",
        "subclass": Sub(disk().location),
        "inside": FileSystemStorage(Path(disk().location) / "remote"),
        "tier": make(remote=ScriptedStorage("archive")),
        "default": make(remote="default"),
    }
    storage = make(remote=ways[way], task=task)
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, ImproperlyConfigured)
    assert on_disk() == [name]
    found = row(storage, name)
    assert (found.state, found.attempts) == (State.PENDING, 0)
    assert "location" in found.last_error
    assert read(storage, name) == b"bytes"


def test_storage_that_leads_back_to_itself(settings: Settings) -> None:
    first = make(remote="disk")
    second = make(remote=first)
    first.sides.remote.given = second
    try:
        for storage in (first, second):
            clash = clash_of(storage.sides)
            assert clash
            assert clash.kind is Kind.CIRCLE
            with pytest.raises(ImproperlyConfigured, match="leads back"):
                storage.require_two_places()
    finally:
        first.sides.remote.given = "disk"  # a circle has no description, and outlives the test


def test_two_memories_transfer() -> None:
    storage, name = transferred(local=InMemoryStorage(), remote=InMemoryStorage())
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1
    assert read(storage, name) == b"bytes"


def test_link_made_after_the_transfer() -> None:
    """As if the remote's volume were mounted at the local directory."""
    storage, name = transferred()
    shutil.rmtree(far())
    far().symlink_to(disk().location)
    try:
        steps: list[Step] = []
        assert errands.evict(ledger().filter(alias=storage.alias), steps.append) == 0
        assert "the only one" in steps[0].error
        assert on_disk() == [name]
    finally:
        far().unlink()


def test_two_names_of_one_file_are_one_copy() -> None:
    storage, name = transferred()
    (far() / name).unlink()
    os.link(storage.local.path(name), far() / name)
    assert errands.evict(ledger().filter(alias=storage.alias)) == 0
    assert on_disk() == [name]


def test_repair_spares_the_only_copy() -> None:
    storage, name = transferred()
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1
    os.symlink(far() / name, storage.local.path(name))
    repaired = reconcile(ledger().filter(alias=storage.alias), ["extra-local"])
    assert ["the only one" in error for _found, error in repaired] == [True]
    assert (far() / name).read_bytes() == b"bytes"
