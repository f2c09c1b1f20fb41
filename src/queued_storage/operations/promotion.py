"""Promote files whose transfer the ledger doesn't know of, as after the restore of a backup."""

from ..exceptions import LocalFileMissing, TransferError, VerificationError
from ..files import presence, successors, volumes
from ..files.streams import checksum_of
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import Content, State, is_reachable_from_here
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..storage.routes import Routes
from ..transfers import copies, destinations
from ..transfers.copies import Upload
from ..transfers.owners import Others
from ..transfers.parts import sides_of
from .storages import OperableStorage, storage_of

UNTRANSFERRED = (State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED)
CHANGED = "The file was changed in the meantime."


def is_stranded(storage: OperableStorage, row: QueuedFile) -> bool:
    """Return whether no worker can transfer a file: its local copy is missing on this host, or its
    transfer failed on another one, whose disk may be lost."""
    if not is_reachable_from_here(row.host):
        return row.state == State.FAILED
    return row.state in UNTRANSFERRED and not _has_local_copy(storage, row)


def _has_local_copy(storage: OperableStorage, row: QueuedFile) -> bool:
    volumes.require(row.alias, storage.local)
    name = successors.current_name(storage.local, row.name, row)
    return presence.exists(storage.local, name)


def promote(row: QueuedFile, *, dry_run: bool = False) -> str:
    """Make reads use the remote copy, if it is what the row recorded; return why not, or "".

    The local copy must not exist, or be on another host. A file that a worker is transferring is
    left to it.
    """
    try:
        storage = storage_of(row)
        upload, verified = _verified(storage, row)
        if not dry_run and not _record(storage, row, upload, verified):
            return CHANGED
    except Exception as error:
        return reason(error, *sides_of(row))
    if not dry_run:
        logger.info("%s was found on the remote.", row, extra=fields_of(row))
    return ""


def _verified(storage: OperableStorage, row: QueuedFile) -> tuple[Upload, str]:
    """Return the remote copy with what proved it; raise an error if it is not this file's."""
    if is_reachable_from_here(row.host) and _has_local_copy(storage, row):
        raise TransferError(f"{row.name!r} has its local copy. Run 'retry' to transfer it.")
    if row.object_name or not storage.has_fixed_place:
        destinations.require_same_place(storage, row)
    name = row.remote_name or row.name
    uploader = storage.uploader
    if not uploader.exists(name):
        place = "" if is_reachable_from_here(row.host) else f" on the host {row.host!r}"
        raise LocalFileMissing(
            f"The remote has no file {name!r}. Put the local copy back{place} and run 'retry', or "
            f"remove the file with 'prune'."
        )
    if Others(row, storage.remote).have_under_any_name(name):
        raise VerificationError(f"The file {name!r} on the remote is the copy of another file.")
    if row.checksum:
        upload = Upload(name, Content(row.size, row.checksum), is_found=True)
        return upload, copies.verify_upload(uploader, upload, lambda: None)
    # Of a large upload, which was moved into place, only the size is known.
    uploader.verify_size(name, Content(row.size, ""))
    found = checksum_of(uploader.read_back(name))
    if found.size != row.size:
        raise VerificationError(
            f"The remote holds {name!r} with {found.size:,} bytes, but the ledger has {row.size:,}."
        )
    return Upload(name, Content(found.size, str(found)), is_found=True), "size"


def _record(storage: OperableStorage, row: QueuedFile, upload: Upload, verified: str) -> int:
    is_local = not is_reachable_from_here(row.host)
    promoted = ledger().promote_found(
        row,
        upload.remote_name,
        upload.content,
        verified,
        is_local=is_local,
        place=storage.remote_place.digest,
    )
    Routes(row.alias, storage.cache_prefix).forget(row.name)
    return promoted
