"""The storage that the operations on many files work with."""

from typing import Protocol, cast

from django.core.files.storage import Storage

from ..ledger.aliases import storage_for
from ..ledger.models import QueuedFile
from ..queues.base import BaseQueue
from ..uploaders import Uploader


class OperableStorage(Protocol):
    """A queued storage with a local and a remote side, and a queue for its transfers."""

    @property
    def alias(self) -> str: ...

    @property
    def local(self) -> Storage: ...

    @property
    def remote(self) -> Storage: ...

    @property
    def uploader(self) -> Uploader: ...

    @property
    def queue(self) -> BaseQueue: ...

    @property
    def cache_prefix(self) -> str: ...

    def queue_for(self, host: str, *, is_local: bool = True) -> BaseQueue: ...


def storage_of(row: QueuedFile) -> OperableStorage:
    """The storage of a file; ``UnknownAlias`` is raised if this process has none."""
    return cast(OperableStorage, storage_for(row.alias, row.task))
