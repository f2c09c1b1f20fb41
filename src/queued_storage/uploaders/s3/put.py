"""Sends small objects to S3 in one request each, made once by boto3 and signed anew for each."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.utils import percent_encode
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError

from .by_obstore import Sender
from .checksums import Sum
from .signing import Signing

TEMPLATES_MAX = 50  # of a thread and client: as many different sets of parameters
KEPT = ("client_config", "has_streaming_input", "checksum")  # what the signing looks at
_EVENT = "before-sign.s3.PutObject"


class Template(NamedTuple):
    """A request as boto3 made it, of which only key, bytes and checksum change."""

    pool: HTTPConnectionPool
    base: str  # of the URL, up to the key
    path: str  # its part that begins after the host
    headers: dict[str, str]  # as boto3 made them, with small letters
    sign: Signing
    signer: Any
    signing: tuple[str, str, str]  # name, region, version
    sender: Sender | None = None  # what else can send it

    @property
    def auth(self) -> Any:
        """What signs it, with the credentials of this moment."""
        return self.signer.get_auth_instance(*self.signing)

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")


_local = threading.local()


class Outgoing(NamedTuple):
    """An object to be stored, with no checksum in its parameters."""

    bucket: str
    key: str
    data: bytes
    checksum: Sum
    parameters: Mapping[str, Any]

    @property
    def quoted_key(self) -> str:
        return str(percent_encode(self.key, safe="/~"))


def put_plainly(client: Any, what: Outgoing) -> str:
    """Store an object; returns the checksum that the server answers with, or ""."""
    checksum = {what.checksum.parameter: what.checksum.value}
    answer = client.put_object(
        Bucket=what.bucket, Key=what.key, Body=what.data, **{**what.parameters, **checksum}
    )
    return str(answer.get(what.checksum.parameter, ""))


def put(
    client: Any,
    what: Outgoing,
    sender: Callable[[Template, Sum], Sender | None] = lambda *args: None,
) -> str:
    """The same in less time. ``sender`` finds what else can send such a request.

    Most of what ``put_object`` takes is the making of a request that looks like the last one, so
    only the first of a kind is made. One that is not answered with success is left to
    ``put_object``, to repeat it and to say why.
    """
    templates = _templates(client)
    kind = repr((what.bucket, what.checksum.algorithm, sorted(what.parameters.items())))
    if (template := templates.get(kind)) and (answered := _send(template, what)) is not None:
        return answered
    with _Watch(client, what) as watch:
        answered = put_plainly(client, what)
    if watch.template and len(templates) < TEMPLATES_MAX:
        templates[kind] = watch.template._replace(sender=sender(watch.template, what.checksum))
    return answered


def _templates(client: Any) -> dict[str, Template]:
    if not hasattr(_local, "by_client"):
        _local.by_client = WeakKeyDictionary()
    by_client: WeakKeyDictionary[Any, dict[str, Template]] = _local.by_client
    return by_client.setdefault(client, {})


def _send(template: Template, what: Outgoing) -> str | None:
    """One try; None if it was not a success."""
    if template.sender and template.sender.is_ready(what.key):
        return template.sender.send(what.key, what.data, template.content_type, what.checksum)
    path = template.path + what.quoted_key
    changed = {what.checksum.header: what.checksum.value}
    try:
        signed = template.sign.headers(template.auth, path, what.data, changed)
        headers = template.headers | signed
        answer = template.pool.urlopen("PUT", path, what.data, headers, retries=False)
    except (HTTPError, ValueError):
        return None
    if answer.status != HTTPStatus.OK:
        return None
    return str(answer.headers.get(what.checksum.header, ""))


class _Watch:
    """Looks on while boto3 makes a request of a client that belongs to this thread."""

    def __init__(self, client: Any, what: Outgoing) -> None:
        self._events = client.meta.events
        self._session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._key = what.quoted_key
        self._data = what.data
        self.template: Template | None = None

    def __enter__(self) -> "_Watch":
        self._events.register_last(_EVENT, self._look)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._events.unregister(_EVENT, self._look)

    def _look(
        self,
        request: Any,
        signing_name: str,
        region_name: str,
        signature_version: str,
        request_signer: Any,
        **kwargs: Any,
    ) -> None:
        names = (signing_name, region_name, signature_version)
        auth = request_signer.get_auth_instance(*names)
        is_plain = type(auth) is S3SigV4Auth and request.url.endswith(f"/{self._key}")
        self.template = None
        if not is_plain or request.params:
            return
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
            if name.lower() != "expect"  # which is another way to the server and back
        }
        again = AWSRequest("PUT", request.url, headers, self._data)
        again.context = {name: request.context[name] for name in KEPT if name in request.context}
        with contextlib.suppress(Exception):  # of another boto3; all is then left to put_object()
            sign = Signing(auth, again)
            base = request.url.removesuffix(self._key)
            pool, path = _pool(self._session, base), urlsplit(base).path
            self.template = Template(pool, base, path, headers, sign, request_signer, names)


def _pool(session: Any, url: str) -> HTTPConnectionPool:
    """The connections that this session of botocore's has to the host."""
    if session._proxy_config.proxy_url_for(url):
        raise ValueError("It goes by a proxy.")
    pool: HTTPConnectionPool = session._get_connection_manager(url, None).connection_from_url(url)
    session._setup_ssl_cert(pool, url, session._verify)
    return pool
