"""Tell whether a local copy is still what the ledger recorded."""

from collections.abc import Callable
from datetime import datetime

from django.core.files.storage import Storage

from ..exceptions import LocalFileChanged, VerificationError
from ..files import successors
from ..files.stamps import Stamp, modified_at, read_unchanging, stamp_of
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from ..remotes.classes import dotted_path
from ..tasks import Transfer, TransferAndDelete
from .parts import TransferringStorage

ADVICE = (
    "Upload it with 'manage.py queued_storage accept-local', or replace it with the remote copy "
    "with 'reconcile --repair different-local'."
)
# The tasks that upload the bytes of the local copy
VERBATIM = {dotted_path(Transfer), dotted_path(TransferAndDelete), ""}


def is_changed(local: Storage, row: QueuedFile, found: Content) -> bool:
    """Return whether a local copy, whose bytes were read, is not what the ledger recorded.

    Where the ledger doesn't know the bytes of a transferred file, the time decides: without a
    checksum, and if a task of the project may have uploaded other bytes.
    """
    if found.size == row.size and row.checksum in {found.checksum, ""}:
        return not row.checksum and row.is_remote and _is_modified_since(local, row, row.saved_at)
    if row.is_remote and row.checksum and row.task not in VERBATIM:
        return _is_modified_since(local, row, row.transferred_at)
    return True


def _is_modified_since(local: Storage, row: QueuedFile, known: datetime | None) -> bool:
    modified = modified_at(local, row.name)
    return modified is not None and known is not None and modified > known


def require_intact(
    storage: TransferringStorage, row: QueuedFile, progress: Callable[[], object]
) -> Stamp | None:
    """Read the local copy; raise ``LocalFileChanged`` if it is not what was transferred.

    Returns its stamp, or None if it does not exist.
    """
    local = storage.local
    successors.put_in_place(local, row.name, row)
    try:
        found, stamp = read_unchanging(local, row.name, progress)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if is_changed(local, row, found) and not _is_as_on_remote(storage, row, found):
        raise LocalFileChanged(
            f"The local copy of {row.name!r} has {found.size:,} bytes and the checksum "
            f"{found.checksum}, but {row.size:,} bytes {_checksum_of(row)}were transferred. It was "
            f"changed after the transfer. {ADVICE}"
        )
    return stamp


def require_unchanged(storage: TransferringStorage, row: QueuedFile, seen: Stamp | None) -> None:
    """Raise ``LocalFileChanged`` if the local copy was written to since it had this stamp."""
    if stamp_of(storage.local, row.name) != seen:
        raise LocalFileChanged(
            f"The local copy of {row.name!r} was changed a moment before it could be evicted. "
            f"{ADVICE}"
        )


def _is_as_on_remote(storage: TransferringStorage, row: QueuedFile, found: Content) -> bool:
    """Return whether the remote has these bytes, for a row that doesn't know its checksum."""
    if row.checksum or found.size != row.size:
        return False
    try:
        storage.uploader.verify_content(row.remote_name, found)
    except VerificationError:
        return False
    return True


def _checksum_of(row: QueuedFile) -> str:
    return f"with the checksum {row.checksum} " if row.checksum else ""
