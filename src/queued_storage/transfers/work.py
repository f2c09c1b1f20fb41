"""The work on one file under one claim."""

import errno
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models.signals import post_migrate
from django.dispatch import Signal

from ..conf import settings
from ..exceptions import (
    InvalidResult,
    LeaseLost,
    LocalFileChanged,
    LocalFileMissing,
    LocalFileUnreadable,
    LocalStorageMissing,
    NameTooLong,
    OtherWriter,
    RemoteChanged,
    TransferError,
)
from ..files import volumes
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here
from ..reporting.counts import counted
from ..reporting.hourly import Hourly
from ..reporting.logs import about, logger
from ..reporting.reasons import reason
from ..reporting.spans import Span, span
from ..runtime import ending
from ..signals import file_deleted, file_evicted, file_transferred, transfer_failed
from . import attempt, leases, removal, throughput
from .circuit import Circuit, Fate, Verdict, circuit_of
from .copies import CopiesMissing
from .delays import OPERATOR_DELAY, backoff
from .gates import gates
from .leases import Lease
from .outcomes import Outcome
from .parts import TransferringStorage, sides_of, storage_at, storage_of
from .solitude import solitude

# What ends a process in its main thread, and a single task in any other thread
ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)


# Failures that say nothing about the remote. That of a thread that hangs is judged afterwards,
# since the row is to be released first.
NOT_THE_REMOTES = (ImproperlyConfigured, OtherWriter, RemoteChanged, TransferError)


def run(pk: int) -> Exception | None:
    """Do what is due for the row ``pk``, unless it is not due or another worker has it.

    This is safe to call for any id, any number of times, from anywhere. Return the exception of a
    failed attempt, which the ledger has recorded.
    """
    was_claimed, error = run_new(pk)
    return error if was_claimed else run_suspect(pk)


def run_new(pk: int) -> tuple[bool, Exception | None]:
    """Do the same unless the file is a suspect; return whether it could be claimed, too."""
    if is_closed(pk):
        return True, None
    with solitude.beside_others():
        row = None if pk in leases.held() else ledger().claim_new(pk)
        return row is not None, run_claimed(row) if row else None


def run_suspect(pk: int) -> Exception | None:
    """Do the same only if the file is a suspect, while this process does nothing else."""
    suspects = ledger().filter(pk=pk).suspects()
    if pk in leases.held() or not suspects.exists() or is_closed(pk):
        return None
    with solitude.alone() as is_alone:
        row = ledger().claim_suspect(suspects) if is_alone else None
        return run_claimed(row) if row else None


def is_closed(pk: int) -> bool:
    """Return whether the remote of the file's storage is closed; then the file waits for it.

    The process that opens it sends one message. It is not dropped because this process has not
    noticed yet that the remote is open.
    """
    if not _is_known_to_be_closed(pk):
        return False
    gates.forget()
    return _is_known_to_be_closed(pk)


def _is_known_to_be_closed(pk: int) -> bool:
    closed = gates.closed()
    return bool(closed) and ledger().filter(pk=pk, alias__in=closed).exists()


def run_claimed(row: QueuedFile) -> Exception | None:
    """Do the same for a row that this process has claimed.

    What was requested for the file meanwhile is done at once.
    """
    claimed: QueuedFile | None = row
    error = None
    while claimed:
        error, is_superseded = _run_once(claimed)
        is_due = is_superseded and not gates.is_closed(row.alias)
        claimed = ledger().claim_new(row.pk) if is_due else None
    return error


def _run_once(row: QueuedFile) -> tuple[Exception | None, bool]:
    """Return the exception of a failed attempt, and whether the claim was superseded."""
    with about(row), leases.keep(row) as lease:
        try:
            storage = storage_at(row)
        except ImproperlyConfigured as error:  # a fault of this process, not of the file
            logger.error("%s", error)
            lease.ledger.postpone(row, settings.retry_delay, reason(error), count=False)
            return error, False
        if place := removal.closed_place(storage, row):
            text = f"A remote that has a copy is closed: {place}."
            lease.ledger.postpone(row, settings.probe_every, text, count=False)
            return None, False
        return _Work(storage, row, lease).run()


def tries_names(alias: str) -> bool:
    """Return whether small files of this storage are sent to their own names unchecked."""
    try:
        return storage_of(alias, "").uploader.never_overwrites(0)
    except Exception:  # an attempt reports it
        return False


class Step(NamedTuple):
    """A part of the work, in a span of its own unless it has no operation."""

    action: Callable[[TransferringStorage, QueuedFile, Lease], Outcome]
    operation: str | None = None


class Consequence(NamedTuple):
    """What follows an outcome: a log message, a signal, and the next step."""

    message: str | None = None
    signal: Signal | None = None
    next_step: Step | None = None


EVICT = Step(removal.evict, "evict")

# What the state of a claimed row leads to
FIRST_STEPS: dict[str, Step] = {
    State.TRANSFERRING: Step(attempt.transfer, "attempt"),
    State.TRANSFERRED: Step(removal.resume),
    State.DELETING: Step(removal.purge, "purge"),
}

# What the outcome of a step leads to
CONSEQUENCES = {
    Outcome.TRANSFERRED: Consequence("%s was transferred.", file_transferred),
    Outcome.TRANSFERRED_FOR_EVICTION: Consequence("%s was transferred.", file_transferred, EVICT),
    Outcome.READY_TO_EVICT: Consequence(next_step=EVICT),
    Outcome.EVICTED: Consequence("The local copy of %s was evicted.", file_evicted),
    Outcome.DELETED: Consequence("%s was deleted.", file_deleted),
    Outcome.SETTLED: Consequence(),
}


# The outcomes that show that the remote works
PROOFS = {Outcome.TRANSFERRED, Outcome.TRANSFERRED_FOR_EVICTION}


_changed = Hourly()  # files whose place is not the one that is configured


def _forget(**kwargs: object) -> None:
    """Forget what was logged after a flush, which removes the files."""
    _changed.forget()


post_migrate.connect(_forget)


class _Work:
    """What one claim on one row leads to."""

    def __init__(self, storage: TransferringStorage, row: QueuedFile, lease: Lease) -> None:
        self.storage = storage
        self.row = row
        self.lease = lease
        lease.on_stall = self.stall
        self.outcome: Outcome | None = None  # of the last step

    def run(self) -> tuple[Exception | None, bool]:
        """Return the exception of a failed attempt, and whether something else is to be done."""
        try:
            self._take_steps()
            return None, False
        except LeaseLost as error:
            logger.info("%s", error)
            return None, self._release()
        except Exception as error:
            if ending.has_begun():
                text = reason(error, *sides_of(self.row))
                logger.info("%s is given back, because the process ends: %s", self.row, text)
                self._give_back("The process ended during the attempt.")
                return error, False
            is_recorded = self._fail(error) or self.lease.stalled
            return (error, False) if is_recorded else (None, self._release())
        except BaseException as end:
            if isinstance(end, ENDS) and threading.current_thread() is threading.main_thread():
                # The process was told to end, which is no fault of the file.
                self._give_back("The worker was stopped.")
            elif not self._fail(end):  # a queue's time limit: the attempt counts
                self.lease.ledger.release_claim(self.row)
            raise

    def _give_back(self, text: str) -> None:
        """Make the file due at once, without counting the attempt."""
        self.lease.ledger.postpone(self.row, 0, text, count=self._is_evicting)

    def _take_steps(self) -> None:
        step = FIRST_STEPS.get(self.row.state)
        if step is None:
            raise LeaseLost(f"{self.row} was overwritten while it was claimed.")
        if not self._asks_after_failure:
            self._require_volume()
        while step:
            with self._span(step.operation) if step.operation else nullcontext():
                self.outcome = step.action(self.storage, self.row, self.lease)
                if self.outcome in PROOFS:
                    self._circuit.succeeded()
                    throughput.transferred(self.row.alias, self.row.size)
                consequence = CONSEQUENCES[self.outcome]
                if consequence.message:
                    logger.info(consequence.message, self.row)
                if consequence.signal:
                    send(consequence.signal, self.storage, self.row)
            step = consequence.next_step

    @property
    def _asks_after_failure(self) -> bool:
        """Whether only a failed attempt asks for the volume: a foreign task may fail elsewhere."""
        return (
            self.row.state == State.TRANSFERRING
            and not self.storage.foreign_task
            and volumes.was_just_seen(self.row.alias, self.storage.local)
        )

    def _require_volume(self) -> None:
        """Raise ``LocalStorageMissing`` if the local copy is on a volume that is not mounted."""
        if self.row.is_local and is_reachable_from_here(self.row.host):
            volumes.require(self.row.alias, self.storage.local)

    def _span(self, operation: str) -> Span:
        row = self.row
        return span(operation, storage=row.alias, file=row.pk, attempt=row.attempts, bytes=row.size)

    @property
    def _circuit(self) -> Circuit:
        return circuit_of(self.row.alias, self.storage.other_place)

    @property
    def _is_evicting(self) -> bool:
        """Whether this claim transferred the file and goes on with its eviction.

        Its attempt then counts however it ends: by that, the next worker knows that an eviction is
        due.
        """
        return self.outcome is Outcome.TRANSFERRED_FOR_EVICTION

    def _release(self) -> bool:
        """Release the row; return whether something else may be due for it."""
        return not self.lease.is_over and bool(self.lease.ledger.release_claim(self.row))

    # Failure

    def stall(self) -> None:
        """Record that the thread of this work hangs. If it goes on, it finds its claim void."""
        try:
            with about(self.row):
                # Recorded first, so that another worker need not wait for a trial.
                is_counted = self._fail(self.lease.stall())
                self._judge(self.lease.stall())
                self._circuit.recorded(self.row.pk, is_counted=is_counted)
        except Exception as error:  # the lease expires
            logger.warning("A stalled attempt could not be ended: %s", reason(error))
        finally:
            self.lease.end()
            connections.close_all()

    def _fail(self, error: BaseException) -> bool:
        """Record the failure and release the row; return False if the claim was lost."""
        row = self.row
        error = self._cause_of(error)
        text = reason(error, *sides_of(row))
        is_unmounted = isinstance(error, LocalStorageMissing)
        if is_unmounted:
            gates.forget()  # so that no more files of this storage are claimed
        if is_unmounted and row.state == State.TRANSFERRING:
            return bool(self.lease.ledger.undo_attempt(row))
        if isinstance(error, CopiesMissing):  # the last copy makes the row due
            logger.info("%s", text)
            return bool(self.lease.ledger.postpone(row, backoff(row.attempts), text))
        verdict = self._verdict(error)
        if verdict.fate is Fate.CLOSED:
            logger.info("%s waits until its remote is open: %s", row, text)
            if self.storage.other_place is not None:  # claims do not know that it is closed
                pause = settings.probe_every
                return bool(self.lease.ledger.postpone(row, pause, text, count=self._is_evicting))
            return bool(self.lease.ledger.undo_attempt(row))
        is_waiting = isinstance(error, OtherWriter | RemoteChanged)
        # Faults of this process, host or remote, not of the file
        is_setup = is_waiting or isinstance(error, ImproperlyConfigured | LocalFileUnreadable)
        is_own = verdict.fate is Fate.OWN and not is_setup
        count = self._is_evicting or is_own
        will_retry = not is_own or self._will_retry(error)
        if will_retry:
            failures = row.attempts if is_own else len(row.failures) + 1
            delay = OPERATOR_DELAY if is_waiting else max(backoff(failures), verdict.retry_after)
            taken = self.lease.ledger.postpone(row, delay, text, count=count)
        else:
            taken = self.lease.ledger.mark_failed(row, text)
        if taken and verdict.may_be_remotes:
            self._circuit.recorded(row.pk, is_counted=count)
        if not taken or is_unmounted:  # which is logged once for all files
            return bool(taken)
        self._log_failure(error, text, will_retry=will_retry)
        if row.state == State.TRANSFERRING:
            throughput.failed(row.alias)
            send(transfer_failed, self.storage, row, error=error, will_retry=will_retry)
        return True

    def _log_failure(self, error: BaseException, text: str, *, will_retry: bool) -> None:
        others = None
        if isinstance(error, RemoteChanged):  # as that of all other files at this place
            others = _changed.count((self.row.alias, self.row.place))
            if others is None:
                return
        if others:
            text = f"{text} {counted(others, '1 other file', '{} other files')} failed like this."
        log = logger.warning if will_retry else logger.error
        log("%s failed: %s", self.row, text, extra={"queued_error": type(error).__name__})

    def _cause_of(self, error: BaseException) -> BaseException:
        """Return ``LocalStorageMissing`` if the volume vanished during the work."""
        if isinstance(error, Exception):
            try:
                self._require_volume()
            except LocalStorageMissing as missing:
                return missing
            except Exception:  # the ledger or the storage, which the error is about, too
                return error
        return error

    def _verdict(self, error: BaseException) -> Verdict:
        """Say whose fault the failure is."""
        if not isinstance(error, Exception) or isinstance(error, NOT_THE_REMOTES):
            return Verdict(Fate.OWN)
        return self._judge(error)

    def _judge(self, error: BaseException) -> Verdict:
        try:
            return self._circuit.judge(self.storage, self.row, error)
        except Exception as mistake:  # the ledger is away, or the remote cannot be made
            logger.warning("The remote of %s could not be tried out: %s", self.row, reason(mistake))
            return Verdict(Fate.OWN)

    def _will_retry(self, error: BaseException) -> bool:
        """Whether there is another attempt; deletes and evictions are retried forever."""
        if self.row.state != State.TRANSFERRING:
            return True
        if isinstance(error, LocalFileMissing):
            is_final = self.row.host == settings.host  # another host may have it on its own disk
        else:
            is_final = isinstance(error, InvalidResult | LocalFileChanged | NameTooLong)
            is_final |= isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        return not is_final and self.row.attempts < attempt.attempts_max(self.storage.foreign_task)


def send(signal: Signal, storage: TransferringStorage, row: QueuedFile, **kwargs: Any) -> None:
    """Send a signal about a file, unless its storages cannot be made in this process."""
    sender = type(storage)
    if not signal.has_listeners(sender):
        return
    try:
        sides = {"local": storage.local, "remote": storage.remote}
    except Exception:
        return
    row = ledger().filter(pk=row.pk).first() or row
    signal.send_robust(sender=sender, name=row.name, queued_file=row, **sides, **kwargs)
