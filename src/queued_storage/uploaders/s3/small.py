"""Send a small object to S3 in one request, from memory."""

import threading
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
    parameters: Mapping[str, Any] = field(repr=False)  # of put_object(), but for those above
    is_new: bool = False  # store it only if there is no object with this key


@dataclass
class SeenRequest:
    """A request as boto3 has sent it."""

    url: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    signer: Any = None  # a botocore.signers.RequestSigner
    signing: tuple[str, str, str] = ("", "", "")  # service, region, version

    def plain_headers(self) -> dict[str, str]:
        """The headers as text, with their names in small letters."""
        return {
            name.lower(): value.decode() if isinstance(value, bytes) else str(value)
            for name, value in self.headers.items()
        }


@dataclass(frozen=True)
class Answer:
    checksum: str  # as the server repeats it, or ""
    request: SeenRequest


def put_object(client: "S3Client", what: SmallObject, checksum: Sum) -> Answer:
    """Store an object by ``client.put_object()``, along with its checksum."""
    parameters = {**what.parameters, checksum.parameter: checksum.value}
    if what.is_new:
        parameters["IfNoneMatch"] = "*"
    with _Watch(client) as request:
        answer: Mapping[str, Any] = client.put_object(
            Bucket=what.bucket, Key=what.key, Body=what.data, **parameters
        )
    return Answer(str(answer.get(checksum.parameter, "")), request)


class _Own(threading.local):
    """What this thread does."""

    def __init__(self) -> None:
        self.request: SeenRequest | None = None  # which put_object() above makes
        self.watched: WeakSet[Any] = WeakSet()  # clients whose events are handled


_own = _Own()


class _Watch:
    """Follows one request by the events of the client that sends it.

    The handlers stay registered: to register them anew for each request takes longer than to sign
    it. They leave alone what the project sends with this client.
    """

    def __init__(self, client: "S3Client") -> None:
        if client not in _own.watched:
            events = client.meta.events
            events.register_last(_SIGN, _before_sign, unique_id=f"queued-storage.{_SIGN}")
            events.register_last(_SEND, _before_send, unique_id=f"queued-storage.{_SEND}")
            _own.watched.add(client)

    def __enter__(self) -> SeenRequest:
        _own.request = SeenRequest()
        return _own.request

    def __exit__(self, *exc_info: object) -> None:
        _own.request = None


_SIGN = "before-sign.s3.PutObject"
_SEND = "before-send.s3.PutObject"


def _before_sign(
    request: Any,
    signing_name: str,
    region_name: str,
    signature_version: str,
    request_signer: Any,
    **kwargs: Any,
) -> None:
    if _own.request is not None:
        # boto3 would wait for the server's leave to send the body: another round trip.
        if "Expect" in request.headers:
            del request.headers["Expect"]
        _own.request.signer = request_signer
        _own.request.signing = (signing_name, region_name, signature_version)


def _before_send(request: Any, **kwargs: Any) -> None:
    if _own.request is not None:
        _own.request.url = request.url
        _own.request.headers = request.headers
