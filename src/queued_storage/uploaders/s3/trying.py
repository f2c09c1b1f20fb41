"""Write a small object to S3 in one attempt, to find out whether the bucket takes any."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from botocore.config import Config
from django.core.files.base import ContentFile
from storages.backends.s3 import S3Storage

from ...ledger.names import PROBE_NAME
from ...remotes.refusals_s3 import explained
from ..base import PROBE
from .bucket import Bucket


def write_probe(bucket: Bucket) -> None:
    """Write the object as ``save()`` would, and remove it.

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
