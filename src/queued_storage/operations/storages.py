"""The storage that the operations on many files work with."""

from typing import Protocol, cast

from ..ledger.aliases import storage_for
from ..ledger.models import QueuedFile
from ..queues.base import BaseQueue
from ..transfers.parts import TransferringStorage


class OperableStorage(TransferringStorage, Protocol):
    """A storage that transfers files, with the queues that its workers are notified by."""

    @property
    def queue(self) -> BaseQueue: ...

    def queue_for(self, host: str, *, is_local: bool = True) -> BaseQueue: ...


def storage_of(row: QueuedFile) -> OperableStorage:
    """The storage of a file; ``UnknownAlias`` is raised if this process has none."""
    storage = cast(OperableStorage, storage_for(row.alias, row.task))
    return storage.with_remote_of(row)
