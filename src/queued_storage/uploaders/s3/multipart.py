"""Send a large object to S3 in parts, a few at a time."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.exceptions import CancelledError
from s3transfer.subscribers import BaseSubscriber

from .bucket import Place

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CREATING = ("PutObject", "CompleteMultipartUpload")  # the calls that make an object
PARTS = 3  # of a stream that are in memory, and are sent concurrently


def config_for_stream(own: TransferConfig) -> TransferConfig:
    """Return the storage's own configuration, with few parts in memory."""
    config: Any = copy.copy(own)
    config.max_request_concurrency = min(config.max_request_concurrency, PARTS)
    config.max_in_memory_upload_chunks = PARTS
    return cast(TransferConfig, config)


def config_without_threads(own: TransferConfig) -> TransferConfig:
    """Return the storage's own configuration, to send one part after the other."""
    config: Any = copy.copy(own)
    config.use_threads = False
    return cast(TransferConfig, config)


def upload_path(
    client: "S3Client",
    path: str,
    place: Place,
    parameters: dict[str, Any],
    config: TransferConfig,
    on_sent: Callable[[int], object],
) -> None:
    """Upload a file whose parts are read by the threads that send them, and not kept in memory.

    ``on_sent`` is called with the number of bytes sent so far. If it raises an exception, the
    upload ends with it.
    """
    progress = _Progress(on_sent)
    with create_transfer_manager(client, config) as manager:
        future = manager.upload(path, place["Bucket"], place["Key"], parameters, [progress])
        try:
            future.result()
        except CancelledError as error:
            raise progress.error or error from None


class _Progress(BaseSubscriber):
    """Adds up the bytes that several threads have sent. An exception in one of these threads would
    leave files open, so it is kept, and the upload is cancelled."""

    def __init__(self, on_sent: Callable[[int], object]) -> None:
        self.error: BaseException | None = None
        self._on_sent = on_sent
        self._lock = threading.Lock()
        self._sent = 0

    def on_progress(self, future: Any, bytes_transferred: int, **kwargs: Any) -> None:
        with self._lock:
            self._sent += bytes_transferred
            sent = self._sent
        try:
            self._on_sent(sent)
        except BaseException as error:
            self.error = error
            future.cancel()


@contextlib.contextmanager
def only_if_new(client: "S3Client", key: str) -> Iterator[None]:
    """Add ``If-None-Match: *`` to the requests that create the object: s3transfer has no argument
    for it."""

    def add(params: dict[str, Any], **kwargs: Any) -> None:
        if params["Key"] == key:
            params["IfNoneMatch"] = "*"

    names = [f"provide-client-params.s3.{call}" for call in CREATING]
    for each in names:
        client.meta.events.register(each, add)
    try:
        yield
    finally:
        for each in names:
            client.meta.events.unregister(each, add)


def abort_uploads(client: "S3Client", place: Place) -> None:
    """Abort interrupted uploads to a key. They cost money, and no listing shows them."""
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=place["Bucket"], Prefix=place["Key"]
    )
    for upload in (each for page in pages for each in page.get("Uploads", ())):
        if upload.get("Key") == place["Key"]:
            client.abort_multipart_upload(
                Bucket=place["Bucket"], Key=place["Key"], UploadId=upload.get("UploadId", "")
            )
