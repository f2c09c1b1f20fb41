"""``QueuedStorage``: saves locally, records, and has a queue carry the file to the remote."""

import contextlib
import mimetypes
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.storage import Storage
from django.db import transaction
from django.utils.deconstruct import deconstructible

from ..conf import settings
from ..exceptions import InvalidName, NameUnavailable, TransferError
from ..files import localfiles
from ..files.streams import MeasuredFile, checksum_of
from ..files.writing import WritableFile, is_for_writing
from ..ledger.aliases import keeps_its_key
from ..ledger.database import ledger, ledger_database
from ..ledger.names import Name, can_be_recorded, require_storable, tidy, tidy_new
from ..ledger.states import Content, Entry, State
from ..queues.wakeup import require_commits, wake
from ..reporting.descriptions import by_name
from ..reporting.spans import span
from ..transfers import copies
from .reading import BULK, ReadableStorage
from .results import TransferResult, last_results, wait_until


@keeps_its_key
@deconstructible(path="queued_storage.backends.QueuedStorage")
class QueuedStorage(ReadableStorage):
    """Two storages behind one: files are saved to ``local`` and carried to ``remote`` by a queue.

    ``local`` and ``remote`` take an alias of ``STORAGES``, a dotted path (with ``local_options``
    and ``remote_options``), a dict with ``BACKEND`` and ``OPTIONS``, or a storage. The other
    options are described in the docs, under "Storages". One instance serves all threads.
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
        """Open a file; the local copy where there is one.

        A file opened for writing becomes visible, as a whole, when it is closed. That is not part
        of a transaction. ``FileNotFoundError`` is raised for a file that is not there.
        """
        if is_for_writing(mode):
            return self._open_for_writing(tidy_new(name), mode)
        return self._open_for_reading(tidy(name), mode)

    # Saving

    def save(self, name: Name | None, content: Any, max_length: int | None = None) -> str:
        """Save a new file locally and record it; returns its name.

        No call to the remote is made, and no file is overwritten: a name that is taken gets a
        suffix. What was written is removed again if anything fails on the way. Raises
        ``SuspiciousFileOperation`` (``InvalidName``) for a name that cannot be kept.
        """
        # What is configured wrongly must show before anything is done.
        _ = self.local, self.remote, self.alias, self.queue, self.task
        if not self.delayed:
            require_commits()
        name = tidy_new(getattr(content, "name", None) if name is None else name)
        if not hasattr(content, "chunks"):
            content = File(content, name)
        self._require_valid(name)
        with span("save", storage=self.alias) as saving:
            try:
                name, pk = self._store(name, content, max_length)
            except ValueError as error:
                if getattr(content, "closed", False):
                    raise ValueError(
                        f"The file given for {name!r} is closed; open it before it is saved."
                    ) from error
                raise
            saving.note(file=pk)
        self._announce(pk, name, settings.host)
        return name

    def _require_valid(self, name: str) -> None:
        require_storable(name, on_file_system=localfiles.has_paths(self.local))
        if localfiles.is_unfinished(name):
            raise InvalidName(
                f"{name!r} would be taken for an unfinished file; choose another name."
            )

    def is_name_available(self, name: str, max_length: int | None = None) -> bool:
        """Whether a new file may try this name: no local copy has it, and it is short enough.

        What other hosts and the remote have is settled by the ledger, when the row is written.
        """
        is_short_enough = not max_length or len(name) <= max_length
        return is_short_enough and not self.local.exists(name)

    def get_valid_name(self, name: str) -> str:
        return self.local.get_valid_name(name)

    def _store(self, name: str, content: File, max_length: int | None) -> tuple[str, int]:
        """Write the file and its row, under the first name that neither the local storage nor the
        ledger refuses."""
        name = self._other_name(name, max_length)
        measured = MeasuredFile(content, name)
        # Then it is moved, not read.
        is_movable = hasattr(content, "temporary_file_path") and localfiles.moves_files(self.local)
        source = content if is_movable else measured
        with localfiles.new_file(self.local, name, source) as file:
            for _try in range(localfiles.MAX_NAMES):
                if taken := file.take(name):
                    name = tidy(taken)
                    details = measured.content
                    if is_movable:
                        details = replace(details, size=self.local.size(name), checksum="")
                    elif file.size not in {None, details.size}:
                        details = self._as_read_back(name, details)
                    pk = self._record(name, details)
                    if pk is not None:
                        return name, pk
                name = self._other_name(name, max_length)
            raise FileExistsError(f"No free name was found for {name!r}.")

    def _as_read_back(self, name: str, content: Content) -> Content:
        """What readers get from a local storage that changes what it is given."""
        with self.local.open(name) as file:
            found = checksum_of(file.chunks())
        return replace(content, size=found.size, checksum=str(found))

    def _record(self, name: str, content: Content) -> int | None:
        kind = content.content_type
        if not kind or not kind.isprintable():  # no header takes it, nor does PostgreSQL take NUL
            kind = mimetypes.guess_type(name)[0] or ""
        content = Content(content.size, content.checksum, kind[:255])
        return ledger().record(self.alias, name, content, held=self.delayed, task=self.variant)

    def _other_name(self, name: str, max_length: int | None) -> str:
        is_plain = type(self).get_available_name is Storage.get_available_name
        if is_plain and self.is_name_available(name, max_length):
            return name  # as Django's would say, which takes the name apart first
        other = self.get_available_name(name, max_length=max_length)
        if other != name:
            other = tidy_new(other)
            self._require_valid(other)
        return other

    def _announce(self, pk: int, name: str, host: str) -> None:
        if self.delayed:
            return
        result = TransferResult(pk)
        last_results.put(self, result)
        self._wake(pk, name, host, result)

    def _wake(self, pk: int, name: str, host: str, result: TransferResult) -> None:
        def tell() -> None:
            if ledger().named(self.alias, name).filter(pk=pk).exists():  # no savepoint took it back
                self.tell_foreign_task(name)
                ledger().mark_told(pk)

        first = tell if self.foreign_task else None
        wake(self.alias, self.queue_for(host), pk, result, first=first)

    # Writing to an open file

    def _open_for_writing(self, key: str, mode: str) -> File:
        _ = self.remote, self.queue, self.task
        self._require_valid(key)
        entry = self._entry(key)
        self._require_not_deleted(key, entry)
        keeps = "a" in mode or "r" in mode
        with contextlib.ExitStack() as stack:
            existing = None
            if "x" in mode and self.exists(key):
                raise FileExistsError(f"{key!r} exists.")
            if "r" in mode or (keeps and self.exists(key)):
                existing = stack.enter_context(self._open_for_reading(key, "rb"))
            return WritableFile(self.local, key, mode, existing, partial(self._publish, key))

    def _publish(self, key: str, draft: str, content: Content) -> None:
        """Let a finished draft be the file: a new one, or a new generation of a known one."""
        kind = mimetypes.guess_type(key)[0] or ""
        content = replace(content, content_type=kind)
        with transaction.atomic(using=ledger_database()):
            # The row is locked from here on, so no eviction can remove what is put in place.
            details: dict[str, Any] = {"held": self.delayed, "task": self.variant}
            known = ledger().overwrite(self.alias, key, content, **details)
            if not known and ledger().record(self.alias, key, content, **details) is None:
                self._require_not_deleted(key, ledger().latest_entry(self.alias, key))
                ledger().overwrite(self.alias, key, content, **details)
            localfiles.replace(self.local, draft, key)
            self._forget(key)
            entry = self._entry(key)
            if entry:
                self._announce(entry.pk, key, entry.host)

    @staticmethod
    def _require_not_deleted(key: str, entry: Entry | None) -> None:
        if entry and entry.is_deleted:
            raise NameUnavailable(
                f"{key!r} is being deleted, and its name is not free before the remote copy is "
                f"gone. Use another name, or save(), which finds one."
            )

    # Deleting

    def delete(self, name: Name) -> None:
        """Delete a file, as part of the transaction: both copies go after the commit.

        The remote one goes in a worker. An error in removing the local one is raised outside a
        transaction and logged inside one; it is tried again with the remote's.
        """
        if not name:
            raise ValueError("The name must be given to delete().")
        key = tidy(name)
        entry = self._entry(key)
        # A file that is only on the remote may be called as a directory here is.
        is_directory = entry is None and localfiles.is_directory(self.local, key)
        if not can_be_recorded(key) or is_directory:
            self.local.delete(key)
            return
        require_commits()
        if entry is None and not self.asks_for_unknown and not self.local.exists(key):
            return
        if entry is None:
            pk = ledger().record_tombstone(self.alias, key)
            entry = ledger().latest_entry(self.alias, key)
        else:
            ledger().filter(pk=entry.pk).mark_deleting()
            pk = None if entry.is_deleted else entry.pk  # an answer may be lost with the connection
        if pk is None and entry and not entry.is_deleted:  # somebody saved it this instant
            pk = entry.pk if ledger().filter(pk=entry.pk).mark_deleting() else None
        if pk is not None and entry is not None:
            self._forget(key)
            self._finish_delete(entry, key)

    def _finish_delete(self, entry: Entry, key: str) -> None:
        pk = entry.pk
        wake(self.alias, self.queue_for(entry.host, is_local=entry.is_local), pk)
        in_transaction = transaction.get_connection(ledger_database()).in_atomic_block
        _on_commit(lambda: copies.drop_local(self, pk, key), robust=in_transaction)

    def _forget(self, key: str) -> None:
        """Let no reader take the file for settled, neither before nor after the commit."""
        routes = self._routes
        routes.forget(key)
        if transaction.get_connection(ledger_database()).in_atomic_block:
            _on_commit(lambda: routes.forget(key))

    # Transferring

    @property
    def result(self) -> TransferResult | None:
        """What the last ``save()`` or ``transfer()`` of this thread queued."""
        return last_results.get(self)

    def transfer(self, name: Name) -> TransferResult:
        """Have a file transferred now, with all its retries before it.

        It is the way on for a delayed file and for one that failed; for a file that is there
        already nothing is done. ``FileNotFoundError`` is raised for a name without a row.
        """
        key = tidy(name)
        entry = self._entry(key)
        if entry is None or entry.is_deleted:
            raise FileNotFoundError(f"The ledger has no file {key!r} of {self.alias!r}.")
        result = TransferResult(entry.pk)
        last_results.put(self, result)
        if not ledger().filter(pk=entry.pk).make_due():
            result.told(None)  # it runs, or it is done
            return result
        self._wake(entry.pk, key, entry.host, result)
        return result

    def tell_foreign_task(self, name: str) -> None:
        """Call the ``delay()`` of a task that moves files in its own way."""
        self.foreign_task.delay(*self.foreign_arguments(name))

    def foreign_arguments(self, name: str) -> tuple[Any, ...]:
        """What 0.8 gave to ``task.delay()``. Options go along, so they reach the task's broker."""
        local, local_options = self._path_and_options("local")
        remote, remote_options = self._path_and_options("remote")
        return name, self.get_cache_key(name), local, remote, local_options, remote_options

    def _path_and_options(self, side: str) -> tuple[str, dict[str, Any]]:
        maker, args, options = self.blueprint(side)
        named, nameless = by_name(maker, args)
        if nameless:
            raise ImproperlyConfigured(f"{side}: give the arguments {nameless!r} by keyword.")
        path = maker if isinstance(maker, str) else f"{maker.__module__}.{maker.__qualname__}"
        return path, {**named, **options}

    def wait(self, names: Iterable[Name] | None = None, timeout: float | None = None) -> None:
        """Block until all that was saved before the call, or ``names``, is on the remote.

        Delayed files that nobody asked to transfer are not waited for. Raises ``TransferError``
        as soon as one of the files has failed for good, ``TransferTimeout`` after ``timeout``
        seconds.
        """
        files = ledger().filter(alias=self.alias)
        if names is None:
            newest = files.order_by("-pk").values_list("pk", flat=True).first() or 0
            groups = [files.filter(pk__lte=newest).exclude(state=State.HELD)]
        else:
            wanted = {tidy(name) for name in names}
            asked = sorted(filter(can_be_recorded, wanted))
            parts = (asked[start : start + BULK] for start in range(0, len(asked), BULK))
            groups = [files.filter(name__in=part) for part in parts]
            known = {name for group in groups for name in group.values_list("name", flat=True)}
            if missing := wanted - known:
                raise FileNotFoundError(
                    f"The ledger has no {min(missing)!r} of {self.alias!r} to wait for."
                )

        def is_over() -> bool:
            for group in groups:
                if failed := group.filter(state=State.FAILED).first():
                    raise TransferError(f"{failed}: {failed.last_error}")
                if names is not None and (held := group.filter(state=State.HELD).first()):
                    raise TransferError(f"{held} waits for transfer().")
            on_their_way = [State.PENDING, State.TRANSFERRING]
            return not any(group.filter(state__in=on_their_way).exists() for group in groups)

        if transaction.get_connection(ledger_database()).in_atomic_block and not is_over():
            raise TransferError(
                "What this transaction saved is transferred after its commit; wait after that."
            )
        wait_until(is_over, timeout, "The transfers")


def _on_commit(action: Callable[[], object], *, robust: bool = True) -> None:
    """Errors are logged if ``robust``; for that, Django 5.2 needs a function, not a partial."""
    transaction.on_commit(action, using=ledger_database(), robust=robust)
