"""Compares the place that a file is bound to with the one that its storage is configured for."""

import shlex
import time
from collections.abc import Collection
from typing import Any, Protocol

from django.db import connections
from django.db.models import Q
from django.db.models.signals import post_migrate

from ..exceptions import RemoteChanged
from ..reporting.logs import logger
from .database import ledger, ledger_database
from .remotes import KnownPlace, remotes

UNKNOWN = 0  # the digest of a place that nothing tells from others, and that is never compared
EMPTY_FOR = 3600.0  # seconds until a process looks again for files at an old place
REPEAT_AFTER = 60.0  # seconds until a process asks again for the first place of an alias


class Bound(Protocol):
    """A row, or what a reader knows of it."""

    @property
    def place(self) -> Any:
        """The digest of its place; None in rows of earlier versions."""


def digest_of(alias: str, place: int | None) -> int | None:
    """Return the digest of the place that a row is bound to; None for the configured one.

    A row of an earlier version is at the place at which its alias was first seen. No query is made
    for other rows, and for these one a minute.
    """
    return _first_of(alias) if place is None else place


def is_elsewhere(alias: str, bound: Bound, configured: KnownPlace) -> bool:
    """Return whether a file is at another place than the one that its storage has now."""
    if bound.place == configured.digest:
        return False
    digest = digest_of(alias, bound.place)
    return digest not in {None, UNKNOWN, configured.digest} and configured.digest != UNKNOWN


def changed(alias: str, name: str, bound: Bound, configured: KnownPlace) -> RemoteChanged:
    """Return the error about a file that is at another place."""
    return RemoteChanged(
        f"{name!r} belongs to {_description_of(alias, bound)}, but the storage {alias!r} is "
        f"configured for {configured.description!r}. Put the old configuration back; or list the "
        f"old remote in the option 'previous'; or copy the objects to the new place and run "
        f"'manage.py queued_storage remotes accept {shlex.quote(alias)}'."
    )


def require_same(alias: str, name: str, bound: Bound, configured: KnownPlace) -> None:
    """Raise ``RemoteChanged`` if the file is at another place than the configured one."""
    if is_elsewhere(alias, bound, configured):
        raise changed(alias, name, bound, configured)


def warn_once(alias: str, name: str, bound: Bound, configured: KnownPlace) -> None:
    """Log that files are at another place, once per process and place."""
    key = alias, digest_of(alias, bound.place), configured.digest
    if key in _warned:
        return
    _warned.add(key)
    logger.warning(
        "The URLs of files such as %r lead nowhere. %s",
        name,
        changed(alias, name, bound, configured),
        extra={"queued_storage": alias},
    )


_warned: set[tuple[str, int | None, int]] = set()


def _description_of(alias: str, bound: Bound) -> str:
    remote = remotes().at(alias, digest_of(alias, bound.place) or UNKNOWN).first()
    return repr(remote.place) if remote else "another place, to which nothing was uploaded yet"


# Files at other places

_empty: dict[tuple[str, str, int], float] = {}  # when no file was found at an old place


def stranded(alias: str, configured: Collection[KnownPlace]) -> str:
    """Return a place other than the configured ones that files are bound to; "" if there is none.

    Only places that the ledger knows are looked for, so it costs one query as long as the storage
    was never moved. A place is in no index: a search ends at the first file, but reads all rows of
    the alias if no file is left there. A process then repeats it after an hour.
    """
    known = list(remotes().filter(alias=alias).order_by("pk"))
    digests = {place.digest for place in configured}
    if UNKNOWN in digests:
        return ""
    for remote in known:
        if remote.digest in digests | {UNKNOWN}:
            continue
        if _has_files(alias, remote.digest, with_old_rows=remote == known[0]):
            return str(remote.place)
    return ""


def _has_files(alias: str, digest: int, *, with_old_rows: bool) -> bool:
    key = ledger_database(), alias, digest
    if time.monotonic() - _empty.get(key, float("-inf")) < EMPTY_FOR:
        return False
    is_there = Q(place=digest) | Q(place=None) if with_old_rows else Q(place=digest)
    # A file that was never sent needs nothing at the old place.
    was_sent = ~Q(remote_name="", unconfirmed="")
    found = bool(ledger().filter(is_there, was_sent, alias=alias).order_by()[:1])
    if not found:
        _empty[key] = time.monotonic()
    return found


# The first place of each alias

_firsts: dict[tuple[str, str, str], tuple[int | None, float]] = {}


def _first_of(alias: str) -> int | None:
    database = ledger_database()
    key = (database, str(connections[database].settings_dict["NAME"]), alias)
    digest, at = _firsts.get(key, (None, float("-inf")))
    if time.monotonic() - at > REPEAT_AFTER:
        first = remotes().first_of(alias)
        digest = first.digest if first else None
        _firsts[key] = digest, time.monotonic()
    return digest


def forget(**kwargs: object) -> None:
    """Forget the first places, after they have changed or after a flush."""
    _firsts.clear()
    _warned.clear()
    _empty.clear()


post_migrate.connect(forget)
