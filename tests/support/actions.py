"""Actions on files and transactions that several test modules share."""

import contextlib
import threading
import zlib
from collections.abc import Callable
from typing import Any

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.db import connections, transaction

from queued_storage.ledger.database import ledger
from tests.support.scripted import file, row


def evicted(storage: Any, name: str = "a.txt", data: bytes = b"bytes") -> str:
    """Save, transfer and evict a file. Return its name."""
    saved: str = storage.save(name, file(data))
    storage.queue.deliver()
    storage.local.delete(saved)
    ledger().filter(pk=row(storage, saved).pk).update(is_local=False)
    return saved


def write(storage: Any, name: str, data: bytes, mode: str = "wb") -> None:
    with storage.open(name, mode) as opened:
        opened.write(data)


def checksum(data: bytes) -> str:
    return f"crc32:{zlib.crc32(data):08x}"


class Oops(Exception):
    pass


@contextlib.contextmanager
def rolled_back() -> Any:
    with contextlib.suppress(Oops), transaction.atomic():
        yield
        raise Oops


def elsewhere(action: Callable[[], object]) -> None:
    """Call the action in another thread, and so in another transaction."""

    def act() -> None:
        action()
        connections.close_all()

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


class Compressing(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(zlib.compress(content.read())))

    def _open(self, name: str, mode: str = "rb") -> File:
        with super()._open(name) as packed:
            return ContentFile(zlib.decompress(packed.read()), name)
