"""What an S3 server did in a test, so that not every file needs requests to find it out."""

import uuid
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from botocore.exceptions import BotoCoreError, ClientError
from django.core.files.storage import Storage

from ...files.localfiles import UNFINISHED_PREFIX
from ...reporting.logs import logger
from ...reporting.reasons import reason
from ...runtime.forks import ForkSafeLock
from .bucket import Bucket, S3Remote
from .checksums import ALGORITHMS, CRC32, sum_of

PROBE_AFTER = 20  # uploads of a process to a bucket; for fewer, a probe costs more than it saves
PROBE_AGAIN = 5000  # uploads after a probe that failed


@dataclass(frozen=True)
class Trust:
    """The result of a probe."""

    # The server refuses wrong checksums, and returns the correct one immediately. A response to a
    # PUT that contains the checksum then proves the object.
    checksums: bool = False
    conditions: bool = False  # an If-None-Match keeps an existing object


NONE = Trust()
Key = tuple[str | None, ...]  # of a server, a bucket and an algorithm
_known: dict[Key, Trust] = {}
_uploads: Counter[Key] = Counter()
_lock = ForkSafeLock()


def trust_in(storage: S3Remote, algorithm: str = CRC32) -> Trust:
    """Return what is known of the server and the algorithm, just before an upload.

    One of these calls probes the server. The others do not wait for it.
    """
    place = _place(storage, algorithm)
    if (known := _known.get(place)) is not None:
        return known
    with _lock:
        _uploads[place] += 1
        if _uploads[place] != PROBE_AFTER:
            return NONE
    try:
        _known[place] = _probe(storage, algorithm)
    except (BotoCoreError, ClientError) as error:
        logger.info(
            "The remote could not be probed for checksums: %s",
            reason(error, cast(Storage, storage)),
        )
        with _lock:
            _uploads[place] = PROBE_AFTER - PROBE_AGAIN
    return _known.get(place, NONE)


def expect_many(storage: S3Remote) -> None:
    """Let the next upload probe the server, since many are going to follow."""
    for algorithm in ALGORITHMS:
        place = _place(storage, algorithm)
        with _lock:
            if 0 <= _uploads[place] < PROBE_AFTER:
                _uploads[place] = PROBE_AFTER - 1


def known(storage: S3Remote, algorithm: str = CRC32) -> Trust:
    """Return what is known of the server and the algorithm, without a request."""
    return _known.get(_place(storage, algorithm), NONE)


def conditions_are_known(storage: S3Remote) -> bool:
    return any(known(storage, algorithm).conditions for algorithm in ALGORITHMS)


def _place(storage: S3Remote, algorithm: str) -> Key:
    endpoint, region = storage.endpoint_url, storage.region_name
    return endpoint, region, storage.bucket_name, storage.location, algorithm


def forget() -> None:
    """Forget everything, for tests."""
    _known.clear()
    _uploads.clear()


def _probe(storage: S3Remote, algorithm: str) -> Trust:
    name = f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
    data = name.encode()
    probe = _Probe(Bucket(storage), name, data)
    right, wrong = sum_of(algorithm, data), sum_of(algorithm, b"?")
    try:
        if not probe.is_refused(HTTPStatus.BAD_REQUEST, **{wrong.parameter: wrong.value}):
            return NONE
        condition = {right.parameter: right.value, "IfNoneMatch": "*"}
        if probe.is_refused(HTTPStatus.NOT_IMPLEMENTED, **condition):
            return NONE
        shows = probe.look(right.parameter) == (len(data), right.value)
        honours = probe.is_refused(HTTPStatus.PRECONDITION_FAILED, **condition)
        return Trust(shows, shows and honours)
    finally:
        probe.remove()


class _Probe:
    """A small object with a hidden name, stored in the same way as all others."""

    def __init__(self, bucket: Bucket, name: str, data: bytes) -> None:
        self._client = bucket.client
        self._place = bucket.place(name)
        self._parameters = bucket.parameters(name)
        self._parameters.pop("ChecksumAlgorithm", None)
        self._parameters.pop("ChecksumType", None)
        self._keys = bucket.customer_key(name)
        self._data = data

    def is_refused(self, status: int, **parameters: Any) -> bool:
        """Return whether the server responds with this status. Another error is raised."""
        try:
            self._client.put_object(
                **self._place, **{**self._parameters, **parameters}, Body=self._data
            )
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != status:
                raise
            return True
        return False

    def look(self, checksum: str) -> tuple[int, str]:
        head: Any = self._client.head_object(**self._place, **self._keys, ChecksumMode="ENABLED")
        return head["ContentLength"], head.get(checksum, "")

    def remove(self) -> None:
        try:
            self._client.delete_object(**self._place)
        except (BotoCoreError, ClientError) as error:
            logger.info("%r was not deleted from the remote: %s", self._place["Key"], reason(error))
