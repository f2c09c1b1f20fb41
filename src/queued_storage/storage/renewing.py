"""Gives the name of a file new content: of a deleted one, or of one that is written to."""

import contextlib
import mimetypes
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from django.core.files import File
from django.core.files.storage import Storage
from django.db import connections, transaction

from ..conf import settings
from ..exceptions import NameUnavailable
from ..files import localfiles, successors, volumes
from ..files.newfiles import NewFile
from ..files.streams import content_of
from ..files.successors import NextVersion
from ..files.writing import WritableFile
from ..ledger.database import ledger
from ..ledger.names import Name, StoredName
from ..ledger.states import Content, Entry
from ..queues import BaseQueue
from ..queues.on_commit import enqueue_on_commit
from . import recheck
from .gated import GatedStorage, Saved
from .parts import Parts
from .results import TransferResult, last_results
from .room import Room

PUBLISH_MAX = 20  # times that other processes may be faster with the same name


class RenewingStorage(GatedStorage):
    """The part of a queued storage that gives recorded files new content."""

    # Deleted files

    def _take_over(
        self,
        parts: Parts,
        name: str,
        file: NewFile,
        details: Callable[[], Content],
        *,
        is_taken: bool,
    ) -> Saved | None:
        """Let a deleted file of this name have the new content; None if there is none.

        A worker may still delete the old copies: it compares the generation first, and the new one
        is transferred only after it let go of the row.
        """
        entry = parts.rows.latest_entry(parts.alias, name)
        if entry is None:  # a worker has just finished the delete
            return self._record_new(parts, name, details()) if is_taken else None
        if not entry.is_deleted or (entry.is_local and not entry.is_here):
            return None
        if file.can_wait:
            content = details()
            if not content.checksum:
                content = replace(
                    content_of(parts.local, file.readable_name), content_type=content.content_type
                )
            return self._begin(parts, name, entry, content, file.wait_as)
        if is_taken and not entry.is_local and self._start(parts, name, entry, details()):
            size = details().size
            return Saved(name, entry.pk, size, self._check_of(parts, name, details()))
        return None

    def _record_new(self, parts: Parts, name: str, content: Content) -> Saved | None:
        """Insert the row of a new file; None if the name is taken."""
        with parts.in_one():
            pk = parts.rows.record(parts.alias, name, content, **parts.row_options)
            if pk is None:
                return None
            self._prepare(parts, pk, 1, content)
        return Saved(name, pk, content.size, self._check_of(parts, name, content))

    def _begin(
        self,
        parts: Parts,
        name: str,
        entry: Entry,
        content: Content,
        place: Callable[[str], None],
    ) -> Saved | None:
        """Begin the next generation of a recorded file; None if the row has changed."""
        version = successors.NextVersion(entry.pk, entry.generation + 1, content.checksum)
        is_done = successors.begin(
            parts.local,
            name,
            version,
            lambda: self._start(parts, name, entry, content),
            place,
            parts.rows,
        )
        if not is_done:
            return None
        check = self._check_of(parts, name, content, version)
        return Saved(name, entry.pk, content.size, check)

    def _start(self, parts: Parts, name: str, entry: Entry, content: Content) -> int:
        with parts.in_one():
            started = parts.rows.overwrite(entry, content, **parts.row_options)
            if started:
                self._prepare(parts, entry.pk, entry.generation + 1, content)
        if started:
            self.forget_route(name)
        return started

    # Writing to an open file

    def _open_for_writing(self, name: Name, mode: str) -> File:
        parts = self._parts()
        if str(name).startswith("/"):
            name = self._stored(name).text
        stored = StoredName.new(name, on_file_system=localfiles.has_paths(parts.local))
        entry = self._entry(stored)
        if entry is None:
            stored = self._own_name(stored)
            entry = self._entry(stored)
        exists = ("x" in mode or "a" in mode) and self.exists(stored.text)
        if "x" in mode and exists:
            raise FileExistsError(f"{stored.text!r} already exists.")
        volumes.require(parts.alias, parts.local, mark=True)
        Room(self, stored.text, size=entry.size if entry else 0).make()
        publish = partial(self._publish_in_room, stored, entry)
        with contextlib.ExitStack() as stack:
            existing = None
            if "r" in mode or ("a" in mode and exists):
                existing = stack.enter_context(self._open_for_reading(stored, "rb"))
            return WritableFile(parts.local, stored.text, mode, existing, publish)

    def _publish_in_room(
        self, name: StoredName, opened: Entry | None, draft: str, content: Content
    ) -> None:
        """Do the same as ``_publish()`` if that is within the limits."""
        room = Room(self, name.text, size=content.size)
        room.used_by_draft(lambda: self._publish(name, opened, draft, content))

    def _publish(
        self, name: StoredName, opened: Entry | None, draft: str, content: Content
    ) -> None:
        """Let a finished draft be the file: a new one, or a new generation of a known one."""
        parts = self._parts()
        kind = mimetypes.guess_type(name.text)[0] or ""
        content = replace(content, content_type=kind)
        volumes.require(parts.alias, parts.local)
        for _try in range(PUBLISH_MAX):
            entry = parts.rows.latest_entry(parts.alias, name.text)
            if self.is_gated:
                saved = self._gated(parts, name.text, entry, draft, content)
            elif entry is None:
                saved = self._publish_new(parts, name.text, draft, content)
            else:
                _require_not_deleted(parts.local, name.text, entry, opened)
                place = partial(localfiles.replace, parts.local, draft)
                saved = self._begin(parts, name.text, entry, content, place)
            if saved:
                self._announce_or_hold(parts, saved, self.queue_for(settings.host))
                return
        raise NameUnavailable(f"{name.text!r} is changed by other processes all the time.")

    def _publish_new(self, parts: Parts, name: str, draft: str, content: Content) -> Saved | None:
        """Record the file and put it in place; a file without a row that was there is back after a
        failure."""
        with (
            localfiles.replacing(parts.local, draft, name) as put_in_place,
            transaction.atomic(using=parts.rows.db),
        ):
            pk = parts.rows.record(parts.alias, name, content, **parts.row_options)
            if pk is None:
                return None
            self._prepare(parts, pk, 1, content)
            put_in_place()
            self.forget_route(name)
        return Saved(name, pk, content.size, self._check_of(parts, name, content))

    def _gated(
        self, parts: Parts, name: str, entry: Entry | None, draft: str, content: Content
    ) -> Saved | None:
        """Let a finished draft wait for its steps; a published file stays as it is meanwhile."""
        pk = self._gate(parts, name, entry, draft, content)
        return None if pk is None else Saved(name, pk, content.size)

    # What follows the commit

    def _check_of(
        self, parts: Parts, name: str, written: Content, version: NextVersion | None = None
    ) -> Callable[[], None] | None:
        """Return what is to be done at the commit: record what was written to the file since.

        Without a transaction the file is transferred at once, so there is nothing to wait for.
        ``version`` is that of content that waits for the commit.
        """
        if not connections[parts.rows.db].in_atomic_block:
            return None
        record = partial(self._record_changes, parts, name, written)
        if version is None:
            return recheck.of_file(parts.local, name, record)
        local, waiting = parts.local, successors.waiting_name(name, version)
        check = recheck.of_file(local, name, record, now_at=waiting)

        def check_in_place() -> None:
            successors.put_in_place(local, name, version)
            if check:
                check()

        return check_in_place

    def _record_changes(self, parts: Parts, name: str, written: Content, found: Content) -> None:
        """Record other bytes, unless the row has got new content since."""
        if (found.size, found.checksum) == (written.size, written.checksum):
            return
        entry = parts.rows.latest_entry(parts.alias, name)
        if entry is None or entry.is_deleted or not entry.is_here:
            return
        if (entry.size, entry.checksum) == (written.size, written.checksum):
            found = replace(found, content_type=written.content_type)
            self._start(parts, name, entry, found)

    def _announce_or_hold(self, parts: Parts, saved: Saved, queue: BaseQueue) -> None:
        if not parts.held:
            self._announce(parts, saved, queue)
        elif saved.check:
            transaction.on_commit(saved.check, using=parts.rows.db, robust=True)

    def _announce(self, parts: Parts, saved: Saved, queue: BaseQueue) -> TransferResult:
        """Have the queue, or a foreign task, notified after the commit, and after the check."""
        result = last_results.new(self, saved.pk)
        first = saved.check
        if parts.foreign_task and not parts.prepares:  # otherwise a worker calls it
            first = partial(self._notify_foreign_task, saved)
        enqueue_on_commit(
            parts.alias,
            queue,
            saved.pk,
            result,
            first=first,
            database=parts.rows.db,
            priority=parts.priority,
        )
        return result

    def _notify_foreign_task(self, saved: Saved) -> None:
        if saved.check:
            saved.check()
        # Otherwise it was rolled back
        if ledger().named(self.alias, saved.name).filter(pk=saved.pk).exists():
            self.call_foreign_task(saved.name)
            ledger().mark_task_called(saved.pk)


def new_name(name: Name | None, local: Storage) -> str:
    return StoredName.new(name, on_file_system=localfiles.has_paths(local)).text


def content_type_of(content: Content, name: str) -> str:
    """Return the type of the content, or one that its name suggests."""
    kind = content.content_type
    # Headers do not allow unprintable types, and PostgreSQL does not allow NUL.
    if not kind or not kind.isprintable():
        kind = mimetypes.guess_type(name)[0] or ""
    return kind[:255]


def _require_not_deleted(local: Storage, name: str, entry: Entry, opened: Entry | None) -> None:
    """Refuse to write a deleted file, unless it was deleted before it was opened.

    In a local storage without paths, another process may be saving a file under the name.
    """
    was_there = opened is not None and not opened.is_deleted
    is_taken = entry.is_local and not (entry.is_here and localfiles.has_paths(local))
    if entry.is_deleted and (was_there or is_taken):
        raise NameUnavailable(
            f"{name!r} was deleted while it was written, or its copy on another host is still "
            f"being deleted. Use another name, or save(), which chooses one."
        )
