"""``QueuedStorage``, the storage that projects configure."""

import contextlib
import mimetypes
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from django.core.files import File
from django.core.files.storage import Storage
from django.db import connections, transaction
from django.utils.deconstruct import deconstructible

from ..exceptions import NameUnavailable
from ..files import localfiles
from ..files.reopening import StoredFile
from ..files.streams import MeasuredFile, content_of
from ..files.writing import WritableFile, is_for_writing
from ..ledger.aliases import keeps_its_key
from ..ledger.database import ledger
from ..ledger.names import Name, StoredName, tidy
from ..ledger.states import Content, Entry
from ..queues import BaseQueue
from ..queues.on_commit import enqueue_on_commit, require_commits
from ..reporting.spans import span
from . import recheck
from .barrier import Barrier
from .composition import Parts
from .deleting import DeletingStorage
from .results import TransferResult, last_results


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

        A file opened for writing becomes visible, as a whole, when it is closed. That is not part
        of a transaction. Raises ``FileNotFoundError`` for a file that does not exist.
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
                saved, pk, check = self._store(parts, wanted, content, max_length)
            except ValueError as error:
                if getattr(content, "closed", False):
                    raise ValueError(
                        f"The file given for {wanted!r} is closed; open it before saving it."
                    ) from error
                raise
            saving.note(file=pk)
        self._announce_or_hold(parts, pk, saved, parts.queue, check)
        return saved

    def is_name_available(self, name: str, max_length: int | None = None) -> bool:
        """Return whether a new file may try this name: it is short enough, and no local copy has
        it.

        The ledger decides about names on other hosts and on the remote, when the row is written.
        """
        return _is_available(self.local, name, max_length)

    def get_valid_name(self, name: str) -> str:
        return self.local.get_valid_name(name)

    def _store(
        self, parts: Parts, name: str, content: File, max_length: int | None
    ) -> tuple[str, int, Callable[[], None] | None]:
        """Write the file and its row, under the first name that neither the local storage nor the
        ledger refuses. Also return what is to be checked when the transaction is committed."""
        local = parts.local
        name = self._other_name(local, name, max_length)
        measured = MeasuredFile(content, name)
        # A movable file is not read.
        is_moved = hasattr(content, "temporary_file_path") and localfiles.moves_files(local)
        with localfiles.new_file(local, name, content if is_moved else measured) as file:
            for _try in range(localfiles.MAX_NAMES):
                if taken := file.take(name):
                    name = taken if taken == name else tidy(taken)
                    details = measured.content
                    if is_moved:
                        details = replace(details, size=local.size(name), checksum="")
                    elif file.size not in {None, details.size}:
                        # The local storage changes content; this is what readers get.
                        details = replace(
                            content_of(local, name), content_type=details.content_type
                        )
                    details = replace(details, content_type=_type_of(details, name))
                    pk = _record(parts, name, details)
                    if pk is not None:
                        return name, pk, self._check_of(parts, name, details)
                name = self._other_name(local, name, max_length)
            raise FileExistsError(f"No free name was found for {name!r}.")

    def _other_name(self, local: Storage, name: str, max_length: int | None) -> str:
        if self._names_as_django and _is_available(local, name, max_length):
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

    def _check_of(self, parts: Parts, name: str, written: Content) -> Callable[[], None] | None:
        """Return what is to be done at the commit: record what was written to the file since.

        Without a transaction the file is transferred at once, so there is nothing to wait for.
        """
        if not connections[parts.rows.db].in_atomic_block:
            return None
        return recheck.of_file(
            parts.local, name, partial(self._record_changes, parts, name, written)
        )

    def _record_changes(self, parts: Parts, name: str, written: Content, found: Content) -> None:
        """Record other bytes, unless the row has got new content since."""
        if (found.size, found.checksum) == (written.size, written.checksum):
            return
        found = replace(found, content_type=written.content_type)
        rows = parts.rows.filter(size=written.size, checksum=written.checksum, is_local=True)
        rows.overwrite(parts.alias, name, found, held=parts.held, task=parts.variant)
        self._forget(name)

    def _announce_or_hold(
        self,
        parts: Parts,
        pk: int,
        name: str,
        queue: BaseQueue,
        check: Callable[[], None] | None,
    ) -> None:
        if not parts.held:
            self._announce(parts, pk, name, queue, check)
        elif check:
            transaction.on_commit(check, using=parts.rows.db, robust=True)

    def _announce(
        self,
        parts: Parts,
        pk: int,
        name: str,
        queue: BaseQueue,
        check: Callable[[], None] | None = None,
    ) -> TransferResult:
        """Have the queue, or a foreign task, notified after the commit, and after the check."""
        result = last_results.new(self, pk)
        first = check
        if parts.foreign_task:
            first = partial(self._notify_foreign_task, pk, name, check)
        enqueue_on_commit(parts.alias, queue, pk, result, first=first, database=parts.rows.db)
        return result

    # Writing to an open file

    def _open_for_writing(self, name: Name, mode: str) -> File:
        parts = self._parts()
        stored = StoredName.new(name, on_file_system=localfiles.has_paths(parts.local))
        _require_not_deleted(stored.text, self._entry(stored))
        exists = ("x" in mode or "a" in mode) and self.exists(stored.text)
        if "x" in mode and exists:
            raise FileExistsError(f"{stored.text!r} already exists.")
        publish = partial(self._publish, stored)
        with contextlib.ExitStack() as stack:
            existing = None
            if "r" in mode or ("a" in mode and exists):
                existing = stack.enter_context(self._open_for_reading(stored, "rb"))
            return WritableFile(parts.local, stored.text, mode, existing, publish)

    def _publish(self, name: StoredName, draft: str, content: Content) -> None:
        """Let a finished draft be the file: a new one, or a new generation of a known one."""
        parts = self._parts()
        kind = mimetypes.guess_type(name.text)[0] or ""
        content = replace(content, content_type=kind)
        with transaction.atomic(using=parts.rows.db):
            # The row is locked from here on, so no eviction can remove the new content.
            if not self._overwrite(parts, name.text, content):
                # Another process deletes the file, or has just saved it.
                _require_not_deleted(name.text, parts.rows.latest_entry(parts.alias, name.text))
                self._overwrite(parts, name.text, content)
            localfiles.replace(parts.local, draft, name.text)
            self._forget(name.text)
            entry = self._entry(name)
            if entry:
                check = self._check_of(parts, name.text, content)
                queue = self.queue_for(entry.host)
                self._announce_or_hold(parts, entry.pk, name.text, queue, check)

    def _overwrite(self, parts: Parts, name: str, content: Content) -> bool:
        """Give the file's row new content, or insert the row; return whether either was done."""
        details: dict[str, Any] = {"held": parts.held, "task": parts.variant}
        if parts.rows.overwrite(parts.alias, name, content, **details):
            return True
        return parts.rows.record(parts.alias, name, content, **details) is not None

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

    def _notify_foreign_task(self, pk: int, name: str, check: Callable[[], None] | None) -> None:
        if check:
            check()
        if ledger().named(self.alias, name).filter(pk=pk).exists():  # else it was rolled back
            self.call_foreign_task(name)
            ledger().mark_task_called(pk)


def _new_name(name: Name | None, local: Storage) -> str:
    return StoredName.new(name, on_file_system=localfiles.has_paths(local)).text


def _is_available(local: Storage, name: str, max_length: int | None) -> bool:
    is_short_enough = not max_length or len(name) <= max_length
    return is_short_enough and not local.exists(name)


def _type_of(content: Content, name: str) -> str:
    kind = content.content_type
    # Headers do not allow unprintable types, and PostgreSQL does not allow NUL.
    if not kind or not kind.isprintable():
        kind = mimetypes.guess_type(name)[0] or ""
    return kind[:255]


def _record(parts: Parts, name: str, content: Content) -> int | None:
    return parts.rows.record(parts.alias, name, content, held=parts.held, task=parts.variant)


def _require_not_deleted(name: str, entry: Entry | None) -> None:
    if entry and entry.is_deleted:
        raise NameUnavailable(
            f"{name!r} is being deleted; the name is free once the remote copy is gone. Use "
            f"another name, or save(), which chooses one."
        )
