"""Work on transferred files, each under a claim on its row."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.core.files import File
from django.db import transaction

from ..exceptions import LeaseLost, LocalFileChanged, LocalStorageMissing, VerificationError
from ..files import localfiles, volumes
from ..files.newfiles import new_file
from ..files.streams import MeasuredFile, PiecewiseFile
from ..ledger import copies as further
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..signals import file_evicted
from ..transfers import destinations, leases, removal, signs, work
from ..transfers.copies import CopiesMissing, is_copy
from ..transfers.delays import backoff
from ..transfers.leases import Lease
from ..transfers.parts import sides_of
from ..transfers.removal import RemoteClosed
from ..uploaders.substitution import may_help
from .passes import Report, Step, each, ignore, never
from .steering import enqueue_rows
from .storages import OperableStorage, storage_of

CHANGED = "The file was changed in the meantime."


@dataclass(frozen=True)
class Errand:
    """Something to do with one transferred file while no one else can claim it."""

    action: Callable[[OperableStorage, QueuedFile, Lease], None]
    evicts: bool = False  # whether a worker finishes the eviction if this process dies
    find: Callable[[QueuedFile], OperableStorage] = storage_of

    def run(self, pk: int) -> str:
        """Claim the row and run the action; return why it failed, or an empty string.

        The reason is stored in the row, unless the file was changed in the meantime.
        """
        row = ledger().claim_settled(pk, evicts=self.evicts)
        return CHANGED if row is None else self.run_claimed(row)

    def run_claimed(self, row: QueuedFile) -> str:
        """Do the same for a row that is claimed already."""
        with leases.keep(row) as lease:
            try:
                self.action(self.find(row), row, lease)
            except LeaseLost:
                release(row)
                return CHANGED
            except LocalStorageMissing as error:  # no fault of the file
                release(row)
                return reason(error, *sides_of(row))
            except RemoteClosed as error:  # no fault of the file either
                release(row)
                return str(error)
            except Exception as error:
                text = reason(error, *sides_of(row))
                # Workers then try the eviction again, and 'status' shows the reason.
                is_kept_due = self.evicts and isinstance(error, LocalFileChanged | CopiesMissing)
                if not is_kept_due or not ledger().postpone(row, backoff(1), text):
                    release(row, text)
                logger.info("%s: %s", row, text, extra=fields_of(row))
                return text
            except BaseException:
                ledger().settle(row)
                raise
        return ""

    def run_all(
        self, rows: QueuedFileQuerySet, report: Report, until: Callable[[], bool] = never
    ) -> int:
        """Run it for each row until ``until()`` returns True; return how often it succeeded."""
        count = 0
        for row in each(rows):
            if until():
                break
            error = self.run(row.pk)
            count += not error
            report(Step(1, row.size, error, str(row)))
        return count


def release(row: QueuedFile, error: str = "") -> None:
    """Give the claim back; if the row has changed, what is due now is enqueued."""
    if not ledger().settle(row, error) and ledger().release_claim(row):
        enqueue_rows([row])


def evict(
    rows: QueuedFileQuerySet, report: Report = ignore, *, until: Callable[[], bool] = never
) -> int:
    """Delete local copies of transferred files, oldest first; return how many.

    Each remote copy is verified before. Local copies on other hosts are skipped. Before each file
    ``until()`` is called; if it returns True, the pass ends.
    """
    return EVICT.run_all(rows.evictable(), report, until)


def restore(rows: QueuedFileQuerySet, report: Report = ignore) -> int:
    """Download transferred files back to local storage; return how many."""
    return RESTORE.run_all(rows.restorable(), report)


def _evict(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    removal.evict_settled(storage, row, lease)
    work.send(file_evicted, storage, row)


def _restore(storage: OperableStorage, row: QueuedFile, lease: Lease) -> None:
    destinations.require_same_place(storage, row)
    try:
        _restore_noting(storage, row, lease, row.remote_name)
    except Exception as error:
        if not (may_help(storage.uploader, error) and _restore_from_mirror(storage, row, lease)):
            raise


def _restore_from_mirror(storage: OperableStorage, row: QueuedFile, lease: Lease) -> bool:
    """Restore a file from its first further copy that can be read; return whether one could."""
    for copy in further.copies().verified_of(row.pk, row.generation):
        its = storage.with_remote_of(copy)
        try:
            _restore_noting(its, row, lease, copy.remote_name)
        except Exception as error:
            if not may_help(its.uploader, error):
                raise
            place = its.remote_place.description
            logger.warning("%s cannot be read from %s: %s", row, place, reason(error, its.remote))
        else:
            return True
    return False


def _restore_noting(
    storage: OperableStorage, row: QueuedFile, lease: Lease, remote_name: str
) -> None:
    """Restore a file; note what that says of the remote."""
    try:
        restore_from(storage, row, lease, remote_name)
    except Exception as error:
        signs.note_failure(storage, row.pk, error)
        raise
    signs.note_read(storage)


def restore_from(storage: OperableStorage, row: QueuedFile, lease: Lease, remote_name: str) -> None:
    """Restore a file from the remote of a storage, which has it under this name."""
    if row.is_local:
        raise LeaseLost(f"{row} already has a local copy.")
    volumes.require(row.alias, storage.local, mark=True)
    pieces = PiecewiseFile(storage.uploader.read_back(remote_name), row.name)
    measured = MeasuredFile(pieces, row.name, lambda count: lease.progress())
    with contextlib.ExitStack() as stack:
        source: File = measured
        if not localfiles.has_paths(storage.local):  # an incomplete file would be visible
            source = stack.enter_context(_downloaded(measured))
        file = stack.enter_context(new_file(storage.local, row.name, source))
        _require_whole(row, measured)
        may_take_over = _was_restored_before(storage, row)
        lease.confirm()
        with transaction.atomic(using=ledger_database()):  # locks the row against new content
            if not ledger().mark_restored(row):
                raise LeaseLost(f"{row} was changed before its local copy was complete.")
            taken = file.take(row.name)
            if taken is None and may_take_over:
                file.take_over(row.name)
            elif taken != row.name:
                raise FileExistsError(f"Another local file has the name {row.name!r}.")


EVICT = Errand(_evict, evicts=True)
RESTORE = Errand(_restore)


@contextlib.contextmanager
def _downloaded(content: File) -> Iterator[File]:
    """A temporary file with all of the content."""
    with tempfile.TemporaryFile() as copy:
        for chunk in content.chunks():
            copy.write(chunk)
        copy.seek(0)
        yield File(copy, content.name)


def _require_whole(row: QueuedFile, measured: MeasuredFile) -> None:
    found = measured.content
    if found.size != row.size or (row.checksum and found.checksum != row.checksum):
        recorded = f"the checksum {row.checksum}" if row.checksum else "no checksum"
        raise VerificationError(
            f"The remote copy {row.remote_name!r} has {found.size:,} bytes and the checksum "
            f"{found.checksum}, but the ledger has {row.size:,} bytes and {recorded}."
        )


def _was_restored_before(storage: OperableStorage, row: QueuedFile) -> bool:
    """Whether a process that died has put the whole local copy in place already."""
    if not is_copy(storage, row):
        return False
    # It may also be the file of a storage that shares the local directory.
    others = ledger().filter(name=row.name, is_local=True).exclude(pk=row.pk)
    return not others.exists()
