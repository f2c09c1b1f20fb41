"""Open files of django-storages' ``S3Storage``, which wait on the disk until they are read."""

import copy
import posixpath
from http import HTTPStatus
from mimetypes import guess_type
from typing import Any, cast

from botocore.exceptions import ClientError
from django.core.files import File
from django.core.files.storage import Storage
from storages.backends.s3 import S3Storage
from storages.utils import clean_name

from .refusals_s3 import guarded

IN_MEMORY = 1024 * 1024  # bytes; a larger file is stored in a temporary file
THREADS = 4  # which download parts; each needs memory, and four saturate most connections
WAITING = 16  # pieces of 256 KB that were received, but not yet written to that file


def opened(remote: Storage, name: str, mode: str) -> File:
    """Open a file with limited memory, unless the storage sets ``max_memory_size`` or overrides
    how files are opened."""
    s3: Any = remote
    is_plain = type(s3).open is S3Storage.open and type(s3)._open is S3Storage._open
    is_unchanged = is_stored_unchanged(s3, posixpath.join(s3.location, clean_name(name)))
    with guarded(s3, name):
        if not is_plain or (s3.max_memory_size and not is_unchanged):
            return remote.open(name, mode)
        try:
            # Its public caller, open(), would call _open() of the storage itself.
            return cast(File, S3Storage._open(_Spilling(s3, gzip=not is_unchanged), name, mode))
        except FileNotFoundError:
            _require_bucket(s3)
            raise


def _require_bucket(s3: Any) -> None:
    """Raise ``ClientError`` if the bucket is missing: nothing is known of its files then."""
    try:
        s3.connection.meta.client.head_bucket(Bucket=s3.bucket_name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.NOT_FOUND:
            raise
        # The account may not look at the bucket, which exists.


def is_stored_unchanged(storage: Any, key: str) -> bool:
    """Return whether a storage with ``gzip`` stores an object as it is.

    It does not compress what has an encoding already, such as ``.svgz``, but would decompress it.
    """
    if not storage.gzip:
        return False
    parameters = storage.get_object_parameters(key)
    has_encoding = "ContentType" not in parameters and guess_type(key)[1] is not None
    return has_encoding or "ContentEncoding" in parameters


class _Spilling:
    """The storage with a limit of memory, which its file reads the options from."""

    def __init__(self, storage: Any, *, gzip: bool) -> None:
        self._storage = storage
        self.gzip = gzip and storage.gzip  # whether to decompress what has this encoding
        self.max_memory_size = storage.max_memory_size or IN_MEMORY
        config: Any = copy.copy(storage.transfer_config)
        self.transfer_config = config
        config.max_request_concurrency = min(config.max_request_concurrency, THREADS)
        config.max_io_queue_size = min(config.max_io_queue_size, WAITING)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)
