"""``QueuedStorage``, the storage that projects configure."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, Literal

from django.core.files import File
from django.core.files.storage import Storage
from django.utils.deconstruct import deconstructible

from ..exceptions import NameUnavailable
from ..files import localfiles, volumes
from ..files.newfiles import new_file
from ..files.reopening import StoredFile
from ..files.streams import MeasuredFile, content_of
from ..files.writing import is_for_writing
from ..ledger.aliases import keeps_its_key
from ..ledger.names import Name, StoredName, tidy
from ..ledger.states import Content, State
from ..queues.on_commit import require_commits
from ..reporting.spans import span
from . import priorities
from .advising import advised
from .coroutines import AsyncStorage
from .gated import Saved
from .parts import Parts
from .renewing import content_type_of, new_name
from .results import TransferResult, last_results
from .room import Room
from .through import WriteThrough


@keeps_its_key
@deconstructible(path="queued_storage.backends.QueuedStorage")
class QueuedStorage(AsyncStorage):
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
        previous: Sequence[Any] | None = None,
        mirrors: Sequence[Any] | None = None,
        evict_after: Literal["all", "first"] | None = None,
        keep_local: Mapping[str, Any] | None = None,
        max_pending_bytes: int | str | None = None,
        when_full: Literal["refuse", "remote"] | None = None,
        priority: Literal["high", "normal", "low"] | int | None = None,
        steps: Sequence[Any] | None = None,
        publish: Literal["at_once", "after_steps"] | None = None,
        list_unpublished: bool | None = None,
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
            previous=previous,
            mirrors=mirrors,
            evict_after=evict_after,
            keep_local=keep_local,
            max_pending_bytes=max_pending_bytes,
            when_full=when_full,
            priority=priority,
            steps=steps,
            publish=publish,
            list_unpublished=list_unpublished,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._given_alias or self._alias or ''}>"

    @advised
    def open(self, name: Name, mode: str = "rb") -> File:
        """Open a file: the local copy if there is one, else the remote one.

        A file opened for writing becomes visible, as a whole, when it is closed. Raises
        ``FileNotFoundError`` for a file that does not exist.
        """
        if is_for_writing(mode):
            opened = self._open_for_writing(name, mode)
        else:
            opened = self._open_for_reading(self._stored(name), mode)
        return StoredFile(opened, partial(self.open, name))

    # Saving

    @advised
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
        wanted = new_name(given, parts.local)
        parts = parts._replace(priority=priorities.of_content(content, parts.priority))
        if not hasattr(content, "chunks"):
            content = File(content, wanted)
        with span("save", storage=parts.alias) as saving:
            try:
                saved = self._store_in_room(parts, wanted, content, max_length)
            except ValueError as error:
                if getattr(content, "closed", False):
                    raise ValueError(
                        f"The file given for {wanted!r} is closed; open it before saving it."
                    ) from error
                raise
            saving.note(file=saved.pk)
        if saved.is_transferred:
            last_results.new(self, saved.pk).enqueued(None)
        else:
            self._announce_or_hold(parts, saved, parts.queue)
        return saved.name

    def is_name_available(self, name: str, max_length: int | None = None) -> bool:
        """Return whether a new file may try this name: it is short enough, and no local copy has
        it but that of a deleted file.

        The ledger decides about names on other hosts and on the remote, when the row is written.
        """
        if max_length and len(name) > max_length:
            return False
        return not self.local.exists(name) or self._is_deleted_here(name)

    def _is_deleted_here(self, name: str) -> bool:
        """Return whether the local copy of this name is a deleted file's: it goes when the
        transaction is committed, or once a worker has compared an unconfirmed upload with it."""
        if not localfiles.has_paths(self.local):
            return False
        entry = self._entry(StoredName.of(name))
        return bool(entry and entry.is_deleted and entry.is_here)

    def get_valid_name(self, name: str) -> str:
        return self.local.get_valid_name(name)

    def _store_in_room(
        self, parts: Parts, name: str, content: File, max_length: int | None
    ) -> Saved:
        """Do the same as ``_store()`` if the local storage has room, or can get it."""
        candidates = partial(self._candidates, parts.local, name, max_length)
        return Room(self, name, content).used_by(
            lambda: self._store(parts, name, content, max_length),
            lambda saved: saved.size,
            lambda: WriteThrough(self, parts, candidates(), content).save(),
        )

    def _store(self, parts: Parts, name: str, content: File, max_length: int | None) -> Saved:
        """Write the file and its row, under the first name that neither the local storage nor the
        ledger refuses."""
        local = parts.local
        self._require_gate(local)
        names = self._candidates(local, name, max_length)
        if not localfiles.has_paths(local):
            return self._store_reserved(parts, names, content)
        volumes.require(parts.alias, local, mark=True)
        name = next(names)
        measured = MeasuredFile(content, name)
        # A movable file is not read.
        is_moved = hasattr(content, "temporary_file_path") and localfiles.moves_files(local)
        with new_file(local, name, content if is_moved else measured) as file:

            def details() -> Content:
                found = measured.content
                kind = content_type_of(found, name)
                if is_moved:
                    found = Content(local.size(file.readable_name), "")
                elif file.size not in {None, found.size}:
                    # The local storage changes content; this is what readers get.
                    found = content_of(local, file.readable_name)
                return Content(found.size, found.checksum, kind)

            if self.is_gated:
                return self._gate_new(parts, chain([name], names), file, details())
            while True:
                taken = file.take(name)
                if taken:
                    name = taken if taken == name else tidy(taken)
                    if saved := self._record_new(parts, name, details()):
                        # Before there was a row, a delete of this name could remove the file. If
                        # the row was deleted since, the file must not come back.
                        if file.keep_name() and not self._is_living(parts, saved.pk):
                            file.give_up_name()
                        return saved
                if saved := self._take_over(parts, name, file, details, is_taken=bool(taken)):
                    return saved
                name = next(names)

    @staticmethod
    def _is_living(parts: Parts, pk: int) -> bool:
        """Return whether the row of a new file is as it was added."""
        new = parts.rows.filter(pk=pk, generation=1)
        return new.exclude(state=State.DELETING).exists()

    def _candidates(self, local: Storage, name: str, max_length: int | None) -> Iterator[str]:
        """Yield the names that a new file tries; going on means that the last one is taken."""
        wanted = name
        for _try in range(localfiles.MAX_NAMES):
            refused, name = name, self._other_name(local, name, max_length)
            if _try and name == refused:  # of a file without a local copy
                name = self._alternative(name, max_length)
            yield name
        raise FileExistsError(f"No free name was found for {wanted!r}.")

    def _alternative(self, name: str, max_length: int | None) -> str:
        if not self._names_as_django:
            raise NameUnavailable(
                f"{type(self).__name__}.get_available_name() chose {name!r}, which is used by "
                f"another file, or by one that is still being deleted. Choose another name, or "
                f"write the file with open(name, 'wb')."
            )
        directory, file_name = posixpath.split(name)
        extension = "".join(PurePosixPath(file_name).suffixes)
        root = file_name.removesuffix(extension)
        other = posixpath.join(directory, self.get_alternative_name(root, extension))
        return self.get_available_name(other, max_length=max_length)

    def _other_name(self, local: Storage, name: str, max_length: int | None) -> str:
        if self._names_as_django and self.is_name_available(name, max_length):
            return name  # as Django would answer, after taking the name apart
        other = self.get_available_name(name, max_length=max_length)
        return other if other == name else new_name(other, local)

    @property
    def _names_as_django(self) -> bool:
        """Whether no subclass chooses names in its own way."""
        cls = type(self)
        return (
            cls.get_available_name is Storage.get_available_name
            and cls.is_name_available is QueuedStorage.is_name_available
        )

    # Transferring

    @property
    def result(self) -> TransferResult | None:
        """The result of the last ``save()`` or ``transfer()`` of this thread."""
        return last_results.get(self)

    @advised
    def transfer(self, name: Name) -> TransferResult:
        """Queue the file for transfer now and reset its retry count.

        Delayed and failed files need this; for a transferred file nothing is done. Raises
        ``FileNotFoundError`` for a name without a row.
        """
        parts = self._parts()
        stored = self._stored(name)
        entry = self._entry(stored)
        if entry is None or entry.is_deleted:
            raise FileNotFoundError(f"The ledger has no file {stored.text!r} of {self.alias!r}.")
        if parts.rows.filter(pk=entry.pk).make_due():
            saved = Saved(stored.text, entry.pk)
            return self._announce(parts, saved, self.queue_for(entry.host))
        result = last_results.new(self, entry.pk)
        result.enqueued(None)  # the transfer is running or done
        return result

    @advised
    def wait(
        self,
        names: Iterable[Name] | None = None,
        timeout: float | None = None,
        *,
        copies: int = 1,
        tier: str | None = None,
    ) -> None:
        """Block until all files saved before the call, or ``names``, are on the remote, and have
        ``copies`` copies there and on mirrors.

        If the remote is a queued storage, wait until they are on its remote, and so on, up to the
        remote that is called ``tier``, in whose way held files are an error, or the last one.

        Held files are not waited for, unless they are named: that is an error. Raises
        ``TransferError`` as soon as one of the files has failed, ``TransferTimeout`` after
        ``timeout`` seconds.
        """
        self._barrier(names, copies, tier).wait(timeout)
