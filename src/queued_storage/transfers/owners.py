"""Tells whether another file of the ledger has an object on the remote, whatever its storage."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache, reduce
from operator import or_
from typing import Any

from django.core.files.storage import Storage
from django.db.models import Q

from ..ledger.aliases import storages_in_use
from ..ledger.copies import at_copy, copies
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..remotes.places import FILE_SYSTEM, UNKNOWN, Place, are_apart, place_of


class Neighbors:
    """The other storages of this process that may keep files in the place of one storage."""

    def __init__(self, alias: str, remote: Storage) -> None:
        self._alias = alias
        self._remote = remote

    @cached_property
    def _others(self) -> dict[str, Place | None]:
        """The places of all other storages; None for one that cannot be made here."""
        others = storages_in_use()
        others.pop(self._alias, None)
        return {alias: _place_behind(storage) for alias, storage in others.items()}

    @cached_property
    def _own(self) -> Place:
        return place_of(self._remote)

    def names(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the aliases of those that may have this object, with its name there."""
        for alias, place in self._others.items():
            theirs = name if place is None else name_in(place, self._own, name)
            if theirs is not None:
                yield alias, theirs

    def may_have(self, alias: str) -> bool:
        """Return whether nothing is known of the storage with this alias."""
        return alias != self._alias and alias not in self._others

    def rows(self, names: Collection[str]) -> dict[str, list[QueuedFile]]:
        """Return the rows of other storages that have these objects under the files' own names.

        This is one query, or none if no other storage has the same place.
        """
        wanted: dict[str, dict[str, str]] = {}
        for name in names:
            for alias, theirs in self.names(name):
                wanted.setdefault(alias, {})[theirs] = name
        aliases: dict[frozenset[str], list[str]] = {}  # those with the same names
        for alias, given in wanted.items():
            aliases.setdefault(frozenset(given), []).append(alias)
        found: dict[str, list[QueuedFile]] = {}
        if not aliases:
            return found
        groups = (Q(alias__in=those, name__in=given) for given, those in aliases.items())
        for row in ledger().filter(reduce(or_, groups)):
            given = wanted[row.alias]
            if row.object_name == row.name in given:
                found.setdefault(given[row.name], []).append(row)
        return found

    @cached_property
    def aliases(self) -> list[str]:
        """The storage's own alias, and those of all whose places are not apart from its own."""
        near = (
            alias
            for alias, place in self._others.items()
            if place is None or not _are_apart(place, self._own)
        )
        return [self._alias, *near]


class ClaimedObjects:
    """The objects that files of the ledger have in the place of one storage."""

    def __init__(self, alias: str, remote: Storage) -> None:
        self._alias = alias
        self._neighbors = Neighbors(alias, remote)
        renamed = ledger().filter(alias__in=self._neighbors.aliases).with_other_remote_name()
        self._renamed = renamed
        self._has_renamed = renamed.exists()  # saves a query for each batch
        self._copies = copies().filter(file__alias__in=self._neighbors.aliases)
        self._has_copies = self._copies.exists()

    def among(self, names: Collection[str]) -> set[str]:
        """Return those of a few names whose objects are another file's."""
        taken = set(self._neighbors.rows(names))
        if not (self._has_renamed or self._has_copies):
            return taken
        wanted = {(self._alias, name): name for name in names}
        for name in names:
            wanted.update(dict.fromkeys(self._neighbors.names(name), name))
        renamed = self._renamed.filter(remote_name__in={theirs for _alias, theirs in wanted})
        keys = set(renamed.values_list("alias", "remote_name"))
        further = self._copies.with_object({theirs for _alias, theirs in wanted})
        keys |= {(copy.file.alias, copy.object_name) for copy in further}
        return taken | {wanted[key] for key in keys if key in wanted}


class Others:
    """The files of the ledger that may have the objects of one file."""

    def __init__(self, row: QueuedFile, remote: Storage) -> None:
        self._row = row
        self._neighbors = Neighbors(row.alias, remote)

    def have(self, name: str) -> bool:
        """Return whether a file of another storage has, or may have, this object.

        It costs a query only if another storage has the same place, and finds the files whose
        names on the remote are their own.
        """
        return _matter(self._row, self._neighbors.rows([name]).get(name, ()))

    def have_under_any_name(self, name: str) -> bool:
        """Do the same for all files, those of this storage included; this may read all rows."""
        wanted = dict(self._neighbors.names(name)) | {self._row.alias: name}
        names = {name, *wanted.values()}
        rows = ledger().exclude(pk=self._row.pk).with_object(names)
        further = copies().exclude(file=self._row.pk).with_object(names)
        rows += [at_copy(copy.file, copy) for copy in further]
        return _matter(self._row, (row for row in rows if self._has(row, name, wanted)))

    def _has(self, row: QueuedFile, name: str, wanted: dict[str, str]) -> bool:
        if self._neighbors.may_have(row.alias):
            return row.object_name == name
        return row.object_name == wanted.get(row.alias)


def needed_by_others(rows: Sequence[QueuedFile], remote: Storage) -> set[int]:
    """Return the keys of those files of one storage for which ``Others.have()`` is true, with one
    query or none."""
    found = Neighbors(rows[0].alias, remote).rows({row.object_name for row in rows})
    return {row.pk for row in rows if _matter(row, found.get(row.object_name, ()))}


def _matter(row: QueuedFile, others: Iterable[QueuedFile]) -> bool:
    """Return whether one of these is to keep the object of a file: of several deleted files with
    one object, the last that was recorded removes it."""
    is_deleted = row.state == State.DELETING
    return any(
        not (is_deleted and other.state == State.DELETING and other.pk < row.pk) for other in others
    )


def name_in(place: Place, own: Place, name: str) -> str | None:
    """Return the name in ``place`` of the file that is called ``name`` in another place; None if it
    isn't there."""
    if _are_apart(place, own):
        return None
    path, root = f"{_root(own)}{name}", _root(place)
    return path.removeprefix(root) if path.startswith(root) else None


def _are_apart(one: Place, other: Place) -> bool:
    if one.kind == other.kind == UNKNOWN:  # nothing tells them apart
        return one.home != other.home
    return are_apart(one, other)


@lru_cache(1000)  # each attempt to transfer a file asks for it
def _root(place: Place) -> str:
    root = os.path.realpath(place.root) if place.kind == FILE_SYSTEM else place.root
    return f"{root.rstrip('/')}/" if root else ""


def _place_behind(storage: Any) -> Place | None:
    try:
        return place_of(storage.remote)
    except Exception:
        return None
