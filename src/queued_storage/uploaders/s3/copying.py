"""Lets an S3 server copy an object from another bucket, or from another directory of it."""

from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from botocore.exceptions import ClientError, ParamValidationError
from django.core.files.storage import Storage
from storages.backends.s3 import S3Storage

from ...exceptions import VerificationError
from ...files.streams import MeasuredFile, Stored
from ...remotes.refusals_s3 import status_of
from ...reporting.logs import logger
from ...reporting.reasons import reason
from ..base import CannotCopy, Uploader
from . import dialects
from .bucket import Bucket, S3Remote
from .checksums import CRC32, as_recorded

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

# See https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html.
COPY_MAX = 5 * 1024**3  # bytes of an object that one request copies
# What both storages need to have in common, so that the requests of one can read from the other
_ACCOUNT = (
    *("endpoint_url", "region_name", "access_key", "secret_key", "security_token"),
    "session_profile",
)
_NAME = "queued-storage"  # of any object, to see what requests for one require
_refused: set[tuple[str | None, str, str]] = set()  # endpoints with two of their buckets


def is_possible(source: Storage, target: Storage, size: int) -> bool:
    """Return whether a server may be asked to copy an object of this size."""
    if not isinstance(source, S3Storage) or not isinstance(target, S3Storage) or size > COPY_MAX:
        return False
    one, other = _bucket_of(source), _bucket_of(target)
    if one.customer_key(_NAME) or other.customer_key(_NAME):
        return False  # the server keeps no checksum of the bytes that it could show
    has_same_account = all(getattr(source, each) == getattr(target, each) for each in _ACCOUNT)
    return has_same_account and _pair(one, other) not in _refused


def copy(
    uploader: Uploader, bucket: Bucket, name: str, content: MeasuredFile, *, is_new: bool
) -> None:
    """Have the object copied that ``content`` is stored in; its checksum proves the copy.

    Content type and other metadata, access and encryption are those of an upload. The checksum of
    the source is compared with the ledger's first: the server shows that of the bytes it stored.
    ``CannotCopy`` is raised if that is not possible, and ``FileExistsError`` as by an upload.
    """
    stored = content.stored
    assert stored
    source = _bucket_of(stored.remote)
    found = _whole(source, stored)
    if is_new and not uploader.is_free(name):
        raise FileExistsError(f"The remote has another object named {name!r}.")
    parameters = bucket.parameters(name, content)
    parameters.pop("ChecksumType", None)
    parameters.setdefault("ChecksumAlgorithm", CRC32)
    if is_new and dialects.of(bucket.storage).conditions:
        parameters["IfNoneMatch"] = "*"
    content.is_copied(stored)
    try:
        bucket.client.copy_object(
            **bucket.place(name),
            **parameters,
            CopySource={"Bucket": source.name, "Key": source.key(stored.name)},
            CopySourceIfMatch=found["ETag"],
            MetadataDirective="REPLACE",
            TaggingDirective="REPLACE",
        )
    except (ClientError, ParamValidationError) as error:
        _require_refusal(error, source, bucket)
    try:
        if uploader.verify(name, stored.content, "checksum") == "checksum":
            return
    except VerificationError as error:
        logger.warning("The server has copied %r wrongly: %s", name, error)
    _refused.add(_pair(source, bucket))
    uploader.remove(name)
    raise CannotCopy


def _whole(source: Bucket, stored: Stored) -> "HeadObjectOutputTypeDef":
    """Return what the server says of an object, whose checksum is that of the ledger."""
    place = source.place(stored.name)
    found = dialects.head_object(source.storage, source.client, {**place})
    checksum = found.get("ChecksumCRC32", "")
    is_of_all = bool(checksum) and "-" not in checksum and found.get("ChecksumType") != "COMPOSITE"
    if not is_of_all or as_recorded(checksum) != stored.content.checksum:
        raise CannotCopy  # its bytes are read, and compared
    return found


def _require_refusal(error: Exception, source: Bucket, target: Bucket) -> None:
    """Raise ``CannotCopy`` if nothing was copied and the bytes can be sent instead."""
    status = status_of(error) if isinstance(error, ClientError) else HTTPStatus.BAD_REQUEST
    if status == HTTPStatus.PRECONDITION_FAILED:
        raise CannotCopy from error  # to send the bytes tells which of the two conditions it was
    if status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED:
        raise error
    logger.info("The server does not copy between buckets: %s", reason(error))
    _refused.add(_pair(source, target))
    raise CannotCopy from error


def _bucket_of(remote: Storage) -> Bucket:
    return Bucket(cast(S3Remote, remote))


def _pair(source: Bucket, target: Bucket) -> tuple[str | None, str, str]:
    return source.storage.endpoint_url, source.name, target.name
