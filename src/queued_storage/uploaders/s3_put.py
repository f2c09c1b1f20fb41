"""Sends small objects to S3 in one request each, made once by boto3 and signed anew for each."""

import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import HTTPClientError
from botocore.utils import percent_encode

from .s3_fast import Sender
from .s3_sums import Sum

TEMPLATES_MAX = 50  # of a thread and client: as many different sets of parameters
KEPT = ("client_config", "has_streaming_input", "checksum")  # what the signing looks at
_EVENT = "before-sign.s3.PutObject"


class Template(NamedTuple):
    """A request as boto3 made it, of which only key, bytes and checksum change."""

    base: str  # of the URL, up to the key
    headers: dict[str, str]
    context: dict[str, Any]
    signer: Any
    signing: tuple[str, str, str]  # name, region, version
    sender: Sender | None = None  # what else can send it

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")


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
    kind: str,
    sender: Callable[[Template, Sum], Sender | None] = lambda *args: None,
) -> str:
    """The same in less time. ``kind`` tells apart what else the client's own events make of the
    parameters; ``sender`` finds what else can send such a request.

    Most of what ``put_object`` takes is the making of a request that looks like the last one, so
    only the first of a kind is made. One that is not answered with success is left to
    ``put_object``, to repeat it and to say why.
    """
    templates = _templates(client)
    described = [kind, what.bucket, what.checksum.algorithm, what.parameters]
    kind = json.dumps(described, sort_keys=True, default=repr)
    if (template := templates.get(kind)) and (
        answered := _send(client, template, what)
    ) is not None:
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


def _send(client: Any, template: Template, what: Outgoing) -> str | None:
    """One try; None if it was not a success."""
    if template.sender and template.sender.is_ready(what.key):
        return template.sender.send(what.key, what.data, template.content_type, what.checksum)
    request = AWSRequest(
        method="PUT",
        url=template.base + what.quoted_key,
        headers={**template.headers, what.checksum.header: what.checksum.value},
        data=what.data,
    )
    request.context = dict(template.context)
    template.signer.get_auth_instance(*template.signing).add_auth(request)
    try:
        answer = client._endpoint.http_session.send(request.prepare())
    except HTTPClientError:
        return None
    if answer.status_code != HTTPStatus.OK:
        return None
    return str(answer.headers.get(what.checksum.header, ""))


class _Watch:
    """Looks on while boto3 makes a request of a client that belongs to this thread."""

    def __init__(self, client: Any, what: Outgoing) -> None:
        self._events = client.meta.events
        self._can_send = hasattr(client, "_endpoint")
        self._key = what.quoted_key
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
        signing = (signing_name, region_name, signature_version)
        auth = request_signer.get_auth_instance(*signing)
        is_plain = type(auth) is S3SigV4Auth and request.url.endswith(f"/{self._key}")
        self.template = None
        if is_plain and self._can_send and not request.params:
            # Without "Expect: 100-continue", which is another way to the server and back.
            headers = {
                name: value.decode() if isinstance(value, bytes) else str(value)
                for name, value in request.headers.items()
                if name.lower() != "expect"
            }
            base = request.url.removesuffix(self._key)
            context = {name: request.context[name] for name in KEPT if name in request.context}
            self.template = Template(base, headers, context, request_signer, signing)
