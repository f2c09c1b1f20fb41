"""The names of 0.3, for existing code; new code uses ``backends`` and ``fields``."""

from collections.abc import Sequence
from typing import Any

from .backends import QueuedStorage
from .fields import QueuedFileField
from .storage import foreign
from .tasks import Transfer, TransferAndDelete

__all__ = [
    "DelayedStorage",
    "DoubleFilesystemStorage",
    "QueuedRemoteStorage",
    "RemoteFileField",
    "S3Storage",
    "Transfer",
    "TransferAndDelete",
]

RemoteFileField = QueuedFileField


class QueuedRemoteStorage(QueuedStorage):
    """A ``QueuedStorage`` whose options have the names and the order of 0.3.

    All other options of ``QueuedStorage`` are passed by keyword.
    """

    def __init__(
        self,
        local_class: Any = None,
        remote_class: Any = None,
        cache_prefix: str | None = None,
        task: Any = None,
        local_args: Sequence[Any] = (),
        local_kwargs: dict[str, Any] | None = None,
        remote_args: Sequence[Any] = (),
        remote_kwargs: dict[str, Any] | None = None,
        *,
        local: Any = None,
        remote: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            local=local_class if local is None else local,
            remote=remote_class if remote is None else remote,
            local_options=local_kwargs,
            remote_options=remote_kwargs,
            cache_prefix=cache_prefix,
            task=task,
            **options,
        )
        if local_args:
            self.sides.local.args = tuple(local_args)
        if remote_args:
            self.sides.remote.args = tuple(remote_args)

    def foreign_arguments(self, name: str) -> tuple[Any, ...]:
        """Return the arguments for the task's ``delay()``, as 0.3 passed them."""
        return foreign.arguments_of_0_3(self, name)


class DoubleFilesystemStorage(QueuedRemoteStorage):
    """Two directories on this machine, given in ``local_kwargs`` and ``remote_kwargs``."""

    local = "django.core.files.storage.FileSystemStorage"
    remote = "django.core.files.storage.FileSystemStorage"


class S3Storage(QueuedRemoteStorage):
    """The local file system and S3, configured by django-storages' settings."""

    local = "django.core.files.storage.FileSystemStorage"
    remote = "storages.backends.s3.S3Storage"


class DelayedStorage(QueuedRemoteStorage):
    """A storage that transfers a file only when ``transfer()`` is called for it."""

    delayed = True
