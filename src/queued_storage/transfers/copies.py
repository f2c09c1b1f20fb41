"""What is done to one copy of a file, under the lease on its row."""

import contextlib
from typing import Any

from django.db import transaction

from ..exceptions import LeaseLost
from ..files.streams import checksum_of
from ..ledger.database import ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from ..uploaders import Uploader


def verify_remote(storage: Any, row: QueuedFile, level: str, progress: Any) -> str:
    """Have the remote copy of a transferred file proved, as far as the ledger knows its bytes."""
    uploader: Uploader = storage.uploader
    uploader.progress = progress
    content = Content(row.size, row.checksum)
    return uploader.verify(row.remote_name, content, level if row.checksum else "size")


def free_local(storage: Any, row: QueuedFile) -> None:
    """Remove the local copy, while the row is locked against who would write a new one."""
    with transaction.atomic(using=ledger_database()):
        if not ledger().mark_evicted(row):
            raise LeaseLost(f"{row} is not to be evicted any more.")
        storage.local.delete(row.name)


def drop_local(storage: Any, pk: int, name: str) -> None:
    """Remove the local copy of a tombstone, while its row is locked.

    Without the lock a late call could hit a new file: one that got the name after another worker
    had finished the delete.
    """
    with transaction.atomic(using=ledger_database()):
        if ledger().mark_local_dropped(pk):
            # What stands for its directory may be a file.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                storage.local.delete(name)


def is_copy(storage: Any, row: QueuedFile) -> bool:
    """Whether the local file has the bytes that the ledger says; reads them."""
    if not storage.local.exists(row.name):
        return False
    with storage.local.open(row.name) as file:
        found = checksum_of(file.chunks())
    return found.size == row.size and str(found) == row.checksum
