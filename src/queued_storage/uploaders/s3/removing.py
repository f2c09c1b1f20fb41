"""Deletes several objects by one request, where the server understands it."""

from collections.abc import Collection
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from ...remotes.refusals_s3 import code_of, status_of
from ...reporting.logs import logger
from ...reporting.reasons import reason
from .bucket import MISSING, Bucket

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import DeleteObjectsOutputTypeDef

MAX = 1000  # objects of one request
# A server that predates CRC-32 asks for an MD5, which boto3 no longer sends. Others refuse the
# signature, or know no such request.
REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)
_refusing: set[tuple[str | None, str]] = set()  # buckets of which nothing is deleted together


def remove(bucket: Bucket, names: Collection[str]) -> dict[str, Exception | None]:
    """Delete objects; return, for each of which the server has said it, why it was not deleted.

    Nothing is returned if the request fails: to delete each object by itself shows why.
    """
    where = (bucket.storage.endpoint_url, bucket.name)
    if where in _refusing:
        return {}
    keys = {bucket.key(name): name for name in names if bucket.allows(name)}
    try:
        answer = bucket.client.delete_objects(
            Bucket=bucket.name, Delete={"Objects": [{"Key": key} for key in [*keys][:MAX]]}
        )
    except (BotoCoreError, ClientError) as error:
        logger.info("Objects are deleted one by one: %s", reason(error))
        if isinstance(error, ClientError) and status_of(error) in REFUSALS:
            _refusing.add(where)
        return {}
    return {keys[key]: error for key, error in _outcomes(answer).items() if key in keys}


def _outcomes(answer: "DeleteObjectsOutputTypeDef") -> dict[str, Exception | None]:
    found: dict[str, Exception | None] = {
        each.get("Key", ""): None for each in answer.get("Deleted", ())
    }
    for each in answer.get("Errors", ()):
        code, message = each.get("Code", ""), each.get("Message", "")
        error = ClientError({"Error": {"Code": code, "Message": message}}, "DeleteObjects")
        found[each.get("Key", "")] = None if code_of(error) in MISSING else error
    return found
