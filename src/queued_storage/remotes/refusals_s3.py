"""Say why an S3 server refuses a request, and what to do about it."""

import posixpath
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http import HTTPStatus
from typing import Any

from botocore.exceptions import ClientError
from storages.utils import clean_name

from ..exceptions import NameTooLong

KEY_MAX_BYTES = 1024  # in UTF-8
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
WITH_REASONS = (HTTPStatus.BAD_REQUEST, *REFUSED)
CHECK = "To test all operations, run 'manage.py queued_storage check-remote ALIAS'."
NO_BUCKET = "NoSuchBucket"  # of a 404, which otherwise says that an object is missing
# What to do for an error code
ADVICE = {
    "InvalidAccessKeyId": "Check the access key of the storage (its option 'access_key').",
    "SignatureDoesNotMatch": "Check the secret key of the storage (its option 'secret_key'), the "
    "region, and the endpoint.",
    "AuthorizationHeaderMalformed": "Check the option 'region_name' of the storage.",
    "ExpiredToken": "The session token has expired; renew the credentials of the storage.",
    "InvalidToken": "Check the session token of the storage (its option 'security_token').",
    "TokenRefreshRequired": "Renew the credentials of the storage.",
    "RequestTimeTooSkewed": "Set the clock of this host.",
    "AccountProblem": "There is a problem with the account; ask the provider.",
    "NotSignedUp": "The account is not signed up for S3; ask the provider.",
    NO_BUCKET: "Create the bucket, or correct the option 'bucket_name' of the storage.",
}
NEEDED = {
    "GetObject": "s3:GetObject on the objects",
    "HeadObject": "s3:GetObject on the objects",
    "PutObject": "s3:PutObject on the objects",
    "CreateMultipartUpload": "s3:PutObject on the objects",
    "UploadPart": "s3:PutObject on the objects",
    "CompleteMultipartUpload": "s3:PutObject on the objects",
    "DeleteObject": "s3:DeleteObject on the objects",
    "ListObjectsV2": "s3:ListBucket on the bucket",
}


class S3Refusal(ClientError):
    """A refused request, in the server's own words, with what to do."""

    def __init__(self, error: ClientError, advice: str) -> None:
        super().__init__(error.response, error.operation_name)
        self.args = (f"{str(error).rstrip('. ')}. {advice} {CHECK}".replace("  ", " "),)


def guarded(remote: Any, name: str) -> AbstractContextManager[None]:
    """Do so for a request of a storage's own method."""
    key = posixpath.join(remote.location, clean_name(name))
    require_short(key)
    return explained(lambda: remote.connection.meta.client, remote.bucket_name, key)


def require_short(key: str) -> None:
    if (length := len(key.encode())) > KEY_MAX_BYTES:
        raise NameTooLong(
            f"The key of {key[:100]!r}… on the remote has {length:,} bytes, but S3 allows "
            f"{KEY_MAX_BYTES:,}. Save the file under a shorter name, or use a shorter location."
        )


@contextmanager
def explained(client: Callable[[], Any], bucket: str, key: str) -> Iterator[None]:
    """Explain a refusal of a request about an object; ``client()`` returns the client then.

    The answer to a HEAD has no body, so a GET asks for the reason.
    """
    try:
        yield
    except ClientError as error:
        if isinstance(error, S3Refusal):
            raise
        if explanation := _explanation(client(), bucket, key, error):
            raise explanation from error
        raise


def _explanation(client: Any, bucket: str, key: str, error: ClientError) -> Exception | None:
    if status_of(error) not in WITH_REASONS:
        return S3Refusal(error, ADVICE[NO_BUCKET]) if code_of(error) == NO_BUCKET else None
    is_head = error.operation_name == "HeadObject"
    answer = _answer_to_get(client, bucket, key) if is_head else error
    if answer is None:
        return S3Refusal(error, "The server allows GET, but not HEAD: allow HEAD requests too.")
    if status_of(answer) not in WITH_REASONS:
        answer = error
    if code_of(answer) == "KeyTooLongError":
        return NameTooLong(f"{answer} Save the file under a shorter name.")
    if advice := ADVICE.get(code_of(answer)):
        return S3Refusal(answer, advice)
    if status_of(answer) not in REFUSED:
        return None if answer is error else S3Refusal(answer, "")
    needed = [NEEDED.get(error.operation_name, "access to the objects")]
    if is_head and not _may_list(client, bucket, key):
        needed.append(NEEDED["ListObjectsV2"])
    advice = f"Grant {' and '.join(needed)} {bucket!r} to the storage's user."
    if len(needed) > 1:
        advice += " Without s3:ListBucket, S3 refuses requests for objects that do not exist."
    return S3Refusal(answer, advice)


def _answer_to_get(client: Any, bucket: str, key: str) -> ClientError | None:
    """Return the error with which the server answers a GET; None if it returns the object."""
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except ClientError as error:
        return error
    with suppress(Exception):
        answer["Body"].close()
    return None


def _may_list(client: Any, bucket: str, key: str) -> bool:
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except ClientError as error:
        return status_of(error) not in REFUSED
    return True


def status_of(error: ClientError) -> int:
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status


def code_of(error: ClientError) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code
