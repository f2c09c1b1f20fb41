"""Files that are moved between remotes of different kinds, and back."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.aliases import registry
from queued_storage.ledger.copies import copies
from queued_storage.ledger.database import ledger
from queued_storage.operations import errands
from queued_storage.operations.moving import drop_old, left, move
from queued_storage.queues.dummy import DummyQueue
from tests.ecosystem.remotes.servers import SERVERS, Make

FILES = {"a.txt": b"small", "empty.bin": b"", "b/large.bin": bytes(range(256)) * 12_000}


@pytest.fixture(
    scope="module", params=[("s3", "azure"), ("sftp", "s3"), ("ftp", "google")], ids="-".join
)
def two(request: pytest.FixtureRequest) -> Iterator[tuple[Make, Make]]:
    with ExitStack() as stack:
        old, new = (stack.enter_context(SERVERS[name]()) for name in request.param)
        yield old, new


def configured(directory: Path, remote: Any, *previous: Any) -> Any:
    """Return the storage as another process has it."""
    gc.collect()  # of the storage before
    registry.reset()
    return QueuedStorage(
        FileSystemStorage(directory),
        remote,
        previous=list(previous),
        alias="moving",
        queue=DummyQueue(),
    )


def require_bytes(storage: Any) -> None:
    for name, data in FILES.items():
        with storage.open(name) as file:
            assert file.read() == data


@pytest.mark.parametrize("is_evicted", [True, False])
def test_files_are_moved_and_moved_back(
    two: tuple[Make, Make], tmp_path: Path, is_evicted: bool
) -> None:
    old, new = two
    storage = configured(tmp_path, old())
    for name, data in FILES.items():
        assert storage.save(name, ContentFile(data)) == name
    assert storage.queue.deliver() == {}
    if is_evicted:
        assert errands.evict(ledger().all()) == len(FILES)
    del storage

    storage = configured(tmp_path, new(), old())
    require_bytes(storage)
    assert move(storage, threads=8) == len(FILES)
    require_bytes(storage)
    moved = {row.remote_name: FILES[row.name] for row in ledger()}
    for name, data in moved.items():
        with new().open(name) as file:
            assert file.read() == data
    del storage

    storage = configured(tmp_path, old(), new())
    assert move(storage) == len(FILES)
    assert not left(storage).exists()
    assert drop_old(storage) == len(FILES)
    require_bytes(storage)
    assert not copies().exists()
    assert not any(map(new().exists, moved))
    for name in FILES:
        storage.delete(name)
    assert storage.queue.deliver() == {}
    assert not ledger().exists()
