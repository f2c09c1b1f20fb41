"""Workers that die or retry, and receivers for the time of a block."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from queued_storage.ledger.database import ledger
from queued_storage.models import QueuedFile
from queued_storage.transfers import work
from tests.support.scripted import file, make_due, row


@contextlib.contextmanager
def on_signal(signal: Any, receiver: Callable[..., None]) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def retry(storage: Any, name: str) -> Exception | None:
    """Process the file as if its next attempt, or the end of its lease, were due."""
    return work.run(make_due(storage, name))


def die_halfway(storage: Any, name: str, data: bytes) -> QueuedFile:
    """Let a worker claim the file, reserve its name, write some bytes, and die."""
    claimed = ledger().claim(row(storage, name).pk)
    assert claimed
    assert ledger().reserve_remote_name(claimed, name)
    storage.remote.save(name, file(data))
    return claimed
