"""Tells through which queued storages a file gets to its last place, and how far it is."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..remotes.layers import itself
from .composition import ComposedStorage


class Tier(NamedTuple):
    """One of the storages behind a queued storage, and its row of a file."""

    storage: ComposedStorage
    row: QueuedFile | None  # None if it does not know the file

    @property
    def is_reached(self) -> bool:
        """Whether the file is on the remote of this storage."""
        return self.row is not None and self.row.state == State.TRANSFERRED


def behind(storage: ComposedStorage) -> ComposedStorage | None:
    """Return the queued storage that is the remote of another one; None if the remote is none."""
    inner = itself(storage.sides.remote.storage)
    return inner if isinstance(inner, ComposedStorage) else None


def all_behind(storage: ComposedStorage) -> list[ComposedStorage]:
    """Return the queued storages that a file gets to after this one, one after the other."""
    inner = behind(storage)
    return [inner, *all_behind(inner)] if inner else []


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


def followed(storage: ComposedStorage, rows: Sequence[QueuedFile]) -> dict[int, list[Tier]]:
    """Return how far transferred files have got, by the keys of their rows: the tiers up to the
    first one whose remote does not have the file.

    Each tier takes one query.
    """
    found: dict[int, list[Tier]] = defaultdict(list)
    names = {row.pk: row.remote_name for row in rows if row.state == State.TRANSFERRED}
    for inner in all_behind(storage):
        if not names:
            break
        known = {
            row.name: row
            for row in ledger().filter(alias=inner.alias, name__in=set(names.values()))
        }
        reached = {}
        for pk, name in names.items():
            tier = Tier(inner, known.get(name))
            found[pk].append(tier)
            if tier.is_reached and tier.row:
                reached[pk] = tier.row.remote_name
        names = reached
    return found
