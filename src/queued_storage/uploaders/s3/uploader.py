"""The uploader for django-storages' ``S3Storage``."""

import base64
import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, ClassVar, cast

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError
from django.core.files.storage import Storage
from s3transfer.exceptions import CancelledError
from s3transfer.subscribers import BaseSubscriber
from storages.backends.s3 import S3Storage
from storages.utils import clean_name, is_seekable

from ...exceptions import VerificationError
from ...files.streams import MeasuredFile, Saved
from ...ledger.states import Content
from ...reporting.logs import logger
from ..base import PIECE, Uploader
from . import by_obstore, put, trust
from .checksums import ALGORITHMS, CRC32, Sum, encoded, sum_of

CREATING = ("PutObject", "CompleteMultipartUpload")  # the calls that make an object
PARTS = 3  # of a large file that are sent side by side, each from memory
SMALL = 1024 * 1024  # bytes; such a file is sent from memory, in one request


class S3Uploader(Uploader):
    """Sends a few parts at a time, and has S3 prove the CRC-32 of the whole object.

    Key, parameters, ACL and encryption are those that ``S3Storage.save()`` would use. A storage
    with ``gzip``, or with a ``save`` of its own, is left to the generic uploader. The checksum is
    compared without a download. A server that keeps none proves the size. What it is asked for
    each file, and what only once, is up to ``trust``. Small files of a storage that chooses
    SHA-256 are proved by that, and sent by ``obstore`` where ``by_obstore`` allows it.
    """

    replaces = True
    may_use_obstore: ClassVar[bool] = True  # where it is installed and stores the same
    _is_new = False  # while what is sent has a condition

    @classmethod
    def suits(cls, remote: Storage) -> bool:
        return not getattr(remote, "gzip", False) and all(
            getattr(type(remote), method, None) is getattr(S3Storage, method)
            for method in ("save", "_save", "get_available_name")
        )

    def upload(self, name: str, content: MeasuredFile) -> str:
        cleaned = cast(str, clean_name(name))
        self.has_proof = False
        parameters = self._s3._get_write_parameters(self._key(name), content)
        algorithm = parameters.get("ChecksumAlgorithm", CRC32)
        if algorithm in ALGORITHMS and (data := self._small(content)) is not None:
            self._put(name, data, content.content, parameters, algorithm)
            return cleaned
        if "ChecksumAlgorithm" not in parameters:
            parameters.update(ChecksumAlgorithm=CRC32, ChecksumType="FULL_OBJECT")
        if is_seekable(content):
            content.seek(0)  # somebody may have had a look at it
        with self._condition(name) if self._is_new else contextlib.nullcontext():
            if content.saved and algorithm == CRC32 and trust.known(self._s3).checksums:
                self._upload_saved(name, content, content.saved, parameters)
            else:
                self._object(name).upload_fileobj(
                    content, ExtraArgs=parameters, Config=self._config()
                )
        return cleaned

    def _upload_saved(
        self, name: str, content: MeasuredFile, saved: Saved, parameters: dict[str, Any]
    ) -> None:
        """The threads that send the parts read them, so that none is held in memory. What they have
        read is not seen here: the server's checksum tells."""
        progress = _Progress(saved.on_sent)
        client = self._s3.connection.meta.client
        place = (self._s3.bucket_name, self._key(name))
        with create_transfer_manager(client, self._s3.transfer_config) as manager:
            future = manager.upload(saved.path, *place, parameters, [progress])
            try:
                future.result()
            except CancelledError as error:
                raise progress.error or error from None
        with contextlib.suppress(VerificationError):  # which a reader may have the reason for
            self.has_proof = self.verify(name, saved.content, "checksum") == "checksum"
        content.was_sent(saved, is_proved=self.has_proof)

    def _small(self, content: MeasuredFile) -> bytes | None:
        """All the bytes of a file that is small: boto3 asks the server whether it may send what
        it has to read from a file, which is another way there and back."""
        config = self._s3.transfer_config
        limit = min(SMALL, config.multipart_threshold - 1)
        if config.max_bandwidth or not is_seekable(content):
            return None
        content.seek(0)
        data = b""
        while len(data) <= limit and (piece := content.read(limit + 1 - len(data))):
            data += piece
        return data if len(data) <= limit else None

    def _put(
        self, name: str, data: bytes, sent: Content, parameters: dict[str, Any], algorithm: str
    ) -> None:
        trusted = trust.trust_in(self._s3, algorithm)
        known = encoded(int(sent.checksum.removeprefix("crc32:"), 16))
        checksum = known if algorithm == CRC32 else sum_of(algorithm, data)
        parameters.pop("ChecksumAlgorithm", None)
        if self._is_new:
            parameters["IfNoneMatch"] = "*"
        client = self._s3.connection.meta.client
        outgoing = put.Outgoing(self._s3.bucket_name, self._key(name), data, checksum, parameters)
        if trusted.checksums:
            answered = put.put(client, outgoing, self._sender)
        else:
            answered = put.put_plainly(client, outgoing)
        self.has_proof = trusted.checksums and answered == checksum.value
        if algorithm != CRC32 and not self.has_proof:
            self.has_proof = self._is_shown(name, checksum)

    def _is_shown(self, name: str, checksum: Sum) -> bool:
        """Whether the object has this checksum, which nobody knows any more after the upload."""
        found = self._head(name).get(checksum.parameter)
        if found is not None:
            self._require(name, "the checksum", found, checksum.value)
        return found is not None

    def _sender(self, template: put.Template, checksum: Sum) -> by_obstore.Sender | None:
        if not self.may_use_obstore:
            return None
        return by_obstore.sender(self._s3, self._s3.connection.meta.client, template, checksum)

    def upload_new(self, name: str, content: MeasuredFile) -> str:
        """On the condition ``If-None-Match: *``, where the server knows it.

        See https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html.
        """
        self._is_new = True
        try:
            return self.upload(name, content)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == HTTPStatus.PRECONDITION_FAILED:
                raise FileExistsError(f"{name!r} is another object by now.") from error
            if status != HTTPStatus.NOT_IMPLEMENTED:
                raise
        finally:
            self._is_new = False
        return self.upload(name, content)

    @contextlib.contextmanager
    def _condition(self, name: str) -> Iterator[None]:
        """Add it to the requests that make the object: s3transfer takes no such argument."""
        key = self._key(name)

        def add(params: dict[str, Any], **kwargs: Any) -> None:
            if params["Key"] == key:
                params["IfNoneMatch"] = "*"

        events = self._s3.connection.meta.client.meta.events  # of this thread's session
        names = [f"provide-client-params.s3.{call}" for call in CREATING]
        for each in names:
            events.register(each, add)
        try:
            yield
        finally:
            for each in names:
                events.unregister(each, add)

    def never_overwrites(self, size: int) -> bool:
        is_small = size < min(SMALL, self._s3.transfer_config.multipart_threshold)
        return is_small and trust.conditions_are_known(self._s3)

    def forget_unfinished(self, name: str) -> None:
        """Abort multipart uploads, which cost money and are in no listing. One that a frozen
        worker would like to go on with is then refused."""
        client = self._s3.connection.meta.client
        place = {"Bucket": self._s3.bucket_name, "Key": self._key(name)}
        try:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=place["Bucket"], Prefix=place["Key"]
            )
            for upload in (each for page in pages for each in page.get("Uploads", ())):
                if upload["Key"] == place["Key"]:
                    client.abort_multipart_upload(**place, UploadId=upload["UploadId"])
        except client.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status >= 500 and status != 501:
                raise
            # Gone meanwhile, or not for us to do: a rule of the bucket can.
            logger.info("Unfinished uploads to %r are left: %s", name, error)

    def refuses_wrong_checksum(self, name: str) -> bool:
        client = self._s3.connection.meta.client
        parameters = self._s3._get_write_parameters(self._key(name), None)
        algorithm = parameters.pop("ChecksumAlgorithm", CRC32)
        wrong = sum_of(algorithm if algorithm in ALGORITHMS else CRC32, b"")
        parameters |= {
            "Bucket": self._s3.bucket_name,
            "Key": self._key(name),
            "Body": b"sent",
            wrong.parameter: wrong.value,
        }
        try:
            client.put_object(**parameters)
        except client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.BAD_REQUEST:
                raise
            return True
        return False

    def verify(self, name: str, sent: Content, level: str) -> str:
        if level != "checksum":
            return super().verify(name, sent, level)
        head = self._head(name)
        self._require(name, "bytes", head["ContentLength"], sent.size)
        checksum = head.get("ChecksumCRC32", "")
        is_of_whole = checksum and head.get("ChecksumType") != "COMPOSITE" and "-" not in checksum
        if is_of_whole:
            self._require(name, "the checksum", _as_recorded(checksum), sent.checksum)
            return "checksum"
        return "size"

    def read_back(self, name: str) -> Iterator[bytes]:
        """Straight from the answer: ``S3Storage.open()`` holds the whole file in memory."""
        body = self._object(name).get(**self._customer_key(name))["Body"]
        yield from body.iter_chunks(PIECE)

    def read_part(self, name: str, start: int, end: int) -> Iterator[bytes]:
        wanted = f"bytes={start}-{end - 1}"
        body = self._object(name).get(Range=wanted, **self._customer_key(name))["Body"]
        with contextlib.closing(body):
            yield from body.iter_chunks(PIECE)

    def names(self, under: str = "") -> Iterator[str]:
        """A page of a thousand at a time, where ``listdir()`` takes a directory as a whole."""
        root, prefix = self._directory(""), self._directory(under)
        pages = self._s3.connection.meta.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._s3.bucket_name, Prefix=prefix
        )
        for key in (each["Key"] for page in pages for each in page.get("Contents", ())):
            if not key.endswith("/"):
                yield key[len(root) :]

    def _directory(self, name: str) -> str:
        key = cast(str, self._s3._normalize_name(clean_name(name))).strip("/")
        return f"{key}/" if key else ""

    @property
    def _s3(self) -> Any:
        return self.remote

    def _key(self, name: str) -> str:
        return cast(str, self._s3._normalize_name(clean_name(name)))

    def _object(self, name: str) -> Any:
        s3 = self._s3
        return s3.connection.Object(s3.bucket_name, self._key(name))  # of this thread's session

    def _config(self) -> TransferConfig:
        """The storage's own, with no more parts in memory than need be."""
        config: Any = copy.copy(self._s3.transfer_config)
        config.max_request_concurrency = min(config.max_request_concurrency, PARTS)
        config.max_in_memory_upload_chunks = PARTS
        return cast(TransferConfig, config)

    def _head(self, name: str) -> dict[str, Any]:
        try:
            return cast(
                dict[str, Any],
                self._s3.connection.meta.client.head_object(
                    Bucket=self._s3.bucket_name,
                    Key=self._key(name),
                    ChecksumMode="ENABLED",
                    **self._customer_key(name),
                ),
            )
        except self._s3.connection.meta.client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise VerificationError(f"The remote has no {name!r} after the upload.") from error
            raise

    def _customer_key(self, name: str) -> dict[str, Any]:
        """The parameters without which an object encrypted with one's own key cannot be read."""
        parameters = self._s3.get_object_parameters(name)
        return {key: value for key, value in parameters.items() if key.startswith("SSECustomer")}


class _Progress(BaseSubscriber):
    """Adds up what several threads have sent, and ends the sending if who is told of it raises.

    An error that is raised in these threads would leave files open.
    """

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


def _as_recorded(checksum: str) -> str:
    return f"crc32:{base64.b64decode(checksum).hex()}"


class PlainS3Uploader(S3Uploader):
    """The same without ``obstore``, installed or not: for the option ``uploader``."""

    may_use_obstore = False
