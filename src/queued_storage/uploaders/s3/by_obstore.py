"""Send small objects by ``obstore``, whose client is written in Rust.

boto3 sends the first object of a kind. obstore then sends the others to the same place, with every
header of that request that says how the object is stored, and signed with the same credentials.

The one difference is the checksum that S3 keeps beside the object. obstore can send SHA-256, but
not CRC-32, which boto3 sends unless the storage names an algorithm. A storage that names none
leaves the choice to whoever sends, and S3 refuses damaged bytes by either, so its objects are sent
with SHA-256. A storage that names any other algorithm, CRC-32 among them, gets it from boto3.

boto3 also sends whatever obstore would send in another way, or fails to send.
"""

import enum
import hashlib
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies
from weakref import WeakKeyDictionary

import botocore.session
from botocore.exceptions import BotoCoreError
from botocore.utils import percent_encode
from storages.backends.s3 import S3Storage

from ...reporting.logs import logger
from ...reporting.reasons import reason
from .bucket import S3Remote
from .checksums import SHA256
from .small import SeenRequest, SmallObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import S3Credential

IS_INSTALLED = find_spec("obstore") is not None
REST = 100  # objects that boto3 sends after one that obstore failed to send, or to prove
KINDS_MAX = 50  # of a client: each has connections of its own
# What another version of boto3 or obstore may lead to
UNEXPECTED = (AttributeError, BotoCoreError, ImportError, LookupError, TypeError, ValueError)

# Parameters of put_object() that obstore sends along with an object, and their headers
ATTRIBUTES = {
    "CacheControl": ("Cache-Control", "cache-control"),
    "ContentDisposition": ("Content-Disposition", "content-disposition"),
    "ContentEncoding": ("Content-Encoding", "content-encoding"),
    "ContentLanguage": ("Content-Language", "content-language"),
    "ContentType": ("Content-Type", "content-type"),
    "StorageClass": ("Storage-Class", "x-amz-storage-class"),
}
METADATA = "x-amz-meta-"
RESERVED = {attribute.lower() for attribute, _header in ATTRIBUTES.values()}
# Headers that are made for each request anew, or do not change what is stored
NOT_KEPT = {
    *("accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization"),
    *("content-length", "content-md5", "date", "expect", "host", "if-none-match"),
    *("transfer-encoding", "user-agent", "x-amz-content-sha256", "x-amz-date"),
    "x-amz-security-token",
}
CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-")
SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=(.+)/\d{8}/([^/]+)/s3/aws4_request,")
# Variables of the environment that change obstore's requests, but not boto3's
VARIABLES = ("AWS_SERVER_SIDE", "AWS_SSE_", "AWS_PROXY_")

_is_cut_off = False  # in a child whose parent has loaded obstore, whose threads it lacks


def _after_fork() -> None:
    global _is_cut_off
    _is_cut_off = "obstore" in sys.modules


os.register_at_fork(after_in_child=_after_fork)


class Outcome(enum.Enum):
    """What became of an object."""

    NOT_SENT = enum.auto()  # boto3 has to send it
    SENT = enum.auto()  # the server took it, but the answer does not say what it stored
    PROVED = enum.auto()  # the server has stored these bytes


def can_send(algorithm: str | None) -> bool:
    """Whether obstore can be used in this process, for a storage that names this algorithm."""
    # With cooperative threads, such as those of gevent, a call of obstore would stop all of them.
    is_cooperative = socket.socket.__module__ != "socket"
    return IS_INSTALLED and algorithm in (None, SHA256) and not _is_cut_off and not is_cooperative


class _Own(threading.local):
    """The substitutes of this thread. A client belongs to one thread, as in S3Storage."""

    def __init__(self) -> None:
        self.substitutes: WeakKeyDictionary[Any, Substitute | None] = WeakKeyDictionary()


_own = _Own()


def substitute_for(storage: S3Remote, client: "S3Client") -> "Substitute | None":
    """What sends in place of this client; None if it would connect in another way."""
    if client not in _own.substitutes:
        is_able = _connects_as_usual(storage, client)
        _own.substitutes[client] = Substitute(client) if is_able else None
    return _own.substitutes[client]


class Substitute:
    """Sends small objects in place of one client of boto3, once it has seen one of their kind."""

    def __init__(self, client: "S3Client") -> None:
        self._config = client.meta.config
        self._kinds: dict[str, Sender | None] = {}  # None if boto3 has to send them all

    def send(self, what: SmallObject) -> Outcome:
        sender = self._kinds.get(kind_of(what))
        return sender.send(what) if sender else Outcome.NOT_SENT

    def learn(self, what: SmallObject, request: SeenRequest) -> None:
        """Note how boto3 has sent this object, if it is the first of its kind."""
        kind = kind_of(what)
        is_news = kind not in self._kinds and len(self._kinds) < KINDS_MAX
        if is_news and attributes_of(what) is not None:
            try:
                self._kinds[kind] = self._sender(what, request)
            except UNEXPECTED as error:
                logger.info("Small files are sent without obstore: %s", reason(error))
                self._kinds[kind] = None

    def _sender(self, what: SmallObject, request: SeenRequest) -> "Sender | None":
        """What can send objects of this kind; None if obstore would send another request."""
        headers = request.plain_headers()
        scope = SCOPE.match(headers.get("authorization", ""))
        suffix = f"/{percent_encode(what.key, safe='/~')}"
        if not scope or not request.url.endswith(suffix):
            return None
        kept = {
            name: value
            for name, value in headers.items()
            if name not in NOT_KEPT and not name.startswith(CHECKSUMS)
        }
        of_object = {name: kept.pop(name) for name in sorted(kept) if _is_of_object(name)}
        credentials = Credentials(request)
        is_alike = (
            of_object == headers_of(what)
            and all(map(_is_sent_as_is, kept.values()))
            and credentials()["access_key_id"] == scope[1]
        )
        place = request.url.removesuffix(suffix)  # with the bucket, wherever that stands in it
        return Sender(place, scope[2], kept, credentials, self._config) if is_alike else None


def kind_of(what: SmallObject) -> str:
    """Objects of one kind differ in nothing but key, bytes and attributes."""
    common = {
        name: value
        for name, value in what.parameters.items()
        if name != "Metadata" and name not in ATTRIBUTES
    }
    return repr((what.bucket, sorted(common.items())))


def attributes_of(what: SmallObject) -> dict[str, str] | None:
    """What obstore is told of one object; None if that cannot be told."""
    given = {
        attribute: what.parameters[name]
        for name, (attribute, _header) in ATTRIBUTES.items()
        if name in what.parameters
    }
    metadata = what.parameters.get("Metadata", {})
    is_plain = (
        "Content-Type" in given
        and RESERVED.isdisjoint(map(str.lower, metadata))
        and all(map(_is_sent_as_is, (*given.values(), *metadata, *metadata.values())))
    )
    return {**given, **metadata} if is_plain else None


def headers_of(what: SmallObject) -> dict[str, str]:
    """The headers that boto3 makes of the same."""
    metadata = what.parameters.get("Metadata", {})
    return {
        header: what.parameters[name]
        for name, (_attribute, header) in ATTRIBUTES.items()
        if name in what.parameters
    } | {f"{METADATA}{name.lower()}": value for name, value in metadata.items()}


def _is_of_object(header: str) -> bool:
    return header.startswith(METADATA) or any(header == each for _a, each in ATTRIBUTES.values())


def _is_sent_as_is(value: Any) -> bool:
    """Whether no client changes it: in spaces at its ends, say, or in what is not ASCII."""
    return (
        isinstance(value, str)
        and value.isascii()
        and value.isprintable()
        and value == " ".join(value.split())
        and value != ""
    )


class Sender:
    """Sends the objects of one kind."""

    def __init__(
        self,
        place: str,
        region: str,
        headers: Mapping[str, str],
        credentials: "Credentials",
        config: Any,
    ) -> None:
        # Imported here: what forks after that has children that cannot use it.
        from obstore import put
        from obstore.exceptions import AlreadyExistsError, BaseError

        self._put = put
        self._is_there: type[Exception] = AlreadyExistsError
        self._failures = (BaseError, OSError, TypeError, ValueError)  # not a queue's time limit
        self._options = (place, region, headers, credentials, config)
        self._store: Any = None  # made when it is needed: some kinds have one object only
        self._rest = 0

    def send(self, what: SmallObject) -> Outcome:
        """Send an object once; obstore repeats nothing."""
        attributes = attributes_of(what)
        if attributes is None or not is_ready_for(what.key):
            return Outcome.NOT_SENT
        if self._rest:
            self._rest -= 1
            return Outcome.NOT_SENT
        try:
            self._store = self._store or _store(*self._options)
            answer = self._put(
                self._store,
                what.key,
                what.data,
                attributes=attributes,
                mode="create" if what.is_new else "overwrite",
                use_multipart=False,
            )
        except self._is_there:
            return Outcome.NOT_SENT  # boto3 finds the same, and says so
        except self._failures:
            self._rest = REST
            return Outcome.NOT_SENT
        md5 = hashlib.md5(what.data, usedforsecurity=False).hexdigest()
        if (answer["e_tag"] or "").strip('"') == md5:
            return Outcome.PROVED
        self._rest = REST  # the server encrypts; its answers to boto3 repeat the checksum
        return Outcome.SENT


def is_ready_for(key: str) -> bool:
    """Whether obstore sends the key as it is. It would drop an empty part of it."""
    return all(key.split("/")) and key.isprintable()


class Credentials:
    """The credentials that boto3's client has at the moment."""

    LIFE = timedelta(minutes=6)  # obstore asks again after one of them; boto3 renews them earlier

    def __init__(self, request: SeenRequest) -> None:
        self._signer = request.signer
        self._signing = request.signing

    def __call__(self) -> "S3Credential":
        found = self._signer.get_auth_instance(*self._signing).credentials
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + self.LIFE,
        }


def _connects_as_usual(storage: S3Remote, client: "S3Client") -> bool:
    """Whether obstore would connect as the storage's client does."""
    config: Any = client.meta.config
    has_own_client = getattr(type(storage), "connection", None) is not S3Storage.connection
    has_own_network = config.proxies or config.client_cert or getproxies().keys() - {"no"}
    return not (
        has_own_client
        or has_own_network
        or (client.meta.endpoint_url.startswith("https:") and not _has_usual_roots(storage))
        or any(name.upper().startswith(VARIABLES) for name in os.environ)
        or not all(isinstance(each, int | float) for each in _timeouts(config))
    )


def _has_usual_roots(storage: S3Remote) -> bool:
    """Whether the client trusts the certificates that are trusted everywhere, and no others."""
    if storage.verify is not None:
        return storage.verify is True
    profile = botocore.session.Session(profile=storage.session_profile)
    has_bundle = profile.get_config_variable("ca_bundle") or "REQUESTS_CA_BUNDLE" in os.environ
    return not has_bundle


def _timeouts(config: Any) -> tuple[Any, Any]:
    return config.connect_timeout, config.read_timeout


def _store(
    place: str, region: str, headers: Mapping[str, str], credentials: Credentials, config: Any
) -> Any:
    from obstore.store import S3Store

    connect, read = (timedelta(seconds=each) for each in _timeouts(config))
    return S3Store(
        "-",
        config={
            "endpoint": place,
            "aws_endpoint_url_s3": place,
            "virtual_hosted_style_request": True,
            "region": region,
            "checksum_algorithm": SHA256,
            "conditional_put": "etag",
            # Variables of the environment could say otherwise.
            "request_payer": False,
            "s3_express": False,
            "skip_signature": False,
            "unsigned_payload": False,
        },
        client_options={
            "allow_http": place.startswith("http://"),
            "allow_invalid_certificates": False,
            "connect_timeout": connect,
            "default_headers": dict(headers),
            "http1_only": True,
            "read_timeout": read,
            "timeout": connect + read,
        },
        retry_config={"max_retries": 0},
        credential_provider=credentials,
    )
