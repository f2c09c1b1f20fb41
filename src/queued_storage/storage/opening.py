"""Opens a file for reading, wherever its bytes are at that moment."""

import contextlib
import io
from collections.abc import Callable
from typing import Any, cast

from django.core.files import File

from ..conf import settings
from ..exceptions import LocalFileMissing, LocalStorageMissing, NotPublished
from ..files import lastread, readcache, successors, volumes
from ..ledger import bindings
from ..ledger.database import ledger
from ..ledger.names import StoredName
from ..ledger.states import Entry, State
from ..remotes import opening
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..uploaders import Uploader, substitution
from .locating import LocatingStorage
from .results import wait_until

NOT_THERE = (FileNotFoundError, NotADirectoryError)  # the latter if its directory is a file here


class Opening:
    """One call of ``open()``: queries the ledger, opens a copy, and queries the ledger again.

    In between, the file may be transferred, evicted, overwritten or deleted. Then what was opened
    is closed, and the newer entry counts.
    """

    def __init__(self, storage: LocatingStorage, name: StoredName, mode: str) -> None:
        self.storage = storage
        self.name = name.text
        self.mode = mode
        self.entry = storage._entry(name)

    def file(self) -> File:
        """Return the open file; raise ``FileNotFoundError`` if it does not exist."""
        if self.entry is None:
            return self._opened_without_row()
        while True:
            entry = require_readable(self.name, self.entry)
            local = self._opened_locally(entry)
            if local is not None:
                return local
            try:
                opened = self._opened_away(entry)
            except Exception:
                if self._is_unchanged():
                    raise
                continue
            current = kept_if(opened, self._is_unchanged)
            if current is not None:
                return current

    def _opened_without_row(self) -> File:
        with contextlib.suppress(*NOT_THERE):
            return self.storage.local.open(self.name, self.mode)
        return self._opened_on_any_remote()

    def _opened_on_any_remote(self) -> File:
        """Open a file that the ledger does not know, on the first remote that has it."""
        *others, last = (each.remote for each in self.storage.with_each_remote)
        for remote in others:
            with contextlib.suppress(FileNotFoundError):
                return opening.opened(remote, self.name, self.mode)
        return opening.opened(last, self.name, self.mode)

    def _opened_locally(self, entry: Entry) -> File | None:
        """Return the local copy, or None if there is none.

        If it was evicted before it was opened, what was opened may be a new file that tries the
        name.
        """
        if not entry.is_here:
            return None
        opened = self._opened_waiting(entry)
        if opened is None:
            try:
                opened = self.storage.local.open(self.name, self.mode)
            except NOT_THERE:
                return None
        if self.storage.limits.evict:
            lastread.note_open(opened)
        return kept_if(opened, lambda: is_still_local(self.storage, self.name, entry))

    def _opened_waiting(self, entry: Entry) -> File | None:
        """Return content that is not in its place yet; None if it is."""
        local = self.storage.local
        waiting = successors.current_name(local, self.name, entry)
        if waiting == self.name:
            return None
        try:
            return local.open(waiting, self.mode)
        except NOT_THERE:  # put in place at this moment
            return None

    def _opened_away(self, entry: Entry) -> File:
        """Open the copy that is not on this host's local storage."""
        if entry.is_promoted:
            return self._opened_remotely(entry)
        if entry.is_local and not entry.is_here:
            return self._opened_on_other_host(entry)
        raise local_file_missing(self.storage, self.name)

    def _opened_remotely(self, entry: Entry) -> File:
        """Open the first copy that can be read."""
        problems: list[Exception] = []
        for storage, copy in self.storage.copies_to_read(self.name, entry):
            try:
                bindings.require_same(storage.alias, self.name, copy, storage.remote_place)
                cached = self._opened_from_cache(entry, storage.uploader, copy.remote_name)
                opened = cached or opening.opened(storage.remote, copy.remote_name, self.mode)
                storage.note_read(entry.pk)
                return opened
            except Exception as error:
                problems.append(error)
                storage.note_read(entry.pk, error)
                if not substitution.may_help(storage.uploader, error):
                    break
                if self.storage.sides.mirrors:
                    text = reason(error, storage.local, storage.remote)
                    place = storage.remote_place.description
                    logger.warning("%r cannot be read from %s: %s", self.name, place, text)
        raise problems[0]

    def _opened_from_cache(self, entry: Entry, uploader: Uploader, remote_name: str) -> File | None:
        """Return the copy in the read cache, filled if need be; None without a cache."""
        row = ledger().filter(pk=entry.pk).first() if settings.read_cache else None
        if row is None or not row.is_remote:
            return None
        copy = readcache.opened(row, lambda: uploader.read_back(remote_name))
        if copy is None or "b" in self.mode:
            return copy
        return File(cast(Any, io.TextIOWrapper(cast(Any, copy.file), "utf-8")), copy.name)

    def _opened_on_other_host(self, entry: Entry) -> File:
        """Treat a file whose only copy is on another host as ``OTHER_HOST`` says."""
        from ..serving import peers  # which imports an HTTP client

        if settings.other_host == "fetch":
            row = ledger().filter(pk=entry.pk).first()
            if row is None:
                raise FileNotFoundError(self.name)
            return peers.fetch(row, self.mode)
        advice = "It can be read here once it is transferred."
        if settings.other_host == "wait":
            timeout = settings.other_host_timeout
            wait_until(lambda: self._latest_entry() != entry, timeout)
            advice = f"It was not transferred within {timeout:g} seconds."
        raise peers.on_other_host(self.name, entry.host, advice)

    def _is_unchanged(self) -> bool:
        """Query the ledger again; return whether the entry is the one that was acted on."""
        before, self.entry = self.entry, self._latest_entry()
        return self.entry == before

    def _latest_entry(self) -> Entry | None:
        return ledger().latest_entry(self.storage.alias, self.name)


def kept_if(opened: File, is_right: Callable[[], bool]) -> File | None:
    """Return the open file if it is the right one; close it otherwise, and after an error."""
    is_kept = False
    try:
        is_kept = is_right()
    finally:
        if not is_kept:
            opened.close()
    return opened if is_kept else None


def require_living(name: str, entry: Entry | None) -> Entry:
    """Return the entry; raise ``FileNotFoundError`` if its file was deleted."""
    if entry is None or entry.is_deleted:
        raise FileNotFoundError(f"{name!r} was deleted.")
    return entry


def require_readable(name: str, entry: Entry | None) -> Entry:
    """Return the same; raise ``NotPublished`` if the file waits for its steps, or was rejected."""
    found = require_living(name, entry)
    if found.is_unpublished:
        raise not_published(name, found)
    return found


def not_published(name: str, entry: Entry) -> NotPublished:
    if entry.state == State.REJECTED:
        return NotPublished(
            f"{name!r} was rejected by a step. See why with 'manage.py queued_storage unpublished'."
        )
    return NotPublished(
        f"{name!r} is not published yet: its steps have not passed. Use unpublished() to read it."
    )


def is_still_local(storage: LocatingStorage, name: str, entry: Entry) -> bool:
    """Return whether the local copy is still that of the entry's file."""
    now = ledger().entry(storage.alias, name)
    return bool(now and now.pk == entry.pk and now.is_here)


def local_file_missing(
    storage: LocatingStorage, name: str
) -> LocalFileMissing | LocalStorageMissing:
    """Return the error for a file that is only local, and is not there."""
    if problem := volumes.problem_of(storage.alias, storage.local):
        return LocalStorageMissing(f"{name!r} has not been transferred yet. {problem}")
    return LocalFileMissing(
        f"{name!r} has not been transferred yet and its local copy is not on this machine."
    )
