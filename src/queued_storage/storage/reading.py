"""Answers questions about files: what the ledger knows first, then the local storage."""

import contextlib
import io
import os
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, cast

from django.core.files import File
from django.core.files.storage import Storage

from ..conf import settings
from ..exceptions import FileElsewhere, LocalFileMissing, TransferTimeout
from ..files import localfiles, readcache
from ..ledger.database import ledger
from ..ledger.models import NAME_MAX_LENGTH, QueuedFile
from ..ledger.names import Name, can_be_recorded, tidy
from ..ledger.states import Entry, State
from ..remotes import opening
from ..remotes.expiry import lifetime_of
from ..serving import links
from ..uploaders import Uploader
from .composition import ComposedStorage
from .results import wait_until
from .routes import Routes, routes_of

BULK = 500  # names in one query
NOT_THERE = (FileNotFoundError, NotADirectoryError)  # or what stands for its directory is a file


class ReadableStorage(ComposedStorage):
    """The half of a queued storage that changes nothing."""

    # Where a file is

    def queued_file(self, name: Name) -> QueuedFile | None:
        """The ledger's row of this name, or None."""
        key = tidy(name)
        return ledger().named(self.alias, key).first() if can_be_recorded(key) else None

    def using_remote(self, name: Name) -> bool:
        """Whether reads of this name go to the remote."""
        return self.get_storage(name) is self.remote

    def using_local(self, name: Name) -> bool:
        """Whether reads of this name go to the local storage."""
        return not self.using_remote(name)

    def get_storage(self, name: Name) -> Storage:
        """The storage that ``url`` answers from."""
        return self._route(tidy(name), self._settled_entry(tidy(name)))[0]

    def get_cache_key(self, name: Name) -> str:
        """The key under which the cache remembers that this name is transferred."""
        return self._routes.key(tidy(name))

    @property
    def _routes(self) -> Routes:
        return routes_of(self.alias, self.cache_prefix)

    def _entry(self, key: str) -> Entry | None:
        return ledger().entry(self.alias, key) if can_be_recorded(key) else None

    def _settled_entry(self, key: str) -> Entry | str | None:
        """The name on the remote if the cache has it, else the ledger's answer."""
        if len(key) > NAME_MAX_LENGTH:
            return None
        if remembered := self._routes.remote_name(key):
            return remembered
        entry = self._entry(key)
        if entry and entry.is_promoted:
            self._routes.remember(key, entry.remote_name)
        return entry

    def _route(self, key: str, found: Entry | str | None) -> tuple[Storage, str]:
        """The storage that serves a name, and what it calls it."""
        if isinstance(found, str):
            return self.remote, found
        if found:
            return (self.remote, found.remote_name) if found.is_promoted else (self.local, key)
        # A name that predates the ledger
        is_remote = can_be_recorded(key) and not self.local.exists(key)
        return (self.remote, key) if is_remote else (self.local, key)

    # Reading

    def exists(self, name: Name) -> bool:
        """Whether there is such a file; only a name that nobody here knows is asked of the remote,
        unless the option ``unknown`` says that those are absent."""
        key = tidy(name)
        if entry := self._entry(key):
            return not entry.is_deleted
        if self.local.exists(key):
            return True
        return self.asks_for_unknown and can_be_recorded(key) and self.remote.exists(key)

    def _open_for_reading(self, key: str, mode: str) -> File:
        entry = self._entry(key)
        while True:
            if entry and entry.is_deleted:
                raise FileNotFoundError(f"{key!r} was deleted.")
            if entry is None:
                with contextlib.suppress(*NOT_THERE):
                    return self.local.open(key, mode)
                return opening.opened(self.remote, key, mode)
            if (local_file := self._opened_locally(key, entry, mode)) is not None:
                return local_file
            with contextlib.ExitStack() as unless_returned:
                opened = self._opened_remotely(key, entry, mode)
                if not isinstance(opened, Exception):
                    unless_returned.callback(opened.close)
                # It may have been transferred and evicted between the two looks. Or it has newer
                # content, and the remote is just being given it.
                entry, before = ledger().latest_entry(self.alias, key), entry
                if entry == before:
                    unless_returned.pop_all()
                    if isinstance(opened, Exception):
                        raise opened
                    return opened
            if entry is None:
                raise FileNotFoundError(f"{key!r} was deleted.")

    def _opened_locally(self, key: str, entry: Entry, mode: str) -> File | None:
        """The local copy; None if there is none, or it went before it was opened: what was opened
        then may be a new file that tries the name."""
        if not entry.is_here:
            return None
        try:
            opened: File = self.local.open(key, mode)
        except NOT_THERE:
            return None
        with contextlib.ExitStack() as unless_returned:
            unless_returned.callback(opened.close)
            if not self._is_still_local(key, entry):
                return None
            unless_returned.pop_all()
        return opened

    def _is_still_local(self, key: str, entry: Entry) -> bool:
        now = self._entry(key)
        return bool(now and now.pk == entry.pk and now.is_here)

    def _opened_remotely(self, key: str, entry: Entry, mode: str) -> File | Exception:
        if not entry.is_promoted:
            if entry.is_local and not entry.is_here:
                return self._opened_elsewhere(key, entry, mode)
            return _local_file_missing(key)
        try:
            cached = self._cached(entry, mode)
            return cached or opening.opened(self.remote, entry.remote_name, mode)
        except Exception as error:
            return error

    def _cached(self, entry: Entry, mode: str) -> File | None:
        """The copy in the read cache, which is filled on the way; None without a cache."""
        row = ledger().filter(pk=entry.pk).first() if settings.read_cache else None
        if row is None or not row.is_remote:
            return None
        uploader: Uploader = self.uploader
        copy = readcache.opened(row, lambda: uploader.read_back(row.remote_name))
        if copy is None or "b" in mode:
            return copy
        return File(cast(Any, io.TextIOWrapper(cast(Any, copy.file), "utf-8")), copy.name)

    def _opened_elsewhere(self, key: str, entry: Entry, mode: str) -> File | Exception:
        """What ``OTHER_HOST`` says to do for a file whose only copy is on another host's disk."""
        from ..serving import peers  # and a client of HTTP with it

        if settings.other_host == "fetch":
            row = ledger().filter(pk=entry.pk).first()
            try:
                return peers.fetch(row, mode) if row else FileNotFoundError(key)
            except FileElsewhere as error:
                return error
        advice = "It is readable from here as soon as it is transferred."
        if settings.other_host == "wait":
            timeout = settings.other_host_timeout
            with contextlib.suppress(TransferTimeout):
                wait_until(
                    lambda: ledger().latest_entry(self.alias, key) != entry, timeout, "The transfer"
                )
            advice = f"It was not transferred within {timeout:g} seconds."
        return peers.on_other_host(key, entry.host, advice)

    def size(self, name: Name) -> int:
        """The size in bytes: the local copy's, or as the ledger has it."""
        return int(self._fact(name, "size", "size"))

    def get_accessed_time(self, name: Name) -> datetime:
        return self._time(name, "get_accessed_time", None)

    def get_created_time(self, name: Name) -> datetime:
        return self._time(name, "get_created_time", "saved_at")

    def get_modified_time(self, name: Name) -> datetime:
        return self._time(name, "get_modified_time", "saved_at")

    def _time(self, name: Name, method: str, column: str | None) -> datetime:
        time: datetime = self._fact(name, method, column)
        return time

    def _fact(self, name: Name, method: str, column: str | None) -> Any:
        """Ask the local copy; without one, the ledger where it knows, else the remote."""
        key = tidy(name)
        entry = self._entry(key)
        if entry and entry.is_deleted:
            raise FileNotFoundError(f"{key!r} was deleted.")
        if _may_be_local(entry):
            with contextlib.suppress(*NOT_THERE):
                fact = getattr(self.local, method)(key)
                if entry is None or (column and fact == getattr(entry, column)):
                    return fact
                if self._is_still_local(key, entry):
                    return fact
        if entry and column:
            return getattr(entry, column)
        if entry and not entry.is_promoted:
            raise _local_file_missing(key)
        if entry is None and not self.asks_for_unknown:
            raise FileNotFoundError(f"The ledger has no file {key!r} of {self.alias!r}.")
        return getattr(self.remote, method)(entry.remote_name if entry else key)

    def path(self, name: Name) -> str:
        """The path of the local copy; ``NotImplementedError``, as of any remote storage, if the
        file has none. ``local_path()`` fetches it then."""
        key = tidy(name)
        path = self.local.path(key)
        entry = self._entry(key)
        if not _may_be_local(entry) or (entry and entry.is_promoted and not self.local.exists(key)):
            raise NotImplementedError(
                f"{key!r} has no local copy any more; use local_path() or open()."
            )
        return path

    def url(self, name: str | None, **kwargs: Any) -> str:
        """The address of the file where reads of it go now, or the stable one where the option
        ``url_mode`` says so; makes no call to the remote."""
        key = tidy(name or "")
        if self.has_stable_urls and can_be_recorded(key):
            return self.stable_url(key, kwargs.get("expire"))
        found = self._settled_entry(key)
        if isinstance(found, str):
            return self.remote.url(found, **kwargs)
        return self._url_on(*self._route(key, found), **kwargs)

    def stable_url(self, name: Name, expire: float | None = None) -> str:
        """An address that stays the same while the file moves; it needs ``queued_storage.urls``.

        It is signed if it ends, after ``expire`` seconds, and if the project does not serve the
        files of this storage to everybody.
        """
        if expire is None and self.has_stable_urls:
            return links.public(self.alias, tidy(name))
        return links.signed(self.alias, tidy(name), expire)

    def _url_on(self, storage: Storage, name: str, **kwargs: Any) -> str:
        if storage is self.remote:
            # Some storages take more, say S3Storage an expiry; only they are given it.
            return storage.url(name, **kwargs)
        if self.url_mode != "signed" or not can_be_recorded(name):
            return storage.url(name)
        lifetime = kwargs.get("expire") or lifetime_of(self.remote) or settings.url_max_age
        return links.signed(self.alias, name, lifetime)

    def urls(self, names: Iterable[Name]) -> dict[str, str]:
        """The addresses of many files, by name, with one look-up for all of them."""
        keys = {str(name): tidy(name) for name in names}
        if self.has_stable_urls:
            return {name: self.url(key) for name, key in keys.items()}
        known = {key for key in keys.values() if can_be_recorded(key)}
        found: dict[str, Entry | str] = dict(self._routes.remote_names(known))
        asked = sorted(known - set(found))
        for start in range(0, len(asked), BULK):
            found.update(ledger().entries(self.alias, asked[start : start + BULK]))
        urls = {}
        for name, key in keys.items():
            storage, stored_name = self._route(key, found.get(key))
            urls[name] = self._url_on(storage, stored_name)
        return urls

    @contextlib.contextmanager
    def local_path(self, name: Name) -> Iterator[str]:
        """A real path on this machine for the block, to be read only.

        It stays readable if the local copy is freed meanwhile; a file that is only on the remote
        is fetched to a temporary file, or to the read cache.
        """
        key = tidy(name)
        with self.open(key) as file, _directory_for(file) as place:
            path = os.path.join(place, posixpath.basename(key))
            try:
                os.link(self._path_to_link(key, file), path)
                if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    os.unlink(path)  # freed since, and the name is tried by another file
                    raise NotImplementedError
            except (OSError, NotImplementedError):
                with open(path, "wb") as copy:
                    for chunk in file.chunks():
                        copy.write(chunk)
            yield path

    def _path_to_link(self, key: str, file: File) -> str:
        if isinstance(file, readcache.Copy):
            return str(file.path)
        if not localfiles.is_as_on_disk(file) or not _may_be_local(self._entry(key)):
            raise NotImplementedError
        return os.path.realpath(self.local.path(key))

    def listdir(self, path: Name) -> tuple[list[str], list[str]]:
        """Directories and files of both sides; asks the remote."""
        key = tidy(path or "")
        directories: set[str] = set()
        files: set[str] = set()
        missing = 0
        for storage in (self.local, self.remote):
            try:
                found = storage.listdir("" if key == "." else key)
            except FileNotFoundError:
                missing += 1
                continue
            directories.update(found[0])
            files.update(found[1])
        self._apply_ledger("" if key in {"", "."} else f"{key}/", directories, files)
        if missing == 2 and not directories and not files:
            raise FileNotFoundError(f"There is no directory {path!r}.")
        hidden = {name for name in files if localfiles.is_unfinished(name)}
        return sorted(directories), sorted(files - hidden)

    def _apply_ledger(self, prefix: str, directories: set[str], files: set[str]) -> None:
        """Drop deleted files and other names of the remote's; add what only the ledger knows."""
        rows = list(
            ledger()
            .filter(alias=self.alias, name__startswith=prefix)
            .values_list("name", "remote_name", "state")
        )
        names = {name.removeprefix(prefix) for name, _remote_name, _state in rows}
        for name, remote_name, state in rows:
            if not name.startswith(prefix):  # SQLite compares without case
                continue
            first, _slash, rest = name.removeprefix(prefix).partition("/")
            if state == State.DELETING:
                files.discard(first if not rest else "")
            else:
                (directories if rest else files).add(first)
            other = remote_name.removeprefix(prefix)
            if remote_name and remote_name != name and other not in names:
                files.discard(other)


def _may_be_local(entry: Entry | None) -> bool:
    """Whether a local file of the name is this file's. The name of an evicted one may be tried by
    a new file, for the instant until the ledger refuses it; or for good, if its process died."""
    return entry is None or entry.is_here


def _local_file_missing(key: str) -> LocalFileMissing:
    return LocalFileMissing(
        f"The local copy of {key!r}, which is the only one yet, is not on this machine."
    )


def _directory_for(file: File) -> tempfile.TemporaryDirectory[str]:
    """A directory to link an open file in: links do not lead from one file system to another."""
    if isinstance(file, readcache.Copy):
        return tempfile.TemporaryDirectory(
            prefix=readcache.IN_USE_PREFIX, dir=file.path.parent, ignore_cleanup_errors=True
        )
    return tempfile.TemporaryDirectory(prefix="queued-storage-")
