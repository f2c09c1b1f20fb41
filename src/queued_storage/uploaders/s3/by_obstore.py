"""Send small objects by ``obstore``, whose client is written in Rust.

boto3 sends the first object of a kind. obstore then sends the others to the same place, with all
headers of that request that define how the object is stored, and signed with the same credentials.

Only the checksum that S3 keeps for the object may differ. obstore can send SHA-256, but not CRC-32,
which boto3 sends by default. A storage that names no ``ChecksumAlgorithm`` leaves the choice to the
client, and S3 refuses damaged bytes with either, so obstore sends SHA-256. If a storage names
another algorithm, such as CRC-32, boto3 sends its objects.

boto3 also sends every object that obstore would store differently, or fails to send.
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
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote
from urllib.request import getproxies
from weakref import WeakKeyDictionary

import botocore.session
from botocore.exceptions import BotoCoreError
from storages.backends.s3 import S3Storage

from ...reporting.logs import logger
from ...reporting.reasons import reason
from ...runtime.forks import after_fork
from .bucket import Bucket, S3Remote
from .checksums import SHA256
from .small import SeenRequest, SmallObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import S3Credential

IS_INSTALLED = find_spec("obstore") is not None
REST = 100  # objects that boto3 sends after one that obstore did not send or prove
KINDS_MAX = 50  # per client, because each kind has its own connections
# Errors that other versions of boto3 or obstore may cause
UNEXPECTED = (AttributeError, BotoCoreError, ImportError, LookupError, TypeError, ValueError)

# Parameters of put_object() that obstore takes for each object: its names for them, the headers
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
# Headers that differ in each request, or do not change what is stored
NOT_KEPT = {
    *("accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization"),
    *("content-length", "content-md5", "date", "expect", "host", "if-none-match"),
    *("transfer-encoding", "user-agent", "x-amz-content-sha256", "x-amz-date"),
    "x-amz-security-token",
}
CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-")
SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=(.+)/\d{8}/([^/]+)/s3/aws4_request,")
# Environment variables that change obstore's requests, but not boto3's
VARIABLES = ("AWS_SERVER_SIDE", "AWS_SSE_", "AWS_PROXY_")

_is_cut_off = False  # whether this is a child of a process that imported obstore


def _after_fork() -> None:
    # The threads of obstore do not exist in the child, where its calls would never return.
    global _is_cut_off
    _is_cut_off = "obstore" in sys.modules


after_fork(_after_fork)


class Outcome(enum.Enum):
    """The result of sending an object."""

    NOT_SENT = enum.auto()  # boto3 must send it
    FAILED = enum.auto()  # boto3 must send it, although the server may have stored it
    SENT = enum.auto()  # the server accepted it, but the response does not prove what it stored
    PROVED = enum.auto()  # the server stored these bytes


def can_send(algorithm: str | None) -> bool:
    """Return whether this process can use obstore for a storage that names this algorithm."""
    # A call of obstore would block all cooperative threads, such as those of gevent.
    is_cooperative = socket.socket.__module__ != "socket"
    return IS_INSTALLED and algorithm in (None, SHA256) and not _is_cut_off and not is_cooperative


class _Own(threading.local):
    """The substitutes of this thread: S3Storage has one client per thread."""

    def __init__(self) -> None:
        self.of_clients: Substitutes = WeakKeyDictionary()


Substitutes = WeakKeyDictionary[Any, "Substitute | None"]
_own = _Own()
_of_storages: Substitutes = WeakKeyDictionary()


def substitute_for(bucket: Bucket) -> "Substitute | None":
    """Return what can send instead of the client of this thread, or None if it would connect
    differently.

    Threads have it in common if their clients are alike, so that only one of them needs a client:
    to make one takes as long as to send a hundred objects.
    """
    storage: Any = bucket.storage
    is_shared = has_equal_clients(storage)
    known, key = (_of_storages, storage) if is_shared else (_own.of_clients, bucket.client)
    if key not in known:
        is_able = connects_as_usual(storage, bucket.client)
        known.setdefault(key, Substitute(bucket.client) if is_able else None)
    return known[key]


def has_equal_clients(storage: Any) -> bool:
    """Return whether all clients of a storage are alike: a method of a subclass may make them
    depend on the thread."""
    return _has_no_methods_of_its_own(cast(Any, type(storage)))


@lru_cache(100)
def _has_no_methods_of_its_own(cls: type) -> bool:
    return not any(
        hasattr(attribute, "__get__") and not name.startswith("__")
        for each in cls.__mro__
        if not issubclass(S3Storage, each)
        for name, attribute in vars(each).items()
    )


class Substitute:
    """Sends small objects instead of one client of boto3, if that has sent one of their kind."""

    def __init__(self, client: "S3Client") -> None:
        self._config = client.meta.config
        self._kinds: dict[str, Sender | None] = {}  # None for a kind that boto3 must send

    def send(self, what: SmallObject) -> Outcome:
        sender = self._kinds.get(kind_of(what))
        return sender.send(what) if sender else Outcome.NOT_SENT

    def learn(self, what: SmallObject, request: SeenRequest) -> None:
        """Record how boto3 sent this object, if it is the first of its kind."""
        kind = kind_of(what)
        is_first = kind not in self._kinds and len(self._kinds) < KINDS_MAX
        if is_first and attributes_of(what) is not None:
            try:
                self._kinds[kind] = self._sender(what, request)
            except UNEXPECTED as error:
                logger.info("Small files are uploaded without obstore: %s", reason(error))
                self._kinds[kind] = None

    def _sender(self, what: SmallObject, request: SeenRequest) -> "Sender | None":
        """Return a sender of this kind, or None if obstore would send another request."""
        headers = request.plain_headers()
        scope = SCOPE.match(headers.get("authorization", ""))
        suffix = f"/{quote(what.key)}"
        if not scope or not request.url.endswith(suffix):
            return None
        kept = {
            name: value
            for name, value in headers.items()
            if name not in NOT_KEPT and not name.startswith(CHECKSUMS)
        }
        of_object = {name: kept.pop(name) for name in sorted(kept) if _is_of_object(name)}
        credentials = Credentials(request)
        is_same = (
            of_object == headers_of(what)
            and all(map(_is_sent_as_is, kept.values()))
            and credentials()["access_key_id"] == scope[1]
        )
        place = request.url.removesuffix(suffix)  # includes the bucket, in its host or path
        return Sender(place, scope[2], kept, credentials, self._config) if is_same else None


def kind_of(what: SmallObject) -> str:
    """Return the kind: its objects differ in key, bytes and attributes only."""
    common = {
        name: value
        for name, value in what.parameters.items()
        if name != "Metadata" and name not in ATTRIBUTES
    }
    return repr((what.bucket, sorted(common.items())))


def attributes_of(what: SmallObject) -> dict[str, str] | None:
    """Return obstore's attributes of one object, or None if it would send other headers."""
    given = {
        attribute: what.parameters[name]
        for name, (attribute, _header) in ATTRIBUTES.items()
        if name in what.parameters
    }
    metadata = what.parameters.get("Metadata", {})
    is_plain = (
        "Content-Type" in given
        and all(map(_is_sent_as_is, (*given.values(), *metadata, *metadata.values())))
        and RESERVED.isdisjoint(map(str.lower, metadata))
    )
    return {**given, **metadata} if is_plain else None


def headers_of(what: SmallObject) -> dict[str, str]:
    """Return the headers that boto3 makes of the same parameters."""
    metadata = what.parameters.get("Metadata", {})
    return {
        header: what.parameters[name]
        for name, (_attribute, header) in ATTRIBUTES.items()
        if name in what.parameters
    } | {f"{METADATA}{name.lower()}": value for name, value in metadata.items()}


def _is_of_object(header: str) -> bool:
    return header.startswith(METADATA) or any(header == each for _a, each in ATTRIBUTES.values())


def _is_sent_as_is(value: Any) -> bool:
    """Return whether all clients send this text unchanged. Spaces and non-ASCII may be changed."""
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
        # Imported late, because children of a process that has imported it cannot use it.
        from obstore import put
        from obstore.exceptions import AlreadyExistsError, BaseError

        self._put = put
        self._is_there: type[Exception] = AlreadyExistsError
        # The exception by which a queue enforces a time limit is not among them.
        self._failures = (BaseError, OSError, TypeError, ValueError)
        self._options = (place, region, headers, credentials, config)
        self._store: Any = None  # created on first use, because many kinds have only one object
        self._rest = 0

    def send(self, what: SmallObject) -> Outcome:
        """Send an object, with a single attempt."""
        attributes = attributes_of(what)
        if attributes is None or not is_ready_for(what.key):
            return Outcome.NOT_SENT
        if self._rest:
            self._rest -= 1
            return Outcome.NOT_SENT
        try:
            self._store = self._store or store_at(*self._options)
            answer = self._put(
                self._store,
                what.key,
                what.data,
                attributes=attributes,
                mode="create" if what.is_new else "overwrite",
                use_multipart=False,
            )
        except self._is_there:
            return Outcome.NOT_SENT  # boto3 reports it
        except self._failures:
            self._rest = REST
            return Outcome.FAILED
        md5 = hashlib.md5(what.data, usedforsecurity=False).hexdigest()
        if (answer["e_tag"] or "").strip('"') == md5:
            return Outcome.PROVED
        self._rest = REST  # objects are encrypted; a response to boto3 contains the checksum
        return Outcome.SENT


def is_ready_for(key: str) -> bool:
    """Return whether obstore keeps the key unchanged. It would drop an empty part."""
    return all(key.split("/")) and key.isprintable()


class Credentials:
    """Returns the current credentials of boto3's client."""

    LIFE = timedelta(minutes=6)  # obstore calls again after a minute; boto3 refreshes in time

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


def connects_as_usual(storage: S3Remote, client: "S3Client") -> bool:
    """Return whether obstore would connect in the same way as the storage's client."""
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
    """Return whether the client verifies certificates, with the default authorities only."""
    if storage.verify is not None:
        return storage.verify is True
    profile = botocore.session.Session(profile=storage.session_profile)
    has_bundle = profile.get_config_variable("ca_bundle") or "REQUESTS_CA_BUNDLE" in os.environ
    return not has_bundle


def _timeouts(config: Any) -> tuple[Any, Any]:
    return config.connect_timeout, config.read_timeout


def store_at(
    place: str, region: str, headers: Mapping[str, str], credentials: Credentials, config: Any
) -> Any:
    """Return obstore's store of a bucket, which is named in the host or path of ``place``."""
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
            # Environment variables would change these.
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
