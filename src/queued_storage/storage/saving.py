"""``QueuedStorage``, the storage that projects configure."""

import contextlib
import mimetypes
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from django.core.files import File
from django.core.files.storage import Storage
from django.db import transaction
from django.utils.deconstruct import deconstructible

from ..conf import settings
from ..exceptions import NameUnavailable
from ..files import localfiles, successors
from ..files.localfiles import NewFile
from ..files.reopening import StoredFile
from ..files.streams import MeasuredFile, content_of
from ..files.writing import WritableFile, is_for_writing
from ..ledger.aliases import keeps_its_key
from ..ledger.database import in_transaction, ledger
from ..ledger.names import Name, StoredName, tidy
from ..ledger.states import Content, Entry
from ..queues import BaseQueue
from ..queues.on_commit import enqueue_on_commit, require_commits
from ..reporting.spans import span
from .barrier import Barrier
from .composition import Parts
from .deleting import DeletingStorage
from .results import TransferResult, last_results

PUBLISH_MAX = 20  # times that other processes may be faster with the same name


@keeps_its_key
@deconstructible(path="queued_storage.backends.QueuedStorage")
class QueuedStorage(DeletingStorage):
    """A storage that saves files to ``local`` and has a queue upload them to ``remote``.

    ``local`` and ``remote`` take an alias of ``STORAGES``, a dotted path (with ``local_options``
    and ``remote_options``), a dict with ``BACKEND`` and ``OPTIONS``, or a storage. The docs
    describe the other options, under "Storages". One instance serves all threads.
    """

    def __init__(
        self,
        local: Any = None,
        remote: Any = None,
        local_options: dict[str, Any] | None = None,
        remote_options: dict[str, Any] | None = None,
        cache_prefix: str | None = None,
        delayed: bool | None = None,
        task: Any = None,
        *,
        alias: str | None = None,
        queue: Any = None,
        uploader: str | None = None,
        unknown: Literal["ask", "absent"] | None = None,
        url_mode: Literal["direct", "signed", "stable", "proxied"] | None = None,
    ) -> None:
        super().__init__(
            local=local,
            remote=remote,
            local_options=local_options,
            remote_options=remote_options,
            cache_prefix=cache_prefix,
            delayed=delayed,
            task=task,
            alias=alias,
            queue=queue,
            uploader=uploader,
            unknown=unknown,
            url_mode=url_mode,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._given_alias or self._alias or ''}>"

    def open(self, name: Name, mode: str = "rb") -> File:
        """Open a file: the local copy if there is one, else the remote one.

        A file opened for writing becomes visible, as a whole, when it is closed. Raises ``FileNotFoundError`` for a file that does not exist.
        """
        if is_for_writing(mode):
            opened = self._open_for_writing(name, mode)
        else:
            opened = self._open_for_reading(StoredName.of(name), mode)
        return StoredFile(opened, partial(self.open, name))

    # Saving

    def save(self, name: Name | None, content: Any, max_length: int | None = None) -> str:
        """Save a new file locally and record it; return its name.

        The remote is not called, and no file is overwritten: a name that is taken gets a suffix.
        If anything fails, what was written is removed again. Raises ``InvalidName``, a
        ``SuspiciousFileOperation``, for a name that cannot be kept.
        """
        parts = self._parts()
        if not parts.held:
            require_commits(parts.rows.db)
        given = getattr(content, "name", None) if name is None else name
        wanted = _new_name(given, parts.local)
        if not hasattr(content, "chunks"):
            content = File(content, wanted)
        with span("save", storage=parts.alias) as saving:
            try:
                saved, pk = self._store(parts, wanted, content, max_length)
            except ValueError as error:
                if getattr(content, "closed", False):
                    raise ValueError(
                        f"The file given for {wanted!r} is closed; open it before saving it."
                    ) from error
                raise
            saving.note(file=pk)
        if not parts.held:
            self._announce(parts, pk, saved, parts.queue)
        return saved

    def is_name_available(self, name: str, max_length: int | None = None) -> bool:
        """Return whether a new file may try this name: it is short enough, and no local copy has
        it but one that this transaction deletes.

        The ledger decides about names on other hosts and on the remote, when the row is written.
        """
        if max_length and len(name) > max_length:
            return False
        return not self.local.exists(name) or self._is_deleted_here(name)

    def _is_deleted_here(self, name: str) -> bool:
        """Return whether the local copy of this name goes when the transaction is committed."""
        if not in_transaction() or not localfiles.has_paths(self.local):
            return False
        entry = self._entry(StoredName.of(name))
        return bool(entry and entry.is_deleted and entry.is_here)

    def get_valid_name(self, name: str) -> str:
        return self.local.get_valid_name(name)

    def _store(
        self, parts: Parts, name: str, content: File, max_length: int | None
    ) -> tuple[str, int]:
        """Write the file and its row, under the first name that neither the local storage nor the
        ledger refuses."""
        local = parts.local
        name = self._other_name(local, name, max_length)
        measured = MeasuredFile(content, name)
        # A movable file is not read.
        is_moved = hasattr(content, "temporary_file_path") and localfiles.moves_files(local)
        with localfiles.new_file(local, name, content if is_moved else measured) as file:

            def details() -> Content:
                found = measured.content
                if is_moved:
                    return replace(found, size=local.size(file.readable_name), checksum="")
                if file.size in {None, found.size}:
                    return found
                # The local storage changes content; this is what readers get.
                return replace(
                    content_of(local, file.readable_name), content_type=found.content_type
                )

            for _try in range(localfiles.MAX_NAMES):
                taken = file.take(name)
                if taken:
                    name = taken if taken == name else tidy(taken)
                    pk = _record(parts, name, details())
                    if pk is not None:
                        return name, pk
                pk = self._take_over(parts, name, file, details, is_taken=bool(taken))
                if pk is not None:
                    return name, pk
                refused, name = name, self._other_name(local, name, max_length)
                if name == refused:
                    raise NameUnavailable(
                        f"{type(self).__name__}.get_available_name() chose {name!r}, which is "
                        f"used by another file, or by one that is still being deleted. Choose "
                        f"another name, or write the file with open(name, 'wb')."
                    )
            raise FileExistsError(f"No free name was found for {name!r}.")

    def _take_over(
        self,
        parts: Parts,
        name: str,
        file: NewFile,
        details: Callable[[], Content],
        *,
        is_taken: bool,
    ) -> int | None:
        """Let a deleted file of this name have the new content; None if there is none.

        A worker may still delete the old copies: it compares the generation first, and the new one
        is transferred only after it let go of the row.
        """
        entry = parts.rows.latest_entry(parts.alias, name)
        if entry is None:  # a worker has just finished the delete
            return _record(parts, name, details()) if is_taken else None
        if not entry.is_deleted or (entry.is_local and not entry.is_here):
            return None
        if file.can_wait:
            content = details()
            if not content.checksum:
                content = replace(
                    content_of(parts.local, file.readable_name), content_type=content.content_type
                )
            is_done = self._begin(parts, name, entry, content, file.wait_as)
        elif is_taken and not entry.is_local:
            is_done = bool(self._start(parts, entry, details()))
        else:
            is_done = False
        return entry.pk if is_done else None

    def _begin(
        self,
        parts: Parts,
        name: str,
        entry: Entry,
        content: Content,
        place: Callable[[str], None],
    ) -> bool:
        """Begin the next generation of a recorded file; return False if the row has changed."""
        version = successors.NextVersion(entry.pk, entry.generation + 1, content.checksum)
        is_done = successors.begin(
            parts.local,
            name,
            version,
            lambda: self._start(parts, entry, content),
            place,
            parts.rows,
        )
        if is_done:
            self._forget(name)
        return is_done

    def _start(self, parts: Parts, entry: Entry, content: Content) -> int:
        return parts.rows.overwrite(entry, content, held=parts.held, task=parts.variant)

    def _other_name(self, local: Storage, name: str, max_length: int | None) -> str:
        if self._names_as_django and self.is_name_available(name, max_length):
            return name  # as Django would answer, after taking the name apart
        other = self.get_available_name(name, max_length=max_length)
        return other if other == name else _new_name(other, local)

    @property
    def _names_as_django(self) -> bool:
        """Whether no subclass chooses names in its own way."""
        cls = type(self)
        return (
            cls.get_available_name is Storage.get_available_name
            and cls.is_name_available is QueuedStorage.is_name_available
        )

    def _announce(self, parts: Parts, pk: int, name: str, queue: BaseQueue) -> TransferResult:
        """Have the queue, or a foreign task, notified after the commit."""
        result = last_results.new(self, pk)
        first = partial(self._notify_foreign_task, pk, name) if parts.foreign_task else None
        enqueue_on_commit(parts.alias, queue, pk, result, first=first, database=parts.rows.db)
        return result

    # Writing to an open file

    def _open_for_writing(self, name: Name, mode: str) -> File:
        parts = self._parts()
        stored = StoredName.new(name, on_file_system=localfiles.has_paths(parts.local))
        entry = self._entry(stored)
        exists = ("x" in mode or "a" in mode) and self.exists(stored.text)
        if "x" in mode and exists:
            raise FileExistsError(f"{stored.text!r} already exists.")
        publish = partial(self._publish, stored, entry)
        with contextlib.ExitStack() as stack:
            existing = None
            if "r" in mode or ("a" in mode and exists):
                existing = stack.enter_context(self._open_for_reading(stored, "rb"))
            return WritableFile(parts.local, stored.text, mode, existing, publish)

    def _publish(
        self, name: StoredName, opened: Entry | None, draft: str, content: Content
    ) -> None:
        """Let a finished draft be the file: a new one, or a new generation of a known one."""
        parts = self._parts()
        kind = mimetypes.guess_type(name.text)[0] or ""
        content = replace(content, content_type=kind)
        for _try in range(PUBLISH_MAX):
            entry = parts.rows.latest_entry(parts.alias, name.text)
            if entry is None:
                pk = self._publish_new(parts, name.text, draft, content)
            else:
                _require_not_deleted(name.text, entry, opened)
                place = partial(localfiles.replace, parts.local, draft)
                is_done = self._begin(parts, name.text, entry, content, place)
                pk = entry.pk if is_done else None
            if pk is not None:
                self._forget(name.text)
                if not parts.held:
                    self._announce(parts, pk, name.text, self.queue_for(settings.host))
                return
        raise NameUnavailable(f"{name.text!r} is changed by other processes all the time.")

    def _publish_new(self, parts: Parts, name: str, draft: str, content: Content) -> int | None:
        """Record the file and put it in place; a file without a row that was there is back after a
        failure."""
        details: dict[str, Any] = {"held": parts.held, "task": parts.variant}
        with (
            localfiles.replacing(parts.local, draft, name) as put_in_place,
            transaction.atomic(using=parts.rows.db),
        ):
            pk = parts.rows.record(parts.alias, name, content, **details)
            if pk is not None:
                put_in_place()
        return pk

    # Transferring

    @property
    def result(self) -> TransferResult | None:
        """The result of the last ``save()`` or ``transfer()`` of this thread."""
        return last_results.get(self)

    def transfer(self, name: Name) -> TransferResult:
        """Queue the file for transfer now and reset its retry count.

        Delayed and failed files need this; for a transferred file nothing is done. Raises
        ``FileNotFoundError`` for a name without a row.
        """
        parts = self._parts()
        stored = StoredName.of(name)
        entry = self._entry(stored)
        if entry is None or entry.is_deleted:
            raise FileNotFoundError(f"The ledger has no file {stored.text!r} of {self.alias!r}.")
        if parts.rows.filter(pk=entry.pk).make_due():
            return self._announce(parts, entry.pk, stored.text, self.queue_for(entry.host))
        result = last_results.new(self, entry.pk)
        result.enqueued(None)  # the transfer is running or done
        return result

    def wait(self, names: Iterable[Name] | None = None, timeout: float | None = None) -> None:
        """Block until all files saved before the call, or ``names``, are on the remote.

        Held files are not waited for, unless they are named: that is an error. Raises
        ``TransferError`` as soon as one of the files has failed, ``TransferTimeout`` after
        ``timeout`` seconds.
        """
        if names is None:
            Barrier.for_all(self.alias).wait(timeout)
        else:
            Barrier.for_names(self.alias, names).wait(timeout)

    def _notify_foreign_task(self, pk: int, name: str) -> None:
        if ledger().named(self.alias, name).filter(pk=pk).exists():  # else it was rolled back
            self.call_foreign_task(name)
            ledger().mark_task_called(pk)


def _new_name(name: Name | None, local: Storage) -> str:
    return StoredName.new(name, on_file_system=localfiles.has_paths(local)).text


def _record(parts: Parts, name: str, content: Content) -> int | None:
    kind = content.content_type
    # Headers do not allow unprintable types, and PostgreSQL does not allow NUL.
    if not kind or not kind.isprintable():
        kind = mimetypes.guess_type(name)[0] or ""
    content = Content(content.size, content.checksum, kind[:255])
    return parts.rows.record(parts.alias, name, content, held=parts.held, task=parts.variant)


def _require_not_deleted(name: str, entry: Entry, opened: Entry | None) -> None:
    """Refuse to write a deleted file, unless it was deleted before it was opened."""
    was_there = opened is not None and not opened.is_deleted
    is_elsewhere = entry.is_local and not entry.is_here
    if entry.is_deleted and (was_there or is_elsewhere):
        raise NameUnavailable(
            f"{name!r} was deleted while it was written, or its copy on another host is still "
            f"being deleted. Use another name, or save(), which chooses one."
        )
