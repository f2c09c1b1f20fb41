"""Evict or restore each of many transferred files, under a claim on it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from django.core.files import File
from django.db import transaction

from ..conf import settings
from ..exceptions import LeaseLost, VerificationError
from ..files import localfiles
from ..files.streams import MeasuredFile, PiecewiseFile
from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import is_reachable_from_here
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..signals import file_evicted
from ..transfers import copies, leases, work
from ..transfers.copies import is_copy
from ..transfers.leases import Lease
from ..transfers.parts import sides_of
from .passes import BATCH, Step, Tell, never, nobody
from .steering import enqueue_rows


def evict(
    rows: QueuedFileQuerySet, tell: Tell = nobody, *, until: Callable[[], bool] = never
) -> int:
    """Free the local copies of transferred files, after a look that the remote has them; returns
    how many.

    The oldest go first, and none any more as soon as ``until()`` is true. One that this host
    cannot see stays.
    """
    return _each(rows.evictable(), _evict, tell, until)


def restore(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Bring transferred files back to the local storage; returns how many."""
    return _each(rows.restorable(), restore_one, tell, never)


Errand = Callable[[Any, QueuedFile, Lease], None]


def _each(rows: QueuedFileQuerySet, errand: Errand, tell: Tell, until: Callable[[], bool]) -> int:
    count = 0
    for row in (row for batch in rows.in_batches(BATCH) for row in batch):
        if until():
            break
        error = run_errand(row.pk, errand, evicts=errand is _evict)
        count += error is None
        tell(Step(1, row.size, error or "", str(row)))
    return count


def run_errand(pk: int, errand: Errand, *, evicts: bool = False) -> str | None:
    """Do something with a transferred file, under a claim; returns why it was in vain, which is
    written to the row, too, or None."""
    row = ledger().claim_settled(pk, evicts=evicts)
    if row is None:
        return "It was changed meanwhile."
    with leases.keep(row) as lease:
        try:
            errand(storage_for(row.alias, row.task), row, lease)
            return None
        except Exception as error:
            text = "" if isinstance(error, LeaseLost) else reason(error, *sides_of(row))
            if not ledger().settle(row, text) and ledger().release_claim(row):
                enqueue_rows([row])
            if text:
                logger.info("%s: %s", row, text, extra=fields_of(row))
            return text or "It was changed meanwhile."
        except BaseException:
            ledger().settle(row)
            raise


def _evict(storage: Any, row: QueuedFile, lease: Lease) -> None:
    if not row.is_local or not is_reachable_from_here(row.host):
        raise LeaseLost(f"{row} has no local copy here any more.")
    copies.verify_remote(storage, row, settings.verify, lease.progress)
    lease.confirm()
    copies.free_local(storage, row)
    work.send(file_evicted, storage, row)


def restore_one(storage: Any, row: QueuedFile, lease: Lease) -> None:
    if row.is_local:
        raise LeaseLost(f"{row} has a local copy again.")
    pieces = PiecewiseFile(storage.uploader.read_back(row.remote_name), row.name)
    measured = MeasuredFile(pieces, row.name, lambda count: lease.progress())
    with contextlib.ExitStack() as stack:
        source: File = measured
        if not localfiles.has_paths(storage.local):  # which shows at once what it is given
            source = stack.enter_context(_set_aside(measured))
        file = stack.enter_context(localfiles.new_file(storage.local, row.name, source))
        _require_whole(row, measured)
        may_take_over = _is_there(storage, row)
        lease.confirm()
        with transaction.atomic(using=ledger_database()):  # locked against new content
            if not ledger().mark_restored(row):
                raise LeaseLost(f"{row} is not to be restored any more.")
            taken = file.take(row.name)
            if taken is None and may_take_over:
                file.take_over(row.name)
            elif taken != row.name:
                raise FileExistsError(f"Another local file is in the way of {row.name!r}.")


@contextlib.contextmanager
def _set_aside(content: File) -> Iterator[File]:
    with tempfile.TemporaryFile() as copy:
        for chunk in content.chunks():
            copy.write(chunk)
        copy.seek(0)
        yield File(copy, content.name)


def _require_whole(row: QueuedFile, measured: MeasuredFile) -> None:
    found = measured.content
    if found.size != row.size or (row.checksum and found.checksum != row.checksum):
        raise VerificationError(
            f"The remote gave {found.size} bytes of {row.remote_name!r} with {found.checksum}, "
            f"but {row.size} with {row.checksum or 'any checksum'} were sent."
        )


def _is_there(storage: Any, row: QueuedFile) -> bool:
    """Whether somebody died who had put the file in place already."""
    if not is_copy(storage, row):
        return False
    others = ledger().filter(name=row.name, is_local=True).exclude(pk=row.pk)
    return not others.exists()  # of a storage that may share our local one
