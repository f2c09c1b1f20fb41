"""Which optional headers an S3 server refuses, so that files are sent without them.

Some S3-compatible servers refuse every request with a header that they don't know, such as that of
a checksum. A project uses them with ``request_checksum_calculation="when_required"``.
"""

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from ...reporting.logs import logger
from . import trust
from .bucket import Bucket, S3Remote

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

# Statuses by which servers refuse unknown headers
REFUSES_CHECKSUM = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.LENGTH_REQUIRED,
    HTTPStatus.NOT_IMPLEMENTED,
)
REFUSES_CONDITION = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED)
# Error codes with these statuses that have another reason
UNRELATED = {
    *("BadDigest", "EntityTooLarge", "EntityTooSmall", "ExpiredToken", "IncompleteBody"),
    *("InvalidAccessKeyId", "InvalidBucketName", "InvalidDigest", "InvalidToken"),
    *("KeyTooLongError", "MetadataTooLarge", "QuotaExceeded", "RequestTimeTooSkewed"),
    *("RequestTimeout", "TokenRefreshRequired", "XAmzContentChecksumMismatch"),
    "XAmzContentSHA256Mismatch",
}


class Dialect(NamedTuple):
    """The optional headers that are sent."""

    checksums: bool = True  # of what is uploaded
    conditions: bool = True  # If-None-Match
    shows: bool = True  # whether HEAD asks for a checksum


Key = tuple[str | None, ...]  # of a server and a bucket
_known: dict[Key, Dialect] = {}


def of(storage: S3Remote) -> Dialect:
    """Return what this process knows of the server."""
    return _known.get(_key(storage), Dialect())


def learn(storage: S3Remote, dialect: Dialect) -> None:
    """Remember headers that the server refused, after a request without them succeeded."""
    if dialect != of(storage):
        _known[_key(storage)] = dialect
        bucket = storage.bucket_name
        logger.info("The S3 server of the bucket %r refuses headers; sent are: %s", bucket, dialect)


def to_try(bucket: Bucket, *, is_new: bool, named: str | None) -> Iterator[Dialect]:
    """Yield the dialects to upload a file in, with the known one first.

    A checksum is left out only if the client would upload without one, and the storage has
    ``named`` no algorithm.
    A condition is left out only if the server was not seen to respect it.
    """
    storage = bucket.storage
    known = of(storage)
    yield known
    may_lack_checksum = known.checksums and named is None and is_quiet(bucket.client, "request")
    may_lack_condition = is_new and known.conditions and not trust.conditions_are_known(storage)
    if may_lack_checksum:
        yield known._replace(checksums=False)
    if may_lack_condition:
        yield known._replace(conditions=False)
    if may_lack_checksum and may_lack_condition:
        yield known._replace(checksums=False, conditions=False)


def may_be_refusal(error: ClientError, tried: Dialect, following: Dialect) -> bool:
    """Return whether the server may have refused a header that the following dialect leaves out."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if error.response.get("Error", {}).get("Code") in UNRELATED:
        return False
    statuses = REFUSES_CHECKSUM if following.conditions == tried.conditions else REFUSES_CONDITION
    return status in statuses


def is_quiet(client: "S3Client", side: str) -> bool:
    """Return whether the client itself sends, or asks for, checksums only where S3 requires them.

    ``side`` is ``"request"`` or ``"response"``.
    """
    option = {
        "request": "request_checksum_calculation",
        "response": "response_checksum_validation",
    }[side]
    config: Any = client.meta.config
    return getattr(config, option, None) == "when_required"


def head_object(
    storage: S3Remote, client: "S3Client", parameters: dict[str, Any]
) -> "HeadObjectOutputTypeDef":
    """Ask for the properties of an object, with its checksum unless the server refuses that."""
    known = of(storage)
    if not known.shows:
        return client.head_object(**parameters)
    try:
        return client.head_object(**parameters, ChecksumMode="ENABLED")
    except ClientError as error:
        quiet = known._replace(shows=False)
        if not is_quiet(client, "response") or not may_be_refusal(error, known, quiet):
            raise
        with contextlib.suppress(ClientError):
            found = client.head_object(**parameters)
            learn(storage, quiet)
            return found
        raise


def _key(storage: S3Remote) -> Key:
    return storage.endpoint_url, storage.region_name, storage.bucket_name


def forget() -> None:
    """Forget everything, for tests."""
    _known.clear()
