"""Tells which storages have files at a place that they are not configured for."""

import shlex
from collections.abc import Iterable, Iterator

from ..ledger.aliases import AliasedStorage
from ..ledger.availability import places_of
from ..ledger.bindings import stranded


def moved_storages(
    storages: Iterable[AliasedStorage],
) -> Iterator[tuple[AliasedStorage, str]]:
    """Yield those of the storages for which this is so, each with what to say of it."""
    for storage in storages:
        try:
            place, *previous = places_of(storage)
        except Exception:  # its remote cannot be made; a system check reports it
            continue
        if old := stranded(storage.alias, [place, *previous]):
            alias = storage.alias
            yield (
                storage,
                f"Files of {alias!r} are at {old!r}, but the storage is configured for "
                f"{place.description!r}, so they cannot be read. Put the old configuration back; "
                f"or list the old remote in the option 'previous'; or copy the objects to the new "
                f"place and run 'manage.py queued_storage remotes accept {shlex.quote(alias)}'.",
            )
