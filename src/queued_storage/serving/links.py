"""The URLs from which the project itself serves files."""

import json
import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse

from ..runtime.documentation import see

VIEW = "queued_storage:file"
_SALT = "queued_storage.links"
_VERSION = re.compile(r"([1-9][0-9]{0,18})-([1-9][0-9]{0,9})", re.ASCII)


class Version(NamedTuple):
    """One content of one row."""

    pk: int
    generation: int

    def __str__(self) -> str:
        return f"{self.pk}-{self.generation}"


def public(alias: str, name: str) -> str:
    """Return the URL of a public file."""
    if "/" in alias or alias in {".", ".."}:  # it could be the URL of another file
        raise ImproperlyConfigured(
            f"Files of the storage {alias!r} cannot have URLs, because its alias contains a slash "
            f"or is a dot. Set an alias without '/'."
        )
    try:
        return reverse(VIEW, kwargs={"alias": alias, "name": name})
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            f"{name!r} of the storage {alias!r} has no URL. Include 'queued_storage.urls' in your "
            f"URLconf. {see('urls#turn-stable-urls-on')}"
        ) from error


def signed(alias: str, name: str, seconds: float | None, version: Version | None) -> str:
    """Return a URL that gives access to the file; it does not expire if ``seconds`` is None.

    It is for one version only: another file that gets the name later has another one. None is for
    a file that the ledger does not have.
    """
    until = None if seconds is None else math.ceil(time.time() + seconds)
    query: dict[str, object] = {} if until is None else {"until": until}
    query |= {} if version is None else {"file": version}
    signature = _signer().signature(_text(alias, name, until, version))
    return f"{public(alias, name)}?{urlencode({**query, 'signature': signature})}"


def is_signed(query: Mapping[str, str]) -> bool:
    """Return whether the query string of a URL has a signature."""
    return "signature" in query


def version_in(query: Mapping[str, str]) -> Version | None:
    """Return which version of a file a signed URL is for.

    Raises ``signing.BadSignature`` if the query string has something else there.
    """
    if "file" not in query:
        return None
    found = _VERSION.fullmatch(query["file"])
    if not found:
        raise signing.BadSignature("The version of the file is invalid.")
    return Version(int(found[1]), int(found[2]))


def seconds_left(alias: str, name: str, query: Mapping[str, str]) -> float | None:
    """Return how long a signed URL is still valid; None if it does not expire.

    Raises ``signing.BadSignature`` if it has expired, or if its signature is wrong.
    """
    text = query.get("until")
    if text is not None and not (text.isdecimal() and len(text) <= 15):
        raise signing.BadSignature("The expiry is not a number.")
    until = None if text is None else int(text)
    signer = _signer()
    signed = _text(alias, name, until, version_in(query))
    signer.unsign(f"{signed}{signer.sep}{query['signature']}")
    if until is None:
        return None
    left = until - time.time()
    if left <= 0:
        raise signing.SignatureExpired("The URL has expired.")
    return left


def _signer() -> signing.Signer:
    return signing.Signer(salt=_SALT)


def _text(alias: str, name: str, until: int | None, version: Version | None) -> str:
    return json.dumps([alias, name, until, version])
