"""The uploader for django-storages' ``S3Storage``."""

import contextlib
from collections.abc import Collection, Iterator
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, cast

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from django.core.files.storage import Storage
from storages.backends.s3 import S3Storage
from storages.utils import clean_name, is_seekable

from ...exceptions import VerificationError
from ...files.streams import MeasuredFile, Saved
from ...ledger.names import WRITER_NAME
from ...ledger.states import Content
from ...remotes.refusals_s3 import code_of, explained, status_of
from ...reporting.logs import logger
from ...reporting.reasons import reason
from ...runtime import ending
from ..base import MARKER_MAX, PIECE, Uploader
from . import by_obstore, copying, dialects, fetching, multipart, removing, small, trust, trying
from .bucket import MISSING, Bucket, S3Remote
from .by_obstore import Outcome, Substitute
from .checksums import ALGORITHMS, CRC32, SHA256, Sum, as_recorded, crc32_in, encoded, sum_of
from .dialects import Dialect, may_be_refusal
from .small import SmallObject

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef


class S3Uploader(Uploader):
    """Uploads a small file in one request and a large one in parts, verified by a checksum.

    Key, parameters, ACL and encryption are those of ``S3Storage.save()``. A storage with ``gzip``,
    or with its own ``save()``, uses the generic uploader. The checksum is the one that the storage
    names, else CRC-32, or SHA-256 if obstore sends the file. It is compared without a download. If
    the server keeps no checksum, the size is compared.
    """

    replaces = True
    may_use_obstore: ClassVar[bool] = True

    @classmethod
    def suits(cls, remote: Storage) -> bool:
        return not getattr(remote, "gzip", False) and all(
            getattr(type(remote), method, None) is getattr(S3Storage, method)
            for method in ("save", "_save", "get_available_name")
        )

    @cached_property
    def _bucket(self) -> Bucket:
        return Bucket(cast(S3Remote, self.remote))

    # Uploading

    def upload(self, name: str, content: MeasuredFile) -> str:
        return self._upload(name, content, is_new=False)

    def upload_new(self, name: str, content: MeasuredFile) -> str:
        """Upload with the condition ``If-None-Match: *``, if the server supports it.

        See https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html.
        """
        self.was_sent_once = True
        try:
            return self._upload(name, content, is_new=True)
        except ClientError as error:
            if status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                # A request that boto3 repeats may be refused because of the object that it made.
                self.was_sent_once &= error.response["ResponseMetadata"].get("RetryAttempts") == 0
                raise FileExistsError(f"The remote has another object named {name!r}.") from error
            raise

    def _upload(self, name: str, content: MeasuredFile, *, is_new: bool) -> str:
        """Upload with all headers, or without those that the server refuses."""
        bucket = self._bucket
        if content.stored:
            copying.copy(self, bucket, name, content, is_new=is_new)
            self.has_proof = True
            return cast(str, clean_name(name))
        parameters = bucket.parameters(name, content)
        named: str | None = parameters.pop("ChecksumAlgorithm", None)
        to_try = dialects.to_try(bucket, is_new=is_new, named=named)
        following: Dialect | None = next(to_try)
        first: ClientError | None = None
        with self._explained(name):
            while following is not None:
                tried, following = following, None
                try:
                    self._upload_in(tried, name, content, dict(parameters), named, is_new)
                except ClientError as error:
                    first = first or error
                    if is_seekable(content):
                        untried = (each for each in to_try if may_be_refusal(error, tried, each))
                        following = next(untried, None)
                    if following is None:
                        raise (first if status_of(first) == status_of(error) else error) from None
        dialects.learn(bucket.storage, tried)
        return cast(str, clean_name(name))

    def _upload_in(
        self,
        dialect: Dialect,
        name: str,
        content: MeasuredFile,
        parameters: dict[str, Any],
        named: str | None,
        is_new: bool,
    ) -> None:
        self.has_proof = False
        is_new &= dialect.conditions
        is_known = named is None or named in ALGORITHMS
        if is_known and (data := self._small(content)) is not None:
            place = self._bucket.place(name)
            parameters.pop("ChecksumType", None)  # for multipart uploads
            what = SmallObject(place["Bucket"], place["Key"], data, parameters, is_new)
            if dialect.checksums:
                self._upload_small(name, what, named, content.content)
            else:
                small.put_object(self._bucket.client, what, None)
        else:
            if named or (dialect.checksums and not self._appends_checksums()):
                parameters["ChecksumAlgorithm"] = named or CRC32
                if named is None:
                    parameters["ChecksumType"] = "FULL_OBJECT"
            self._upload_large(name, content, parameters, is_new)

    def _appends_checksums(self) -> bool:
        """Return whether boto3 would append the checksum of a large file to its bytes, though that
        is turned off. A server that doesn't know this might store it as a part of the file."""
        client = self._bucket.client
        is_encrypted = client.meta.endpoint_url.startswith("https:")
        is_known = trust.known(self._bucket.storage).checksums
        return is_encrypted and not is_known and dialects.is_quiet(client, "request")

    def _small(self, content: MeasuredFile) -> bytes | None:
        """Return all the bytes of a small file, or None if the file is sent in another way."""
        config: Any = self._bucket.storage.transfer_config
        limit = min(small.LIMIT, config.multipart_threshold - 1)
        if config.max_bandwidth or not is_seekable(content):
            return None
        content.seek(0)
        expected = content.saved.content.size if content.saved else -1
        data = b""
        while len(data) <= limit and (piece := content.read(limit + 1 - len(data))):
            data += piece
            if len(data) == expected:
                break
        return data if len(data) <= limit else None

    def _upload_small(self, name: str, what: SmallObject, named: str | None, sent: Content) -> None:
        substitute = self._substitute(named)
        outcome = substitute.send(what) if substitute else Outcome.NOT_SENT
        self.was_sent_once &= outcome is not Outcome.FAILED
        match outcome:
            case Outcome.PROVED:
                self.has_proof = True
            case Outcome.SENT:
                self.has_proof = self._is_shown(name, sum_of(SHA256, what.data))
            case Outcome.NOT_SENT | Outcome.FAILED:
                self.has_proof = self._put(name, what, named, sent, substitute)

    def _substitute(self, named: str | None) -> Substitute | None:
        """Return what may send instead of boto3, if the server refuses wrong checksums."""
        if not self.may_use_obstore or not by_obstore.can_send(named):
            return None
        storage = self._bucket.storage
        substitute = by_obstore.substitute_for(self._bucket)
        return substitute if substitute and trust.trust_in(storage, SHA256).checksums else None

    def _put(
        self,
        name: str,
        what: SmallObject,
        named: str | None,
        sent: Content,
        substitute: Substitute | None,
    ) -> bool:
        """Send the object by boto3. Returns whether that proved its bytes."""
        trusted = trust.trust_in(self._bucket.storage, named or CRC32)
        is_crc32 = named in (None, CRC32)
        checksum = encoded(crc32_in(sent.checksum)) if is_crc32 else sum_of(SHA256, what.data)
        answer = small.put_object(self._bucket.client, what, checksum)
        if substitute:
            substitute.learn(what, answer.request)
        if trusted.checksums and answer.checksum == checksum.value:
            return True
        return not is_crc32 and self._is_shown(name, checksum)

    def _is_shown(self, name: str, checksum: Sum) -> bool:
        """Return whether the server shows this checksum, which the ledger does not store."""
        found = self._head(name).get(checksum.parameter)
        if found is not None:
            self._require(name, "the checksum", found, checksum.value)
        return found is not None

    def _upload_large(
        self, name: str, content: MeasuredFile, parameters: dict[str, Any], is_new: bool
    ) -> None:
        config = self._bucket.storage.transfer_config
        try:
            self._send_large(name, content, parameters, is_new, config)
        except RuntimeError:
            if not (ending.has_begun() and is_seekable(content)):
                raise
            # The pools of threads are closed, but there may be time to do without.
            config = multipart.config_without_threads(config)
            self._send_large(name, content, parameters, is_new, config)

    def _send_large(
        self,
        name: str,
        content: MeasuredFile,
        parameters: dict[str, Any],
        is_new: bool,
        config: TransferConfig,
    ) -> None:
        if is_seekable(content):
            content.seek(0)  # transfer() may have read some of it
        bucket, client, place = self._bucket, self._bucket.client, self._bucket.place(name)
        is_crc32 = parameters.get("ChecksumAlgorithm") == CRC32
        can_prove = is_crc32 and trust.known(bucket.storage).checksums
        with multipart.only_if_new(client, place["Key"]) if is_new else contextlib.nullcontext():
            if (saved := content.saved) and can_prove:
                multipart.upload_path(client, saved.path, place, parameters, config, saved.on_sent)
                self._prove_saved(name, content, saved)
            else:
                config = multipart.config_for_stream(config)
                client.upload_fileobj(content, **place, ExtraArgs=parameters, Config=config)

    def _prove_saved(self, name: str, content: MeasuredFile, saved: Saved) -> None:
        """Compare the checksum of the save with the server's: the threads read the file."""
        with contextlib.suppress(VerificationError):  # content.was_sent() finds the reason
            self.has_proof = self.verify(name, saved.content, "checksum") == "checksum"
        content.was_sent(saved, is_proved=self.has_proof)

    def never_overwrites(self, size: int) -> bool:
        storage = self._bucket.storage
        config: Any = storage.transfer_config
        is_small = size < min(small.LIMIT, config.multipart_threshold)
        return is_small and trust.conditions_are_known(storage)

    def can_copy_from(self, remote: Storage, size: int) -> bool:
        return copying.is_possible(remote, self.remote, size)

    def expect_many(self) -> None:
        trust.expect_many(self._bucket.storage)

    def forget_unfinished(self, name: str) -> None:
        """Abort multipart uploads, so that a worker that was frozen cannot continue one."""
        if not self._bucket.allows(name):
            return
        try:
            multipart.abort_uploads(self._bucket.client, self._bucket.place(name))
        except ClientError as error:
            if status_of(error) >= 500 and status_of(error) != HTTPStatus.NOT_IMPLEMENTED:
                raise
            # It ended meanwhile, or the account may not abort it; a lifecycle rule can.
            logger.info("Unfinished uploads to %r were not aborted: %s", name, reason(error))

    # Looking and removing

    def exists(self, name: str) -> bool:
        """Return whether the bucket has the object.

        The answer to HEAD has no body, so a missing bucket, or a wrong endpoint, looks like a
        missing object. GET tells them apart, unless it has done so a short while ago.
        """
        if not self._bucket.allows(name):
            return False
        return super().exists(name) or not (self._bucket.was_seen or self._is_missing(name))

    def _is_missing(self, name: str) -> bool:
        try:
            for _piece in self.read_part(name, 0, 1):
                return False
        except ClientError as error:
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is empty
                return False
            if code_of(error) not in MISSING:
                raise
            self._bucket.note_seen()
            return True
        return False

    def is_free(self, name: str) -> bool:
        self._bucket.place(name)  # raises an error for a name that is too long
        return not super().exists(name)  # an upload to a missing bucket fails

    def remove(self, name: str) -> None:
        """Delete the object: ``S3Storage`` says nothing if the bucket is missing."""
        if not self._bucket.allows(name):
            return
        if type(self.remote).delete is not S3Storage.delete:
            super().remove(name)
            return
        try:
            self._bucket.client.delete_object(**self._bucket.place(name))
        except ClientError as error:
            if code_of(error) not in MISSING:
                raise

    def remove_together(self, names: Collection[str]) -> dict[str, Exception | None]:
        if type(self.remote).delete is not S3Storage.delete:
            return {}
        return removing.remove(self._bucket, names)

    def read_marker(self) -> bytes | None:
        try:
            return b"".join(self.read_part(WRITER_NAME, 0, MARKER_MAX))
        except ClientError as error:
            if code_of(error) in MISSING:
                return None
            raise

    # Verifying

    def write_probe(self) -> None:
        trying.write_probe(self._bucket)

    def refuses_wrong_checksum(self, name: str) -> bool | None:
        return trying.refuses_wrong_checksum(self._bucket, name)

    def verify(self, name: str, sent: Content, level: str) -> str:
        if level != "checksum":
            return super().verify(name, sent, level)
        head = self._head(name)
        self._require(name, "bytes", head["ContentLength"], sent.size)
        checksum = head.get("ChecksumCRC32", "")
        if checksum and head.get("ChecksumType") != "COMPOSITE" and "-" not in checksum:
            self._require(name, "the checksum", as_recorded(checksum), sent.checksum)
            return "checksum"
        if "ChecksumSHA256" in head and sent.size <= small.LIMIT:
            # The ledger has no SHA-256 to compare.
            return self._require_content(name, [self.read_small(name, sent.size)], sent)
        return "size"

    def verify_size(self, name: str, sent: Content) -> str:
        with self._explained(name):
            return super().verify_size(name, sent)

    def _head(self, name: str) -> "HeadObjectOutputTypeDef":
        bucket = self._bucket
        try:
            with self._explained(name):
                parameters = {**bucket.place(name), **bucket.customer_key(name)}
                return dialects.head_object(bucket.storage, bucket.client, parameters)
        except ClientError as error:
            if status_of(error) == HTTPStatus.NOT_FOUND:
                raise VerificationError(f"The remote has no file named {name!r}.") from error
            raise

    def _explained(self, name: str) -> contextlib.AbstractContextManager[None]:
        bucket, place = self._bucket, self._bucket.place(name)
        return explained(lambda: bucket.client, place["Bucket"], place["Key"])

    # Reading and listing

    def read_back(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of the response: ``S3Storage.open()`` keeps the file in memory."""
        yield from self._pieces_of(name, {})

    def read_small(self, name: str, size: int) -> bytes:
        """Read the object by obstore if possible, which does not compare checksums."""
        by_boto = partial(super().read_small, name, size)
        may_fetch = self.may_use_obstore and by_obstore.can_send(None) and size <= small.LIMIT
        return fetching.fetch(self._bucket, name, size, by_boto) if may_fetch else by_boto()

    def read_part(self, name: str, start: int, end: int) -> Iterator[bytes]:
        yield from self._pieces_of(name, {"Range": f"bytes={start}-{end - 1}"})

    def _pieces_of(self, name: str, wanted: dict[str, Any]) -> Iterator[bytes]:
        bucket = self._bucket
        answer = bucket.client.get_object(
            **bucket.place(name), **bucket.customer_key(name), **wanted
        )
        with contextlib.closing(answer["Body"]) as body:
            yield from body.iter_chunks(PIECE)

    def names(self, under: str = "") -> Iterator[str]:
        yield from self._bucket.names(under)


class PlainS3Uploader(S3Uploader):
    """Never uses obstore. Set the option ``uploader`` to its dotted path."""

    may_use_obstore = False
