"""Send a small object to S3 in one request, from memory."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .checksums import Sum

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LIMIT = 1024 * 1024  # bytes; a file of this size or less is small


@dataclass(frozen=True)
class SmallObject:
    """An object to be stored."""

    bucket: str
    key: str
    data: bytes = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)  # the others of put_object()
    is_new: bool = False  # store it only if the key does not exist


@dataclass
class SeenRequest:
    """A request that boto3 has sent."""

    url: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    signer: Any = None  # a botocore.signers.RequestSigner
    signing: tuple[str, str, str] = ("", "", "")  # service, region, version

    def plain_headers(self) -> dict[str, str]:
        """Return the headers as text, with lowercase names."""
        return {
            name.lower(): value.decode() if isinstance(value, bytes) else str(value)
            for name, value in self.headers.items()
        }


@dataclass(frozen=True)
class Answer:
    checksum: str  # the one in the response, or ""
    request: SeenRequest


def put_object(client: "S3Client", what: SmallObject, checksum: Sum | None) -> Answer:
    """Store an object with its checksum, if one is given, by ``client.put_object()``."""
    parameters = dict(what.parameters)
    if checksum:
        parameters[checksum.parameter] = checksum.value
    if what.is_new:
        parameters["IfNoneMatch"] = "*"
    with Watch(client, "PutObject") as request:
        answer: Mapping[str, Any] = client.put_object(
            Bucket=what.bucket, Key=what.key, Body=what.data, **parameters
        )
    found = answer.get(checksum.parameter, "") if checksum else ""
    return Answer(str(found), request)


class _Own(threading.local):
    """The state of this thread."""

    def __init__(self) -> None:
        self.request: SeenRequest | None = None  # the one in whose block the thread is
        # Clients whose events are handled, by operation
        self.watched: dict[str, WeakSet[Any]] = defaultdict(WeakSet)


_own = _Own()


class Watch:
    """Observes one request through the client's events.

    The handlers stay registered, because registering them is slow. They ignore requests that the
    project itself sends with this client.
    """

    def __init__(self, client: "S3Client", operation: str) -> None:
        if client not in _own.watched[operation]:
            events = client.meta.events
            sign, send = f"before-sign.s3.{operation}", f"before-send.s3.{operation}"
            events.register_last(sign, _before_sign, unique_id=f"queued-storage.{sign}")
            events.register_last(send, _before_send, unique_id=f"queued-storage.{send}")
            _own.watched[operation].add(client)

    def __enter__(self) -> SeenRequest:
        _own.request = SeenRequest()
        return _own.request

    def __exit__(self, *exc_info: object) -> None:
        _own.request = None


def _before_sign(
    request: Any,
    signing_name: str,
    region_name: str,
    signature_version: str,
    request_signer: Any,
    **kwargs: Any,
) -> None:
    if _own.request is not None:
        # Waiting for the server's "100 Continue" would take another round trip.
        if "Expect" in request.headers:
            del request.headers["Expect"]
        _own.request.signer = request_signer
        _own.request.signing = (signing_name, region_name, signature_version)


def _before_send(request: Any, **kwargs: Any) -> None:
    if _own.request is not None:
        _own.request.url = request.url
        _own.request.headers = request.headers
