"""Carries out what an operator asks for, on files chosen by a query."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.storage import Storage
from django.db import transaction

from .conf import settings
from .exceptions import LeaseLost, VerificationError
from .files import localfiles
from .files.streams import MeasuredFile, PiecewiseFile
from .ledger.aliases import storage_for
from .ledger.database import QueuedFileQuerySet, ledger, ledger_database
from .ledger.measures import aliases
from .ledger.models import QueuedFile
from .ledger.states import is_reachable_from_here
from .queues.wakeup import wake
from .reporting.logs import fields_of, logger
from .reporting.reasons import reason
from .signals import file_evicted
from .storage.routes import Routes
from .transfers import copies, leases, work
from .transfers.copies import is_copy
from .transfers.leases import Lease
from .transfers.work import sides_of

BATCH = 100  # rows in memory


@dataclass(frozen=True, slots=True)
class Step:
    """How far a pass over many files has come: what it has just done with some of them."""

    files: int
    bytes: int
    error: str = ""  # why it was in vain
    name: str = ""  # of the file for which it was


Tell = Callable[[Step], object]


def nobody(step: Step) -> None:
    pass


def _never() -> bool:
    return False


# Transfers


def retry(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Have files worked on now that failed or wait for their next try; returns how many."""
    count = 0
    for batch in rows.retriable().in_batches(BATCH):
        with transaction.atomic(using=ledger_database()):
            count += _of(batch).retry()
            _wake(batch)
        tell(_step(batch))
    return count


def transfer(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Have files transferred now that are held, wait or failed; returns how many."""
    count = 0
    for batch in rows.waiting().in_batches(BATCH):
        with transaction.atomic(using=ledger_database()):
            count += _of(batch).release()
            _wake(batch)
        tell(_step(batch))
    return count


def cancel(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Hold files that are to be transferred, or just being so; returns how many.

    Their local copies stay. Of a transferred file, the eviction that is to come is dropped.
    """
    count = 0
    for batch in rows.cancellable().in_batches(BATCH):
        count += _of(batch).cancel()
        tell(_step(batch))
    return count


def _of(batch: Sequence[QueuedFile]) -> QueuedFileQuerySet:
    return ledger().filter(pk__in=[row.pk for row in batch])


def _step(batch: Sequence[QueuedFile]) -> Step:
    return Step(len(batch), sum(row.size for row in batch))


def _wake(batch: Sequence[QueuedFile]) -> None:
    for row in batch:
        try:
            storage: Any = storage_for(row.alias, row.task)
            queue = storage.queue_for(row.host, is_local=row.is_local)
        except ImproperlyConfigured as error:
            logger.error(
                "%s is due, but nobody here can move it. %s", row, error, extra=fields_of(row)
            )
        else:
            wake(row.alias, queue, row.pk)


# Local copies


def evict(
    rows: QueuedFileQuerySet, tell: Tell = nobody, *, until: Callable[[], bool] = _never
) -> int:
    """Free the local copies of transferred files, after a look that the remote has them; returns
    how many.

    The oldest go first, and none any more as soon as ``until()`` is true. One that this host
    cannot see stays.
    """
    return _each(rows.evictable(), _evict, tell, until)


def restore(rows: QueuedFileQuerySet, tell: Tell = nobody) -> int:
    """Bring transferred files back to the local storage; returns how many."""
    return _each(rows.restorable(), restore_one, tell, _never)


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
            if not ledger().settle(row, text) and ledger().let_go(row):
                _wake([row])
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
            if not ledger().restored(row):
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


def anothers(storage: Any, names: Collection[str], *, if_unknown: bool = True) -> set[str]:
    """Those of a few names whose local file is that of a storage which shares our local one; or of
    one that nobody here knows, with ``if_unknown``."""
    rows = ledger().filter(alias__in=aliases(), name__in=names, is_local=True)  # by the index
    others = rows.exclude(alias=storage.alias).workable_here()
    return {row.name for row in others if _is_in_the_same_place(storage.local, row, if_unknown)}


def _is_in_the_same_place(local: Storage, other: QueuedFile, if_unknown: bool) -> bool:
    try:
        its: Storage = cast(Any, storage_for(other.alias, other.task)).local
    except Exception:  # it has no such alias, or cannot be made
        return if_unknown
    if localfiles.has_paths(local) and localfiles.has_paths(its):
        return local.path(other.name) == its.path(other.name)
    return type(local) is type(its)


# Files that are lost


def prune(
    rows: QueuedFileQuerySet,
    tell: Tell = nobody,
    *,
    dry_run: bool = False,
    until: Callable[[], bool] = _never,
) -> Iterator[str]:
    """Delete files of which there is no copy on either side, where this host can see both; yields
    what they are called. Where there is one, and ``until()`` is true, it is the end."""
    for row in (row for batch in rows.prunable().in_batches(BATCH) for row in batch):
        try:
            is_lost = _is_lost(row)
        except Exception as error:
            tell(Step(1, row.size, reason(error, *sides_of(row)), str(row)))
            continue
        if is_lost and until():
            break
        if is_lost and (dry_run or _bury(row)):
            yield str(row)
        tell(Step(1, row.size))


def _is_lost(row: QueuedFile) -> bool:
    storage: Any = storage_for(row.alias, row.task)
    if storage.local.exists(row.name):
        return False
    return not storage.remote.exists(row.remote_name or row.name)


def _bury(row: QueuedFile) -> bool:
    if not ledger().bury_same(row):
        return False
    storage: Any = storage_for(row.alias, row.task)
    Routes(row.alias, storage.cache_prefix).forget(row.name)
    _wake([row])
    return True
