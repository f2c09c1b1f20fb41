"""Keeps new content from readers until its steps have passed."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.storage import Storage
from django.db import transaction

from ..exceptions import NameUnavailable
from ..files import localfiles, quarantine
from ..files.newfiles import NewFile
from ..files.reopening import StoredFile
from ..files.streams import content_of
from ..ledger.database import on_commit
from ..ledger.names import Name
from ..ledger.preparations import Preparation, PreparationState, preparations
from ..ledger.states import Content, Entry, is_reachable_from_here
from .advising import advised
from .deleting import DeletingStorage
from .parts import Parts


class Saved(NamedTuple):
    """A file that is in the ledger, with what is to be checked when that is committed."""

    name: str
    pk: int
    size: int = 0
    check: Callable[[], None] | None = None
    is_transferred: bool = False  # already, by the save itself


class GatedStorage(DeletingStorage):
    """The part of a queued storage that knows files before they are published."""

    # What users ask

    @advised
    def unpublished(self, name: Name) -> File:
        """Open the content of a file that waits for its steps, or that was rejected.

        Of a file that is published, this is the new content that waits, if there is some. Raises
        ``FileNotFoundError`` if no content waits, and if it lies on another host.
        """
        preparation = self._preparation(name)
        if preparation is None:
            raise FileNotFoundError(f"No content of {str(name)!r} waits to be published.")
        if not is_reachable_from_here(preparation.host):
            raise FileNotFoundError(
                f"The unpublished content of {str(name)!r} is on the host {preparation.host!r}."
            )
        opened = self.local.open(quarantine.local_name(self.local, preparation))
        return StoredFile(opened, lambda mode: self.unpublished(name))

    @advised
    def is_published(self, name: Name) -> bool:
        """Return whether readers get the file."""
        stored = self._stored(name)
        entry = self._entry(stored)
        if entry is None:
            return self.exists(stored.text)
        return not (entry.is_deleted or entry.is_unpublished)

    @advised
    def rejection(self, name: Name) -> str | None:
        """Return why the last content of a file was rejected; None if it was not."""
        preparation = self._preparation(name)
        if preparation is None or preparation.state != PreparationState.REJECTED:
            return None
        return preparation.reason

    def _preparation(self, name: Name) -> Preparation | None:
        stored = self._stored(name)
        entry = self._entry(stored)
        if entry is None or entry.is_deleted:
            return None
        return preparations().of(entry.pk).current().select_related("file").first()

    # Saving

    def _prepare(self, parts: Parts, pk: int, generation: int, content: Content) -> None:
        """Let the steps begin of content that is the file's own already."""
        if parts.prepares:
            self._begin_steps(parts, pk, generation, content)

    def _begin_steps(
        self, parts: Parts, pk: int, generation: int, content: Content, hidden: str = ""
    ) -> None:
        """Record the preparation; earlier content that waited goes after the commit."""
        if before := preparations().begin(pk, generation, content, hidden):
            discard = partial(localfiles.discard, parts.local, before)
            on_commit(lambda: discard())

    def _require_gate(self, local: Storage) -> None:
        """Raise ``ImproperlyConfigured`` if the local storage cannot keep content from readers."""
        if self.is_gated and not localfiles.has_paths(local):
            raise ImproperlyConfigured(
                f"{self.alias}: publish='after_steps' needs a FileSystemStorage as the local "
                f"storage, not {type(local).__name__}."
            )

    def _gate_new(
        self, parts: Parts, names: Iterator[str], draft: NewFile, content: Content
    ) -> Saved:
        """Record a new file under the first free name; its bytes lie under a hidden one."""
        if not draft.can_wait:
            raise ImproperlyConfigured(
                f"{self.alias}: publish='after_steps' needs a local storage that does not choose "
                f"names itself."
            )
        if not content.checksum:  # the file was moved, so its bytes were not read
            found = content_of(parts.local, draft.readable_name)
            content = Content(found.size, found.checksum, content.content_type)
        name = next(names)
        hidden = quarantine.new_hidden_name(name)
        draft.wait_as(hidden)
        with _Waiting(parts, hidden) as waiting:
            while (pk := self._record_gated(parts, name, content, waiting)) is None:
                name = next(names)
        return Saved(name, pk, content.size)

    def _record_gated(
        self, parts: Parts, name: str, content: Content, waiting: "_Waiting"
    ) -> int | None:
        with waiting.transaction():
            pk = parts.rows.record(parts.alias, name, content, **parts.row_options, is_local=False)
            if pk is not None:
                self._begin_steps(parts, pk, 1, content, waiting.hidden)
        return pk

    def _gate(
        self, parts: Parts, name: str, entry: Entry | None, draft: str, content: Content
    ) -> int | None:
        """Let a finished draft wait as the content of a file, new or known; None if the row has
        changed."""
        if entry and entry.is_deleted:
            raise NameUnavailable(
                f"{name!r} is being deleted. Use another name, or save(), which chooses one."
            )
        hidden = quarantine.new_hidden_name(name)
        localfiles.replace(parts.local, draft, hidden)
        with _Waiting(parts, hidden) as waiting:
            if entry is None:
                pk = self._record_gated(parts, name, content, waiting)
            else:
                pk = self._gate_known(parts, entry, content, waiting)
        if pk is None:
            localfiles.replace(parts.local, hidden, draft)
        return pk

    def _gate_known(
        self, parts: Parts, entry: Entry, content: Content, waiting: "_Waiting"
    ) -> int | None:
        with waiting.transaction():
            if entry.is_unpublished:
                options = parts.row_options
                same = parts.rows.overwrite(entry, content, **options, is_local=False)
                generation = entry.generation + 1
            else:  # it stays published as it is
                same = parts.rows.lock_generation(entry.pk, entry.generation)
                generation = entry.generation
            if not same:
                return None
            self._begin_steps(parts, entry.pk, generation, content, waiting.hidden)
        return entry.pk


class _Waiting(contextlib.AbstractContextManager["_Waiting"]):
    """Bytes under a hidden name, which go if a block fails that was to record them."""

    def __init__(self, parts: Parts, hidden: str) -> None:
        self.hidden = hidden
        self._parts = parts
        self._may_be_recorded = False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that records them."""
        with transaction.atomic(using=self._parts.rows.db):
            yield
            self._may_be_recorded = True  # the answer to the COMMIT may be lost

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            return
        with contextlib.suppress(Exception):
            if not (self._may_be_recorded and preparations().filter(hidden=self.hidden).exists()):
                localfiles.discard(self._parts.local, self.hidden)
