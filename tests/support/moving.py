"""A storage whose remote is changed, with two remotes on disk: "old" and "new"."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.core.files.storage import storages

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.operations import errands
from queued_storage.remotes.places import place_of
from tests.support.scripted import file

Switch = Callable[..., Any]


def saved(storage: Any, name: str, data: bytes = b"bytes", *, evict: bool = False) -> str:
    """Save and transfer a file; return its name."""
    found: str = storage.save(name, file(data))
    assert storage.queue.deliver() == {}
    if evict:
        assert errands.evict(ledger().filter(name=found)) == 1
    return found


def overwritten(storage: Any, name: str, data: bytes) -> None:
    with storage.open(name, "wb") as opened:
        opened.write(data)


def on(remote: str) -> list[str]:
    """The files of a remote, without markers."""
    with suppress(FileNotFoundError):
        names = storages[remote].listdir("")[1]
        return sorted(name for name in names if not name.startswith(".queued"))
    return []


def place(remote: str) -> int:
    return place_of(storages[remote]).digest


def row_of(name: str) -> QueuedFile:
    return ledger().get(name=name)
