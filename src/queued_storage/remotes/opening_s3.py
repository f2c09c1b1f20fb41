"""Files of django-storages' ``S3Storage``, which wait on the disk until they are read."""

import copy
from typing import Any, cast

from django.core.files import File
from django.core.files.storage import Storage
from storages.backends.s3 import S3Storage

IN_MEMORY = 1024 * 1024  # bytes; what is longer goes to a temporary file
THREADS = 4  # that fetch parts; each takes some memory, and few of them fill most lines
WAITING = 16  # pieces of 256 KB on their way from the network to that file


def opened(remote: Storage, name: str, mode: str) -> File:
    """A storage that was told how much memory to take, or that opens files in its own way, is
    left to do so."""
    s3: Any = remote
    is_plain = type(s3).open is S3Storage.open and type(s3)._open is S3Storage._open
    if not is_plain or s3.max_memory_size:
        return remote.open(name, mode)
    return cast(File, S3Storage._open(_Spilling(s3), name, mode))


class _Spilling:
    """The storage as its file sees it. By itself it would keep the file in memory, however large
    it is."""

    max_memory_size = IN_MEMORY

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        config: Any = copy.copy(storage.transfer_config)
        self.transfer_config = config
        config.max_request_concurrency = min(config.max_request_concurrency, THREADS)
        config.max_io_queue_size = min(config.max_io_queue_size, WAITING)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)
