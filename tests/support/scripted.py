"""Storages on disk that count their calls and run functions of a test around them."""

import itertools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages

from queued_storage.backends import QueuedStorage
from queued_storage.files import markers
from queued_storage.ledger.database import ledger
from queued_storage.ledger.identity import ledger_id
from queued_storage.ledger.names import is_reserved
from queued_storage.models import QueuedFile
from queued_storage.queues.dummy import DummyQueue
from queued_storage.tasks import Transfer
from queued_storage.transfers import probing
from tests.support.waiting import until

_numbers = itertools.count()
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


class ScriptedStorage(FileSystemStorage):
    """A storage in the directory `place`.

    `before` and `after` map the name of a method to a function that is called once, with the name
    of the file, before or after the next call of the method. If `refuses` is true, every call
    raises ``ConnectionError``. If `rejects` is true, only calls for files raise an error, and
    that does not say whose fault it is.
    """

    def __init__(self, place: str = "far", **options: Any) -> None:
        super().__init__(Path(settings.DIRECTORY) / place, f"https://{place}.example/", **options)
        self.calls: Counter[str] = Counter()
        self.before: dict[str, Callable[[str], object]] = {}
        self.after: dict[str, Callable[[str], object]] = {}
        self.refuses = False
        self.rejects = False

    def _call(self, method: str, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.refuses:
            self.calls[method] += 1
            raise ConnectionError("The remote is away.")
        if is_reserved(name):  # a probe
            return getattr(super(), method)(name, *args, **kwargs)
        self.calls[method] += 1
        if self.rejects:
            raise OSError("The remote rejects the file.")
        self.before.pop(method, _nothing)(name)
        answer = getattr(super(), method)(name, *args, **kwargs)
        self.after.pop(method, _nothing)(name)
        return answer


def _nothing(name: str) -> None:
    pass


def _stepped(method: str) -> Callable[..., Any]:
    def call(self: ScriptedStorage, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._call(method, name, *args, **kwargs)

    return call


for _method in ("_open", "_save", "delete", "exists", "listdir", "size"):
    setattr(ScriptedStorage, _method, _stepped(_method))
for _method in ("get_accessed_time", "get_created_time", "get_modified_time"):
    setattr(ScriptedStorage, _method, _stepped(_method))


class RenamingStorage(ScriptedStorage):
    """A storage that always chooses another name."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return super().get_available_name(self.get_alternative_name(*_parts(name)), max_length)


def _parts(name: str) -> tuple[str, str]:
    path = Path(name)
    return str(path.with_suffix("")), path.suffix


class ReadsOn(ScriptedStorage):
    """A storage that saves the rest of the content without rewinding it, as many storages do."""

    def _save(self, name: str, content: Any) -> str:
        return str(super()._save(name, file(content.read())))


class Sniff(Transfer):
    """Read the first bytes of the file before uploading it."""

    def __init__(self) -> None:
        self.seen = b""

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        with local.open(name) as content:
            self.seen = content.read(3)
            remote.save(name, content)
        return True


class Step(Transfer):
    """Call `first` once, with the name and the two proxies, before the usual transfer."""

    def __init__(self, first: Callable[..., object]) -> None:
        self.first: Callable[..., object] | None = first

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        first, self.first = self.first, None
        if first:
            first(name, local, remote)
        return super().transfer(name, local, remote, **kwargs)


def make(**options: Any) -> Any:
    """Return a queued storage with its own alias, from "disk" to a ScriptedStorage."""
    defaults = {
        "local": "disk",
        "remote": ScriptedStorage(),
        "alias": f"scripted-{next(_numbers)}",
        "queue": DummyQueue(),
    }
    return QueuedStorage(**defaults | options)


def file(data: bytes = b"bytes", name: str | None = None) -> ContentFile:
    return ContentFile(data, name)


def read(storage: Any, name: str) -> bytes:
    with storage.open(name) as opened:
        return bytes(opened.read())


def row(storage: Any, name: str) -> QueuedFile:
    """Return the row from the database. The test fails if there is none."""
    found = storage.queued_file(name)
    assert found is not None, f"no row for {name!r}"
    return found


def make_due(storage: Any, name: str) -> int:
    """Let the lease, or the delay before the next attempt, expire. Return the primary key.

    A closed remote is probed, too.
    """
    probing.probe_closed([storage.alias])
    pk: int = row(storage, name).pk
    ledger().filter(pk=pk).update(due_at=LONG_AGO)
    return pk


def take_over(storage: Any, name: str) -> QueuedFile:
    """Claim the row as if its worker had died. If the worker renews its lease in between, the lease
    is expired again."""
    return until(lambda: ledger().claim(make_due(storage, name)))


def is_due(storage: Any, name: str) -> bool:
    return ledger().filter(pk=row(storage, name).pk).due().exists()


def mark(location: str | Path) -> None:
    """Make the marker of a local root, which the first save in it does."""
    markers.add(str(location), ledger_id())


def on_disk(place: str = "disk") -> list[str]:
    """Return the names of all files in a directory of the tests, including hidden ones."""
    return files_in(Path(settings.DIRECTORY) / place)


def files_in(base: Path) -> list[str]:
    """Return the names of all files in a directory, without the marker of a local storage."""
    found = sorted(str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir())
    return [name for name in found if Path(name).name != markers.MARKER]


def disk() -> Any:
    return storages["disk"]
