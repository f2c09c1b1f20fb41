"""What an S3 server was seen to do, so that it need not be asked about every file."""

import os
import threading
import uuid
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ...files.localfiles import UNFINISHED_PREFIX
from ...reporting.logs import logger
from ...reporting.reasons import reason
from .checksums import ALGORITHMS, CRC32, sum_of

PROBE_AFTER = 20  # uploads of a process to a bucket: a few do not pay for the questions
PROBE_AGAIN = 5000  # uploads after questions that were not answered


@dataclass(frozen=True)
class Trust:
    """Where both are true, the answer to a PUT that repeats its checksum proves the object."""

    checksums: bool = False  # it refuses wrong ones, and shows at once what it has taken
    conditions: bool = False  # it leaves an object alone that is there already


NONE = Trust()
_known: dict[Any, Trust] = {}
_uploads: Counter[Any] = Counter()
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one


os.register_at_fork(after_in_child=_after_fork)


def trust_in(s3: Any, algorithm: str = CRC32) -> Trust:
    """What is known of the server of this storage, and of such checksums. The caller is about to
    send it something, and may have to ask it a few questions first; the others go on meanwhile."""
    place = _place(s3, algorithm)
    if (known := _known.get(place)) is not None:
        return known
    with _lock:
        _uploads[place] += 1
        if _uploads[place] != PROBE_AFTER:
            return NONE
    try:
        _known[place] = _probe(s3, algorithm)
    except (BotoCoreError, ClientError) as error:
        logger.info("What the remote does with checksums is not known: %s", reason(error, s3))
        with _lock:
            _uploads[place] = PROBE_AFTER - PROBE_AGAIN
    return _known.get(place, NONE)


def known(s3: Any, algorithm: str = CRC32) -> Trust:
    """The same, without a question."""
    return _known.get(_place(s3, algorithm), NONE)


def conditions_are_known(s3: Any) -> bool:
    return any(known(s3, algorithm).conditions for algorithm in ALGORITHMS)


def _place(s3: Any, algorithm: str) -> tuple[str | None, ...]:
    return s3.endpoint_url, s3.region_name, s3.bucket_name, s3.location, algorithm


def forget() -> None:
    """Ask anew."""
    _known.clear()
    _uploads.clear()


def _probe(s3: Any, algorithm: str) -> Trust:
    name = f"{UNFINISHED_PREFIX}{uuid.uuid4().hex}"
    data = name.encode()
    probe = _Probe(s3, name, data)
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
    """An object under a hidden name, sent as all others are."""

    def __init__(self, s3: Any, name: str, data: bytes) -> None:
        self._client = s3.connection.meta.client
        self._place = {"Bucket": s3.bucket_name, "Key": s3._normalize_name(name)}
        self._parameters = s3._get_write_parameters(name)
        self._parameters.pop("ChecksumAlgorithm", None)
        self._keys = {
            key: value for key, value in self._parameters.items() if key.startswith("SSECustomer")
        }
        self._data = data

    def is_refused(self, status: int, **parameters: Any) -> bool:
        """Whether it is, with this status; any other error says nothing."""
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
        head = self._client.head_object(**self._place, **self._keys, ChecksumMode="ENABLED")
        return head["ContentLength"], head.get(checksum, "")

    def remove(self) -> None:
        try:
            self._client.delete_object(**self._place)
        except (BotoCoreError, ClientError) as error:
            logger.info("%r is left on the remote: %s", self._place["Key"], reason(error))
