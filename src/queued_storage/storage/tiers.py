"""Tells through which queued storages a file gets to its last place."""

from collections.abc import Iterator

from ..remotes.layers import itself
from .composition import ComposedStorage


def behind(storage: ComposedStorage) -> ComposedStorage | None:
    """Return the queued storage that is the remote of another one; None if the remote is none."""
    inner = itself(storage.sides.remote.storage)
    return inner if isinstance(inner, ComposedStorage) else None


def tiers(storage: ComposedStorage) -> Iterator[str]:
    """Yield the names of the remotes that a file gets to, one after the other: their aliases in
    ``STORAGES``, or what else tells them apart."""
    given = storage.sides.remote.given
    inner = behind(storage)
    if isinstance(given, str):
        yield given
    else:
        yield inner.alias if inner else storage.remote_place.description
    if inner:
        yield from tiers(inner)


def name_of_remote(storage: ComposedStorage) -> str:
    return next(tiers(storage))
