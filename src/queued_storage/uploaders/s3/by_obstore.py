"""Sends small objects by ``obstore``, whose client is not written in Python.

It is given what boto3 made of a request: the place, and every header that says how the object is to
be stored. It signs them, too. What it cannot send is a checksum other than the SHA-256 that it
computes itself. An object with a CRC-32, which is what boto3 makes where it is told nothing else,
is therefore not sent by it: it would be stored without.
"""

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any
from urllib.request import getproxies
from weakref import WeakKeyDictionary

from .checksums import SHA256, Sum

IS_INSTALLED = find_spec("obstore") is not None
REST = 100  # objects that are sent in the other way after one that was not stored
# Made anew for each request, or of no meaning for what is stored
NOT_KEPT = {
    "authorization",
    "content-length",
    "content-md5",
    "content-type",
    "expect",
    "user-agent",
}
NOT_KEPT |= {"amz-sdk-invocation-id", "amz-sdk-request", "transfer-encoding", "date"}
NOT_KEPT |= {"x-amz-checksum-sha256", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"}
# With such variables, obstore's requests are others than boto3's
VARIABLES = ("AWS_SERVER_SIDE", "AWS_SSE_", "AWS_PROXY_")

_stores: WeakKeyDictionary[Any, dict[Any, "Sender"]] = WeakKeyDictionary()
_lock = threading.Lock()
_is_cut_off = False  # in a child whose parent used obstore: the threads of that are not here


def _after_fork() -> None:
    global _is_cut_off, _lock
    _is_cut_off = "obstore" in sys.modules
    _lock = threading.Lock()  # another thread may have held the old one


os.register_at_fork(after_in_child=_after_fork)


class Credentials:
    """Those that the client of boto3 has at the moment."""

    LIFE = timedelta(minutes=6)  # of which obstore uses the first; boto3 renews them earlier

    def __init__(self, signer: Any, signing: tuple[str, str, str]) -> None:
        self._signer = signer
        self._signing = signing

    def __call__(self) -> Any:
        found = self._signer.get_auth_instance(*self._signing).credentials
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + self.LIFE,
        }


class Sender:
    """Objects of one bucket that are stored alike, but for their type. May be used by threads."""

    def __init__(self, store: Any) -> None:
        from obstore import put  # only here: a process that forks later has not loaded it

        self._store = store
        self._put = put
        self._rest = 0

    def is_ready(self, key: str) -> bool:
        if self._rest:
            self._rest -= 1
            return False
        return all(key.split("/")) and not _is_cut_off  # it would drop an empty part

    def send(self, key: str, data: bytes, content_type: str, checksum: Sum) -> str | None:
        """One try; None if it was not a success. The checksum is returned if the answer shows that
        the server has these bytes."""
        attributes = {"Content-Type": content_type}
        try:
            answer = self._put(self._store, key, data, attributes=attributes, use_multipart=False)
        except Exception:  # boto3 is asked for the reason
            self._rest = REST
            return None
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if (answer["e_tag"] or "").strip('"') == md5:
            return checksum.value
        self._rest = REST  # with a key of the server's, as its answers to boto3 are worth more
        return ""


def sender(owner: Any, client: Any, template: Any, checksum: Sum) -> Sender | None:
    """What sends requests like this one for a storage, or None if that must be left to boto3."""
    if not (IS_INSTALLED and checksum.algorithm == SHA256 and not _is_cut_off):
        return None
    headers = {name.lower(): value for name, value in template.headers.items()}
    if not (_is_mirrored(client, template) and all(map(_is_sent_as_is, headers.values()))):
        return None
    kept = {name: headers[name] for name in sorted(headers.keys() - NOT_KEPT)}
    kind = (template.base, template.signing, *kept.items())
    with _lock:
        senders = _stores.setdefault(owner, {})
        if kind not in senders:
            senders[kind] = Sender(_store(client, template, kept))
        return senders[kind]


def _is_sent_as_is(value: str) -> bool:
    return value.isascii() and value.isprintable() and value == " ".join(value.split())


def _is_mirrored(client: Any, template: Any) -> bool:
    """Whether the connection would be like boto3's, and this process one for obstore."""
    session = client._endpoint.http_session
    config = client.meta.config
    has_own_network = config.proxies or config.client_cert or getproxies().keys() - {"no"}
    is_cooperative = socket.socket.__module__ != "socket"  # gevent's, which all of it would hold up
    has_own_roots = template.base.startswith("https:") and session._verify is not True
    return not (
        has_own_roots
        or has_own_network
        or is_cooperative
        or any(name.upper().startswith(VARIABLES) for name in os.environ)
        or not all(isinstance(each, int | float) for each in _timeouts(config))
    )


def _timeouts(config: Any) -> tuple[Any, Any]:
    return config.connect_timeout, config.read_timeout


def _store(client: Any, template: Any, headers: Mapping[str, str]) -> Any:
    from obstore.store import S3Store

    connect, read = (timedelta(seconds=each) for each in _timeouts(client.meta.config))
    place = template.base.rstrip("/")  # with the bucket, wherever that stands in it
    return S3Store(
        "-",
        config={
            "endpoint": place,
            "aws_endpoint_url_s3": place,
            "virtual_hosted_style_request": True,
            "region": template.signing[1],
            "checksum_algorithm": "SHA256",
            # What variables of the environment could say otherwise
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
        credential_provider=Credentials(template.signer, template.signing),
    )
