"""Sends small objects to S3 in one request each, made once by boto3 and signed anew for each."""

import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import HTTPClientError
from botocore.utils import percent_encode

TEMPLATES_MAX = 50  # of a thread and client: as many different sets of parameters
KEPT = ("client_config", "has_streaming_input", "checksum")  # what the signing looks at
CHECKSUM = "x-amz-checksum-crc32"
_EVENT = "before-sign.s3.PutObject"


class _Template(NamedTuple):
    """A request as boto3 made it, of which only key, bytes and checksum change."""

    base: str  # of the URL, up to the key
    headers: dict[str, str]
    context: dict[str, Any]
    signer: Any
    signing: tuple[str, str, str]  # name, region, version


_local = threading.local()


def put_plainly(
    client: Any, bucket: str, key: str, data: bytes, parameters: Mapping[str, Any]
) -> str:
    """Store an object; returns the checksum that the server answers with, or ""."""
    answer = client.put_object(Bucket=bucket, Key=key, Body=data, **parameters)
    return str(answer.get("ChecksumCRC32", ""))


def put(
    client: Any, bucket: str, key: str, data: bytes, parameters: Mapping[str, Any], kind: str
) -> str:
    """The same in less time. ``parameters`` have ``ChecksumCRC32``; ``kind`` tells apart what else
    the client's own events make of them.

    Most of what ``put_object`` takes is the making of a request that looks like the last one, so
    only the first of a kind is made. One that is not answered with success is left to
    ``put_object``, to repeat it and to say why.
    """
    templates = _templates(client)
    alike = {**parameters, "ChecksumCRC32": ""}
    kind = json.dumps([kind, bucket, alike], sort_keys=True, default=repr)
    template = templates.get(kind)
    if template and (answered := _send(client, template, key, data, parameters["ChecksumCRC32"])):
        return answered
    with _Watch(client, key) as watch:
        answered = put_plainly(client, bucket, key, data, parameters)
    if watch.template and len(templates) < TEMPLATES_MAX:
        templates[kind] = watch.template
    return answered


def _templates(client: Any) -> dict[str, _Template]:
    if not hasattr(_local, "by_client"):
        _local.by_client = WeakKeyDictionary()
    by_client: WeakKeyDictionary[Any, dict[str, _Template]] = _local.by_client
    return by_client.setdefault(client, {})


def _send(client: Any, template: _Template, key: str, data: bytes, checksum: str) -> str:
    """One try; "" if it was not a success."""
    request = AWSRequest(
        method="PUT",
        url=template.base + _quoted(key),
        headers={**template.headers, CHECKSUM: checksum},
        data=data,
    )
    request.context = dict(template.context)
    template.signer.get_auth_instance(*template.signing).add_auth(request)
    try:
        answer = client._endpoint.http_session.send(request.prepare())
    except HTTPClientError:
        return ""
    return answer.headers.get(CHECKSUM, "") if answer.status_code == HTTPStatus.OK else ""


def _quoted(key: str) -> str:
    return str(percent_encode(key, safe="/~"))


class _Watch:
    """Looks on while boto3 makes a request of a client that belongs to this thread."""

    def __init__(self, client: Any, key: str) -> None:
        self._events = client.meta.events
        self._can_send = hasattr(client, "_endpoint")
        self._key = _quoted(key)
        self.template: _Template | None = None

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
            headers = {k: v for k, v in request.headers.items() if k.lower() != "expect"}
            base = request.url.removesuffix(self._key)
            context = {name: request.context[name] for name in KEPT if name in request.context}
            self.template = _Template(base, headers, context, request_signer, signing)
