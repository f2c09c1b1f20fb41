"""Tells where reads of a file go: to which storage, under which name or URL."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, Self

from django.core.exceptions import SuspiciousFileOperation, SynchronousOnlyOperation
from django.core.files.storage import Storage
from django.db import DatabaseError, InterfaceError

from ..conf import settings
from ..files import localfiles, presence, spelling
from ..ledger import bindings
from ..ledger.copies import copies
from ..ledger.database import in_transaction, ledger, on_commit
from ..ledger.models import QueuedFile
from ..ledger.names import Name, StoredName
from ..ledger.states import Entry
from ..remotes.expiry import lifetime_of
from ..remotes.perthread import for_threads
from ..remotes.places import Place
from ..serving import links
from ..transfers import signs
from ..transfers.gates import gates
from . import pages
from .advising import advised
from .composition import STABLE_MODES, ComposedStorage
from .places import place_of_made
from .routes import Route, name_at_once, remembers_at_once

BULK = 500  # names in one query
# What a query raises in async code, in a broken transaction, and if the database is down
NO_ANSWER = (SynchronousOnlyOperation, DatabaseError, InterfaceError)


class Located(Protocol):
    """What is known of a transferred file."""

    @property
    def place(self) -> int | None: ...
    @property
    def remote_name(self) -> str: ...


class LocatingStorage(ComposedStorage):
    """The part of a queued storage that knows where a file is."""

    @advised
    def queued_file(self, name: Name) -> QueuedFile | None:
        """Return the ledger's row of this name, or None."""
        if self._hides(name) or not (stored := self._stored(name)).can_be_recorded:
            return None
        return ledger().lookup(self.alias, stored.text)

    def using_remote(self, name: Name) -> bool:
        """Return whether reads of this name go to the remote."""
        return self.get_storage(name) is not self.local

    def using_local(self, name: Name) -> bool:
        """Return whether reads of this name go to the local storage."""
        return not self.using_remote(name)

    @advised
    def get_storage(self, name: Name) -> Storage:
        """Return the storage whose URL ``url()`` returns."""
        stored = self._stored(name)
        return self._route(stored, self._open_for_readers(stored, self._settled_entry(stored)))[0]

    def _stored_for_url(self, name: Name) -> StoredName:
        """Return the same; a path outside has a URL, but no file."""
        try:
            return self._stored(name)
        except SuspiciousFileOperation:
            return StoredName.of(name)

    def _own_name(self, name: StoredName) -> StoredName:
        """Return the name of the row whose local file this name without a row leads to.

        A directory may be a symlink, and a file system may ignore case.
        """
        if not name.can_be_recorded or not localfiles.has_paths(self.local):
            return name
        own = StoredName.of(spelling.own_name(self.local, name.text))
        return own if own.text != name.text and self._entry(own) else name

    def _entry(self, name: StoredName) -> Entry | None:
        return ledger().entry(self.alias, name.text) if name.can_be_recorded else None

    def _settled_entry(self, name: StoredName, *, is_cached: bool = True) -> Entry | Route | None:
        """Return where the cache says that the file is, else the ledger's entry.

        ``is_cached`` is false if the cache was asked already, and does not have it.
        """
        if not name.can_be_recorded:
            return None
        if is_cached and (remembered := self._routes.find(name.text, self._places)):
            return remembered
        entry = self._entry(name)
        if entry and entry.is_promoted:
            self._note_promoted(name.text, entry, remember=True)
        return entry

    def _note_promoted(self, name: str, entry: Entry, *, remember: bool) -> None:
        place = self.with_remote_of(entry).remote_place
        is_there = not self._is_elsewhere(name, entry, place) and entry.is_transferred
        if remember and is_there:
            self._routes.remember(name, Route(entry.remote_name, place.digest))

    @property
    def _places(self) -> list[int]:
        """The digests of the places at which readers find files."""
        if not (self.sides.previous or self.sides.mirrors):
            return [self.remote_place.digest]
        each_one = (*self.with_each_remote, *self.with_each_mirror)
        return [each.remote_place.digest for each in each_one]

    def _is_elsewhere(self, name: str, entry: Entry, place: Place) -> bool:
        """Return whether a file's URL is one of another place than its own; log the first one."""
        if not bindings.is_elsewhere(self.alias, entry, place):
            return False
        bindings.warn_once(self.alias, name, entry, place)
        return True

    def forget_route(self, name: str) -> None:
        """Make readers query the ledger for this file, before and after the commit."""
        routes = self._routes
        pages.forget(self.alias, name)
        routes.forget(name)
        if in_transaction():
            on_commit(lambda: routes.forget(name))

    def _route(self, name: StoredName, found: Entry | Route | None) -> tuple[Storage, str]:
        """Return the storage that serves a name, and the file's name there."""
        if isinstance(found, Route) or (found and found.is_promoted):
            return self.with_remote_of(found).remote, found.remote_name
        if found:
            return self.local, name.text
        # A name that predates the ledger
        is_remote = name.can_be_recorded and not self._may_be_local(name.text)
        return (self.remote if is_remote else self.local), name.text

    @property
    def remote_alias(self) -> str:
        """The key of the remote in ``STORAGES``; "" if it has none."""
        return self.sides.remote.alias

    # Copies on mirrors

    def copies_to_read(self, name: str, found: Located) -> Iterator[tuple[Self, Located]]:
        """Yield this storage with each remote that has a transferred file, and what is known of
        the copy there.

        The one that readers should try first comes first. The ledger is asked for copies on mirrors
        only while that of the file is closed, or if the first one does not do.
        """
        first = self.with_remote_of(found), found
        is_closed = self._is_closed(found)
        if not is_closed:
            yield first
        for route in self._on_mirrors([name]).get(name, []) if self.sides.mirrors else []:
            yield self.with_remote_of(route), route
        if is_closed:
            yield first

    def note_read(self, pk: int, error: Exception | None = None) -> None:
        """Note that a file was read from this storage's remote, or why that failed.

        A remote that fails reads is tried out, and closed if need be, by a thread.
        """
        if error is None:
            signs.note_read(self)
        else:
            signs.note_failure(self, pk, error)

    def _open_for_readers(
        self, name: StoredName, found: Entry | Route | None
    ) -> Entry | Route | None:
        """Return where readers find a file: on a mirror while its own place is closed."""
        if found is None or not self.sides.mirrors:
            return found
        return self._on_open_mirrors({name.text: found}).get(name.text, found)

    def _on_open_mirrors(self, found: Mapping[str, Entry | Route]) -> dict[str, Route]:
        """Return where there are open copies of those files whose own place is closed."""
        if not self.sides.mirrors:
            return {}
        with suppress(*NO_ANSWER):
            closed = [
                name
                for name, each in found.items()
                if (isinstance(each, Route) or each.is_promoted) and self._is_closed(each)
            ]
            mirrored = self._on_mirrors(closed)
            return {
                name: routes[0]
                for name, routes in mirrored.items()
                if (self.alias, routes[0].place) not in gates.closed_places()
            }
        return {}

    def _is_closed(self, found: Located) -> bool:
        """Return whether the place of a file is closed; False without mirrors."""
        if not self.sides.mirrors:
            return False
        closed = gates.closed_places()
        digest = self.with_remote_of(found).remote_place.digest if closed else None
        return (self.alias, digest) in closed

    def _on_mirrors(self, names: Sequence[str]) -> dict[str, list[Route]]:
        """Return the verified further copies of files, those at open places first."""
        found: dict[str, list[Route]] = defaultdict(list)
        closed = gates.closed_places() if names else ()
        digests = self._places if names else []
        order = sorted(digests, key=lambda digest: (self.alias, digest) in closed)
        for start in range(0, len(names), BULK):
            part = copies().verified_named(self.alias, names[start : start + BULK])
            part = part.filter(place__in=digests)
            for copy in part.select_related("file"):
                found[copy.file.name].append(Route(copy.remote_name, copy.place))
        for routes in found.values():
            routes.sort(key=lambda route: order.index(route.place))
        return found

    def _may_be_local(self, name: str) -> bool:
        try:
            return presence.exists(self.local, name)
        except OSError:  # it is no less local while its directory cannot be read
            return True

    # URLs

    def url(self, name: str | None, **kwargs: Any) -> str:
        """Return the URL from which the file is served now, or the stable URL where the option
        ``url_mode`` says so; makes no call to the remote.

        It answers without a database too: the local URL if there is a local file, else the URL
        that the remote has for this name. A signed URL is not valid then: it is for a row.
        """
        sides, known = self.sides, None
        has_others = sides.previous or sides.mirrors or self._whole
        if not has_others and self.url_mode not in STABLE_MODES:
            remote = sides.remote.storage
            if pages.is_open():
                remembered = pages.find(self.alias, name or "", default=None)
                known = _name_on(remembered)
            else:
                place = place_of_made(remote).digest
                known = name_at_once(self.alias, self.cache_prefix, name, place)
            if known:
                return for_threads(remote).url(known, **kwargs)
        stored = self._stored_for_url(name or "")
        if self.has_stable_urls and stored.can_be_recorded:
            with suppress(*NO_ANSWER):
                return self.stable_url(stored.text, kwargs.get("expire"))
            return links.signed(self.alias, stored.text, kwargs["expire"], None)
        entry = self._entry_for_url(stored, is_cached=known is None)
        found = self._open_for_readers(stored, entry)
        if isinstance(found, Route):
            return self.with_remote_of(found).remote.url(found.remote_name, **kwargs)
        return self._url_on(found, *self._route(stored, found), **kwargs)

    @advised
    def stable_url(self, name: Name, expire: float | None = None) -> str:
        """Return a URL that stays the same while the file moves; requires ``queued_storage.urls``.

        The URL is signed if it expires, after ``expire`` seconds, and if the project does not
        serve the files of this storage publicly. A signed URL is for this file only, not for a
        later one of the same name, nor for later content.
        """
        if expire is None and self.has_stable_urls:
            return links.public(self.alias, self._stored(name).text)
        stored = self._stored(name)
        found = pages.find(self.alias, stored.text, default=stored)
        entry = found if found is None or isinstance(found, Entry) else self._entry(stored)
        return links.signed(self.alias, stored.text, expire, _version_of(entry))

    def urls(self, names: Iterable[Name]) -> dict[str, str]:
        """Return the URLs of many files, by name, with one query for all of them."""
        given = {str(name): self._stored_for_url(name) for name in names}
        if self.has_stable_urls:
            return {name: self.url(stored.text) for name, stored in given.items()}
        found: dict[str, Entry | Route] = {}
        with suppress(*NO_ANSWER):
            self._find_all(given.values(), found)
        found.update(self._on_open_mirrors(found))
        has_others = self.sides.previous or self.sides.mirrors or self._whole
        remote = None if has_others else self.remote
        urls = {}
        for name, stored in given.items():
            entry = found.get(stored.text)
            if remote and (known := _name_on(entry)):
                urls[name] = remote.url(known)
            else:
                urls[name] = self._url_on(entry, *self._route(stored, entry))
        return urls

    @contextmanager
    def prefetched(self, names: Iterable[Name]) -> Iterator[None]:
        """Look up many files by one query. In the block, ``url()`` and ``stable_url()`` of these
        names query neither the ledger nor the cache, and see no later change by others.
        """
        stored = [self._stored_for_url(name) for name in names]
        found: dict[str, Entry | Route] = {}
        looked_up: list[StoredName] = []
        with suppress(*NO_ANSWER):
            self._find_all(stored, found)
            looked_up = [name for name in stored if name.can_be_recorded]
        with pages.remembered(
            {(self.alias, name.text): found.get(name.text) for name in looked_up}
        ):
            yield

    def _find_all(self, names: Iterable[StoredName], found: dict[str, Entry | Route]) -> None:
        """Add to ``found`` where these files are, as far as they can be looked up."""
        known = {name.text for name in names if name.can_be_recorded}
        if not self.has_stable_urls:
            found.update(self._routes.find_many(known, self._places))
        remember = not self.has_stable_urls and remembers_at_once()
        asked = sorted(known - set(found))
        for start in range(0, len(asked), BULK):
            entries = ledger().entries(self.alias, asked[start : start + BULK])
            found.update(entries)
            for name, entry in entries.items():
                if entry.is_promoted:
                    self._note_promoted(name, entry, remember=remember)

    def _entry_for_url(self, name: StoredName, *, is_cached: bool) -> Entry | Route | None:
        """Return where the file is; None if the ledger cannot be asked, as for an unknown name."""
        try:
            found = pages.find(self.alias, name.text, default=name)
            if isinstance(found, StoredName):
                return self._settled_entry(name, is_cached=is_cached)
            return found
        except NO_ANSWER:
            return None

    def _url_on(
        self, found: Entry | Route | None, storage: Storage, name: str, **kwargs: Any
    ) -> str:
        is_unpublished = isinstance(found, Entry) and found.is_unpublished
        if is_unpublished and self.has_stable_urls:
            return links.public(self.alias, name)
        if storage is not self.local:
            # Some storages accept more arguments; S3Storage accepts an expiry.
            return storage.url(name, **kwargs)
        # What is published after its steps is never served past this project.
        is_signed = self.url_mode == "signed" or self.is_gated or is_unpublished
        if not is_signed or not StoredName.of(name).can_be_recorded:
            return storage.url(name)
        lifetime = kwargs.get("expire") or lifetime_of(self.remote) or settings.url_max_age
        return links.signed(self.alias, name, lifetime, _version_of(found))


def _name_on(found: Entry | Route | None) -> str | None:
    """Return the remote name of a file that the remote serves; None for any other."""
    is_there = isinstance(found, Route) or (found is not None and found.is_promoted)
    return found.remote_name if found and is_there else None


def _version_of(found: Entry | Route | None) -> links.Version | None:
    """Return which content a signed URL is for; of an unpublished file, that which it will have."""
    if not isinstance(found, Entry):
        return None
    return links.Version(found.pk, found.generation + int(found.is_unpublished))
