"""Answers questions about files: what the ledger knows first, then the local storage."""

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.core.files import File
from django.core.files.storage import Storage

from ..files import lastread, localfiles, presence, readcache, successors
from ..files.reopening import unwrapped
from ..ledger import bindings
from ..ledger.names import Name, StoredName
from ..ledger.states import Entry
from .advising import advised
from .listing import Listing
from .locating import LocatingStorage
from .opening import (
    NOT_THERE,
    Opening,
    is_still_local,
    local_file_missing,
    not_published,
    require_readable,
)


class Fact(NamedTuple):
    """Something that storages and, mostly, the ledger know of a file."""

    method: str  # of a storage
    column: str | None  # of the ledger

    def from_storage(self, storage: Storage, name: str) -> Any:
        return getattr(storage, self.method)(name)

    def from_ledger(self, entry: Entry) -> Any:
        """Return what the ledger knows, or None."""
        return getattr(entry, self.column) if self.column else None


_SIZE = Fact("size", "size")
_ACCESSED = Fact("get_accessed_time", None)
_CREATED = Fact("get_created_time", "saved_at")
_MODIFIED = Fact("get_modified_time", "saved_at")


class ReadableStorage(LocatingStorage):
    """The half of a queued storage that changes nothing."""

    @advised
    def exists(self, name: Name) -> bool:
        """Return whether the file exists.

        The remote is asked only for a name that neither the ledger nor the local storage knows,
        and not at all with the option ``unknown="absent"``.
        """
        if self._hides(name):
            return False
        stored = self._stored(name)
        if entry := self._entry(stored):
            return not entry.is_deleted
        if presence.exists(self.local, stored.text):
            return True
        is_asked = self.asks_for_unknown and stored.can_be_recorded
        remotes = self.with_each_remote if is_asked else []
        return any(each.uploader.exists(stored.text) for each in remotes)

    def _open_for_reading(self, name: StoredName, mode: str) -> File:
        return Opening(self, name, mode).file()

    # Facts

    @advised
    def size(self, name: Name) -> int:
        """Return the size in bytes: the local copy's, or the one in the ledger."""
        return int(self._fact(name, _SIZE))

    @advised
    def get_accessed_time(self, name: Name) -> datetime:
        return self._time(name, _ACCESSED)

    @advised
    def get_created_time(self, name: Name) -> datetime:
        return self._time(name, _CREATED)

    @advised
    def get_modified_time(self, name: Name) -> datetime:
        return self._time(name, _MODIFIED)

    def _time(self, name: Name, fact: Fact) -> datetime:
        time: datetime = self._fact(name, fact)
        return time

    def _fact(self, name: Name, fact: Fact) -> Any:
        stored = self._stored(name)
        entry = self._entry(stored)
        if entry is None:
            return self._fact_without_row(stored.text, fact)
        return self._fact_of_entry(stored.text, require_readable(stored.text, entry), fact)

    def _fact_without_row(self, name: str, fact: Fact) -> Any:
        with contextlib.suppress(*NOT_THERE):
            return fact.from_storage(self.local, name)
        if not self.asks_for_unknown:
            raise FileNotFoundError(f"The ledger has no file {name!r} of {self.alias!r}.")
        *others, last = (each.remote for each in self.with_each_remote)
        for remote in others:
            with contextlib.suppress(FileNotFoundError):
                return fact.from_storage(remote, name)
        return fact.from_storage(last, name)

    def _fact_of_entry(self, name: str, entry: Entry, fact: Fact) -> Any:
        """Ask the local copy; without one the ledger, and at last the remote."""
        recorded = fact.from_ledger(entry)
        if entry.is_here:
            with contextlib.suppress(*NOT_THERE):
                found = fact.from_storage(
                    self.local, successors.current_name(self.local, name, entry)
                )
                if found == recorded or is_still_local(self, name, entry):
                    return found
        if recorded is not None:
            return recorded
        if not entry.is_promoted:
            raise local_file_missing(self, name)
        its = self.with_remote_of(entry)
        bindings.require_same(self.alias, name, entry, its.remote_place)
        return fact.from_storage(its.remote, entry.remote_name)

    # Paths

    @advised
    def path(self, name: Name) -> str:
        """Return the path of the local copy.

        Raises ``NotImplementedError``, as remote storages do, if the file has none; use
        ``local_path()`` to download it.
        """
        stored = self._stored(name)
        path = self.local.path(stored.text)
        entry = self._entry(stored)
        if entry is None:
            return path
        if entry.is_unpublished:
            raise not_published(stored.text, entry)
        is_certain = entry.is_here and not entry.is_promoted
        if not (is_certain or (entry.is_here and presence.exists(self.local, stored.text))):
            raise NotImplementedError(
                f"{stored.text!r} does not have a local copy; use local_path() or open()."
            )
        current = successors.current_name(self.local, stored.text, entry)
        found = path if current == stored.text else self.local.path(current)
        if self.limits.evict:
            lastread.note(found)
        return found

    @contextlib.contextmanager
    def local_path(self, name: Name) -> Iterator[str]:
        """Provide a path on this machine for the block, for reading only.

        It stays readable if the local copy is evicted meanwhile. A file that is only on the
        remote is downloaded to a temporary file, or to the read cache.
        """
        stored = self._stored(name)
        with self.open(stored.text) as opened, contextlib.ExitStack() as stack:
            file = unwrapped(opened)
            directory = stack.enter_context(_directory_for(file))
            path = os.path.join(directory, posixpath.basename(stored.text))
            if not self._link(stored, file, path):
                with open(path, "wb") as copy:
                    for chunk in file.chunks():
                        copy.write(chunk)
            yield path

    def _link(self, name: StoredName, file: File, path: str) -> bool:
        """Make ``path`` a link to the open file; return whether that is possible."""
        try:
            source = self._path_of(name, file)
            if source is None:
                return False
            os.link(source, path)
        except (OSError, NotImplementedError):
            return False
        is_same = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
        if not is_same:  # evicted since, and a new file tries the name
            os.unlink(path)
        return is_same

    def _path_of(self, name: StoredName, file: File) -> str | None:
        """Return the path of an open file; None if its bytes are not those on the disk."""
        if isinstance(file, readcache.Copy):
            return str(file.path)
        if not localfiles.is_as_on_disk(file):
            return None
        entry = self._entry(name)
        # The name of an evicted file may be tried by a new one: for the instant until the ledger
        # refuses it, or for good if its process died.
        is_its_own = entry is None or entry.is_here
        return os.path.realpath(self.local.path(name.text)) if is_its_own else None

    @advised
    def listdir(self, path: Name) -> tuple[list[str], list[str]]:
        """List the directories and files of all storages; asks the remotes."""
        if str(path).startswith("/"):
            path = self._stored(path).text
        remotes = (each.remote for each in self.with_each_remote)
        listing = Listing(self.alias, path, shows_unpublished=self.lists_unpublished)
        return listing.read(self.local, *remotes)


def _directory_for(file: File) -> tempfile.TemporaryDirectory[str]:
    """Make a directory for a link to an open file."""
    if isinstance(file, readcache.Copy):
        return file.link_directory()
    return tempfile.TemporaryDirectory(prefix="queued-storage-")
