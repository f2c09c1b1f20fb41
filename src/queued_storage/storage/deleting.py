"""Deletes a file from both storages, as part of the transaction."""

import contextlib

from ..exceptions import LocalStorageMissing
from ..files import localfiles, presence, volumes
from ..ledger.database import in_transaction, ledger, on_commit
from ..ledger.names import Name, StoredName
from ..ledger.states import Entry
from ..queues.on_commit import enqueue_on_commit, require_commits
from ..transfers import copies, gatekeeping
from .advising import advised
from .reading import ReadableStorage


class DeletingStorage(ReadableStorage):
    """The part of a queued storage that deletes files."""

    @advised
    def delete(self, name: Name) -> None:
        """Delete a file, as part of the transaction: both copies go after the commit.

        A worker removes the remote copy. If the local copy cannot be removed, the error is raised
        outside a transaction and logged inside one; a worker tries again.
        """
        if not name:
            raise ValueError("The name must be given to delete().")
        if self._hides(name):
            return
        stored = self._stored(name)
        entry = self._entry(stored)
        if entry is None:
            stored = self._own_name(stored)
            entry = self._entry(stored)
        if entry is None and self._is_local_matter(stored):
            self.local.delete(stored.text)
            return
        require_commits()
        if entry is not None:
            deleted = self._bury(entry)
        elif self.asks_for_unknown or self._may_have(stored.text):
            deleted = self._bury_unrecorded(stored.text)
        else:
            return
        if deleted is not None:
            self.forget_route(stored.text)
            self._finish_delete(deleted, stored.text)

    def _is_local_matter(self, name: StoredName) -> bool:
        """Return whether a name without a row concerns the local storage only.

        A remote-only file may have the same name as a local directory; that one has a row.
        """
        return not name.can_be_recorded or localfiles.is_directory(self.local, name.text)

    def _may_have(self, name: str) -> bool:
        """Return whether the local storage has a file, or its volume is not mounted."""
        return presence.exists(self.local, name) or volumes.is_missing(self.alias, self.local)

    def _bury(self, entry: Entry) -> Entry | None:
        """Turn a row into a tombstone; None if it is one already."""
        if entry.is_deleted:
            return None
        # How many rows were changed does not matter: the answer may be lost with the connection.
        ledger().filter(pk=entry.pk).mark_deleting()
        return entry

    def _bury_unrecorded(self, name: str) -> Entry | None:
        """Record a tombstone of a name without a row; None if another process deletes it."""
        place = self.remote_place.digest
        is_recorded = ledger().record_tombstone(self.alias, name, place=place) is not None
        entry = ledger().latest_entry(self.alias, name)
        if is_recorded or entry is None or entry.is_deleted:
            return entry if is_recorded else None
        # Another process saved the file at this moment.
        return entry if ledger().filter(pk=entry.pk).mark_deleting() else None

    def _finish_delete(self, entry: Entry, name: str) -> None:
        enqueue_on_commit(self.alias, self.queue_for(entry.host, is_local=entry.is_local), entry.pk)
        on_commit(lambda: self._drop_local(entry, name), robust=in_transaction())

    def _drop_local(self, entry: Entry, name: str) -> None:
        with contextlib.suppress(LocalStorageMissing):  # a worker does it when the volume is back
            copies.drop_local(self, name, entry)
            if self.has_steps or entry.is_unpublished:
                gatekeeping.discard(self, entry.pk)
