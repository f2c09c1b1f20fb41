"""The names of 0.3, for code written for it; new code takes ``backends`` and ``fields``."""

from collections.abc import Sequence
from typing import Any

from django.utils.module_loading import import_string

from .backends import QueuedStorage
from .fields import QueuedFileField
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
    """A ``QueuedStorage`` whose options have the names, and the order, that they had in 0.3.

    Whatever else ``QueuedStorage`` takes goes by keyword.
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
            self._options["local_args"] = tuple(local_args)
        if remote_args:
            self._options["remote_args"] = tuple(remote_args)

    def foreign_arguments(self, name: str) -> tuple[Any, ...]:
        """What 0.3 gave to ``task.delay()``: classes, and what to call them with."""
        local_class, local_args, local_kwargs = self._class_and_arguments("local")
        remote_class, remote_args, remote_kwargs = self._class_and_arguments("remote")
        return (
            name,
            local_class,
            remote_class,
            self.get_cache_key(name),
            local_args,
            local_kwargs,
            remote_args,
            remote_kwargs,
        )

    def _class_and_arguments(self, side: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        maker, args, kwargs = self.blueprint(side)
        return import_string(maker) if isinstance(maker, str) else maker, args, kwargs


class DoubleFilesystemStorage(QueuedRemoteStorage):
    """Two places on this machine; ``local_kwargs`` and ``remote_kwargs`` say where."""

    local = "django.core.files.storage.FileSystemStorage"
    remote = "django.core.files.storage.FileSystemStorage"


class S3Storage(QueuedRemoteStorage):
    """The local file system and S3, as django-storages' settings describe it."""

    local = "django.core.files.storage.FileSystemStorage"
    remote = "storages.backends.s3.S3Storage"


class DelayedStorage(QueuedRemoteStorage):
    """Transfers a file when ``transfer()`` is called for it."""

    delayed = True
