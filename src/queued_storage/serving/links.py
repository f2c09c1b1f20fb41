"""Addresses at which the project itself serves files."""

import json
import math
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse

VIEW = "queued_storage:file"
_SALT = "queued_storage.links"


def public(alias: str, name: str) -> str:
    """The address of a file that everybody may have."""
    if "/" in alias or alias in {".", ".."}:  # else it could be the address of another file
        raise ImproperlyConfigured(
            f"Files of the storage {alias!r} can have no address. Give it an alias without '/'."
        )
    try:
        return reverse(VIEW, kwargs={"alias": alias, "name": name})
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            f"There is no address for {name!r} of the storage {alias!r}. Include "
            f"'queued_storage.urls' in your URLconf; see the docs, under 'Stable URLs'."
        ) from error


def signed(alias: str, name: str, seconds: float | None) -> str:
    """An address that entitles its holder to the file; for ever if ``seconds`` is None."""
    until = None if seconds is None else math.ceil(time.time() + seconds)
    query: dict[str, object] = {} if until is None else {"until": until}
    signature = _signer().signature(_text(alias, name, until))
    return f"{public(alias, name)}?{urlencode({**query, 'signature': signature})}"


def is_signed(query: Mapping[str, str]) -> bool:
    """Whether an address claims to be signed."""
    return "signature" in query


def seconds_left(alias: str, name: str, query: Mapping[str, str]) -> float | None:
    """For how long a signed address is still good; None for one that has no end.

    ``signing.BadSignature`` is raised if its time is over, or if nobody here gave it out.
    """
    text = query.get("until")
    if text is not None and not (text.isdecimal() and len(text) <= 15):
        raise signing.BadSignature("The time is no number.")
    until = None if text is None else int(text)
    signer = _signer()
    signer.unsign(f"{_text(alias, name, until)}{signer.sep}{query['signature']}")
    if until is None:
        return None
    left = until - time.time()
    if left <= 0:
        raise signing.SignatureExpired("The time is over.")
    return left


def _signer() -> signing.Signer:
    return signing.Signer(salt=_SALT)


def _text(alias: str, name: str, until: int | None) -> str:
    return json.dumps([alias, name, until])
