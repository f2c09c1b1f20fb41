"""Write small objects to S3 to find out what the server does with them."""

import contextlib
import copy
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError
from django.core.files.base import ContentFile
from storages.backends.s3 import S3Storage

from ...ledger.names import PROBE_NAME
from ...remotes.refusals_s3 import explained, status_of
from ..base import PROBE
from . import dialects
from .bucket import Bucket
from .checksums import ALGORITHMS, CRC32, sum_of


def write_probe(bucket: Bucket) -> None:
    """Write an object as ``save()`` would, and remove it: does the bucket take any?

    boto3 may retry a request for minutes, while a closed remote is probed again soon anyway.
    """
    with _without_retries(bucket) as once:
        place, client = once.place(PROBE_NAME), once.client
        parameters = once.parameters(PROBE_NAME, ContentFile(PROBE))
        parameters.pop("ChecksumType", None)  # for multipart uploads
        with explained(lambda: client, place["Bucket"], place["Key"]):
            client.put_object(**place, **parameters, Body=PROBE)
        with contextlib.suppress(Exception):  # a key may be allowed to write, but not to delete
            client.delete_object(**place)


def refuses_wrong_checksum(bucket: Bucket, name: str) -> bool | None:
    """Send an object with a wrong checksum; return None if this server gets no checksums.

    If the object is not refused, it is left there.
    """
    if not dialects.of(bucket.storage).checksums:
        return None
    parameters = bucket.parameters(name)
    named = parameters.pop("ChecksumAlgorithm", CRC32)
    wrong = sum_of(named if named in ALGORITHMS else CRC32, b"")
    parameters |= {**bucket.place(name), "Body": b"sent", wrong.parameter: wrong.value}
    try:
        bucket.client.put_object(**parameters)
    except ClientError as error:
        if status_of(error) != HTTPStatus.BAD_REQUEST:
            raise
        return True
    return False


@contextlib.contextmanager
def _without_retries(bucket: Bucket) -> Iterator[Bucket]:
    """Yield the same bucket with a client of its own, unless its class makes clients as it likes.

    A configuration of boto3 belongs to a client, and cannot be given to a request.
    """
    if getattr(type(bucket.storage), "connection", None) is not S3Storage.connection:
        yield bucket
        return
    storage: Any = copy.copy(bucket.storage)  # the copy of an S3Storage has no connections yet
    storage.client_config = storage.client_config.merge(Config(retries={"total_max_attempts": 1}))
    once = Bucket(storage)
    client = once.client
    try:
        yield once
    finally:
        client.close()
