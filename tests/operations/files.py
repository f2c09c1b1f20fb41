"""The files of one storage, for the tests of operations."""

from typing import Any

from queued_storage.ledger.database import ledger
from queued_storage.operations import errands
from tests.support.scripted import file


def files(storage: Any) -> Any:
    return ledger().filter(alias=storage.alias)


def transferred(storage: Any, name: str = "a.txt", data: bytes = b"bytes") -> str:
    """Save and transfer a file; return its name."""
    saved = storage.save(name, file(data))
    assert storage.queue.deliver() == {}
    return str(saved)


def evicted(storage: Any, name: str = "a.txt", data: bytes = b"bytes") -> str:
    """Save, transfer and evict a file; return its name."""
    saved = transferred(storage, name, data)
    assert errands.evict(files(storage).filter(name=saved)) == 1
    return saved


def enqueued(storage: Any) -> list[int]:
    """The rows in the messages of the storage's queue."""
    return sorted(pk for message in storage.queue.messages for pk in message)
