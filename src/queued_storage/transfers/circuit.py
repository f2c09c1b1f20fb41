"""Decides from failed attempts whether a remote is closed."""

import threading
import time
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple

from django.core.files.storage import Storage

from ..conf import settings
from ..ledger.database import ledger
from ..ledger.models import MAX_FAILURES, QueuedFile
from ..ledger.remotes import Remote, RemoteState, remotes
from ..ledger.states import State
from ..remotes.fault_kinds import Fault
from ..remotes.faults import Diagnosis
from ..remotes.faults_http import answer_in
from ..reporting.reasons import reason
from ..runtime import ending
from ..runtime.forks import after_fork
from . import announcing, trials
from .gates import gates
from .parts import TransferringStorage
from .trials import Result, Trial

FAILURES = 5  # failed attempts of different files in a row that raise a suspicion
QUIET = 30.0  # seconds without a success after which a single one does
TRIAL_EVERY = 10.0  # seconds in which one trial answers for all failures
RETRY_AFTER_MAX = 300.0  # seconds that a remote may ask to be left alone
QUICKLY = 1.0  # seconds: a trial that fails faster is repeated once
DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
FIRST_PROBE = 1.0  # seconds after the remote was closed


class Fate(Enum):
    """What a failed attempt says."""

    OWN = "the file's own failure, which counts"
    REMOTE = "the remote's, which is open nevertheless"
    CLOSED = "the remote is closed"


class Verdict(NamedTuple):
    """Whose fault a failed attempt is, and for how many seconds to leave the remote alone."""

    fate: Fate
    retry_after: float = 0.0
    may_be_remotes: bool = False  # so ``recorded()`` must be called once the ledger has it


class Failure(NamedTuple):
    """The last failed attempt of a file."""

    is_first: bool
    is_counted: bool = False  # as an attempt, in the ledger


class Circuit:
    """What this process has lately seen of one remote of a storage.

    A file never decides whether the remote is closed: it may be one that no remote takes. If there
    is a suspicion, a small write of our own decides.

    A remote that takes files, but no such write, is closed after failures of several files which
    have never failed before. A file that fails again says nothing there, and each of its failures
    counts. So every file that no remote takes is marked as failed in the end, however many there
    are.
    """

    def __init__(self, alias: str, place: int | None = None) -> None:
        self._alias = alias
        self._place = place  # of a remote that new files are not uploaded to
        self._lock = threading.Lock()  # held during a trial, whose result the others wait for
        self._failed: dict[int, Failure] = {}  # in a row
        self._succeeded_at = -QUIET
        self._tried_at = -TRIAL_EVERY
        self._proved_at: float | None = None  # when the last trial began; None if it failed
        self._files_decide = False  # whether the last trial said nothing
        # Files that could not be read, in a row. Changed without the lock, for which no request may
        # wait.
        self._unread: set[int] = set()
        self._read_at = -QUIET

    def succeeded(self) -> None:
        """Note that the remote took a file."""
        self._succeeded_at = time.monotonic()
        self._failed.clear()

    def has_succeeded_since(self, moment: float) -> bool:
        """Whether the remote has taken a file since a moment of ``time.monotonic()``."""
        return self._succeeded_at >= moment

    def judge(self, storage: TransferringStorage, row: QueuedFile, error: BaseException) -> Verdict:
        """Say whose fault the failure of an attempt is; close the remote if it is the remote's.

        This may take as long as two trials.
        """
        failed_at = time.monotonic()
        diagnosis = storage.uploader.diagnose(error, row.size)
        if diagnosis.fault is Fault.FILE:
            return Verdict(Fate.OWN)
        with self._lock:
            self._failed[row.pk] = Failure(is_first=not row.failures)
            is_suspicious = self._is_suspicious or _is_again(row, diagnosis)
            if is_suspicious and self._must_be_closed(storage, diagnosis, error):
                self._take_back()
                return Verdict(Fate.CLOSED)
            is_own = self._is_own(row, diagnosis, failed_at)
        if gates.is_closed(self._alias, self._place):
            self.take_back_if_closed()
            return Verdict(Fate.CLOSED)
        asked = min(diagnosis.retry_after or 0.0, RETRY_AFTER_MAX)
        return Verdict(Fate.OWN if is_own else Fate.REMOTE, asked, may_be_remotes=True)

    def _is_own(self, row: QueuedFile, diagnosis: Diagnosis, failed_at: float) -> bool:
        """Whether a failure is the file's own although the remote may be at fault."""
        if diagnosis.fault is Fault.UNCLEAR or len(row.failures) >= MAX_FAILURES:
            return True
        is_proved = self._proved_at is not None and self._proved_at >= failed_at
        # A connection may break once, and a remote that asks to be called later may take what is
        # small meanwhile.
        return is_proved and _is_again(row, diagnosis) and not diagnosis.retry_after

    def recorded(self, pk: int, *, is_counted: bool) -> None:
        """Note that the ledger has the failure of a file that was judged, so that it is taken back
        if the remote is found closed, or if that happened since."""
        with self._lock:
            if failure := self._failed.get(pk):
                self._failed[pk] = failure._replace(is_counted=is_counted)
            elif gates.is_closed(self._alias, self._place):
                ledger().undo_failures({pk: is_counted})

    def take_back_if_closed(self) -> None:
        """Take back what failed here before any process found the remote closed."""
        with self._lock:
            if self._failed and gates.is_closed(self._alias, self._place):
                self._take_back()

    def _take_back(self) -> None:
        # Cleared first, so that no failure is taken back twice.
        failed = dict(self._failed)
        self._failed.clear()
        ledger().undo_failures(
            {
                pk: failure.is_counted
                for pk, failure in failed.items()
                if failure.is_first or not self._files_decide
            }
        )

    @property
    def _is_suspicious(self) -> bool:
        is_quiet = time.monotonic() - self._succeeded_at > QUIET
        return is_quiet or len(self._failed) >= FAILURES

    def _must_be_closed(
        self, storage: TransferringStorage, diagnosis: Diagnosis, error: BaseException
    ) -> bool:
        gates.forget()
        if gates.is_closed(self._alias, self._place):
            return True
        was_just_tried = time.monotonic() - self._tried_at < TRIAL_EVERY
        if was_just_tried and self._proved_at is not None:
            return False
        remote = remotes().register(self._alias, storage.remote_place)
        trial = Trial(Result.IMPOSSIBLE) if was_just_tried else self._try_out(storage, remote)
        if trial.result is Result.WORKS:
            self.succeeded()
            return False
        if trial.error and ending.has_begun():  # libraries cannot start threads any more
            return False
        if trial.error:
            diagnosis, error = storage.uploader.diagnose(trial.error, 0), trial.error
        elif sum(failure.is_first for failure in self._failed.values()) < FAILURES:
            return False
        self._close(storage, remote, diagnosis, error)
        return True

    def _try_out(self, storage: TransferringStorage, remote: Remote) -> Trial:
        """Try the remote out, and remember what that said."""
        started = time.monotonic()
        trial = _try_twice(storage)
        if trial.error and remote.is_probed_by_files:
            fault = storage.uploader.diagnose(trial.error, 0).fault
            if fault is Fault.UNCLEAR:  # such a remote always denies it
                trial = Trial(Result.IMPOSSIBLE)
        self._tried_at = time.monotonic()
        self._proved_at = started if trial.result is Result.WORKS else None
        self._files_decide = trial.result is Result.IMPOSSIBLE
        return trial

    # Reads

    def note_read(self) -> None:
        """Note that a file could be read."""
        self._read_at = time.monotonic()
        if self._unread:
            self._unread.clear()

    def note_unread(self, pk: int) -> bool:
        """Note that the remote failed to serve a file; return whether it is to be tried out."""
        now = time.monotonic()
        if len(self._unread) < FAILURES:
            self._unread.add(pk)
        is_quiet = now - max(self._succeeded_at, self._read_at) > QUIET
        is_suspicious = is_quiet or len(self._unread) >= FAILURES
        return is_suspicious and now - self._tried_at >= TRIAL_EVERY

    def try_for_reads(self, storage: TransferringStorage) -> None:
        """Try the remote out, and close it if that fails, too; this may take as long as two trials.

        A process that only reads may not be allowed to write. So the remote is closed only if it
        cannot be reached, or refuses everything.
        """
        with self._lock:
            gates.forget()
            was_just_tried = time.monotonic() - self._tried_at < TRIAL_EVERY
            if was_just_tried or gates.is_closed(self._alias, self._place):
                return
            remote = remotes().register(self._alias, storage.remote_place)
            trial = self._try_out(storage, remote)
            self._unread.clear()
            if trial.result is Result.WORKS:
                self.succeeded()
            if trial.error is None or ending.has_begun():
                return
            diagnosis = storage.uploader.diagnose(trial.error, 0)
            if diagnosis.fault in (Fault.AWAY, Fault.REFUSED):
                self._close(storage, remote, diagnosis, trial.error)

    def _close(
        self,
        storage: TransferringStorage,
        remote: Remote,
        diagnosis: Diagnosis,
        error: BaseException,
    ) -> None:
        text = reason(error, *_sides(storage))
        asked = min(diagnosis.retry_after or 0.0, RETRY_AFTER_MAX)
        pause = max(min(FIRST_PROBE, settings.probe_every), asked)
        closed = remotes().filter(pk=remote.pk)
        # Before it is closed: nobody else knows what to take back if this process dies.
        self._take_back()
        if closed.close(state_of(diagnosis, error), text, pause):
            announcing.announce(storage, closed.get(), remote)
        gates.forget()
        self._succeeded_at = self._tried_at = -QUIET


def state_of(diagnosis: Diagnosis, error: BaseException) -> RemoteState:
    """Return the state of a remote that answers so to what any remote takes."""
    if diagnosis.fault is Fault.AWAY:
        return RemoteState.AWAY
    answer = answer_in(error)
    is_denied = isinstance(error, PermissionError) or (answer and answer.status in DENIED)
    is_refused = diagnosis.fault is not Fault.UNCLEAR or is_denied
    return RemoteState.REFUSED if is_refused else RemoteState.AWAY


def _is_again(row: QueuedFile, diagnosis: Diagnosis) -> bool:
    """Whether an upload fails again as if the remote were away. Perhaps the file is at fault."""
    is_upload = row.state == State.TRANSFERRING  # others are retried for ever
    return is_upload and bool(row.failures) and diagnosis.fault is not Fault.UNCLEAR


def _try_twice(storage: TransferringStorage) -> Trial:
    """Try again if the first trial fails at once, since some remotes fail now and then."""
    started = time.monotonic()
    trial = trials.try_out(storage)
    if trial.result is Result.FAILS and time.monotonic() - started < QUICKLY:
        trial = trials.try_out(storage)
    return trial


def _sides(storage: TransferringStorage) -> list[Storage]:
    return [storage.local, storage.remote]


_circuits: dict[tuple[str, int | None], Circuit] = {}
after_fork(_circuits.clear)


def circuit_of(alias: str, place: int | None = None) -> Circuit:
    """Return what this process knows of the present remote of a storage, or of one at a place."""
    key = alias, place
    return _circuits.get(key) or _circuits.setdefault(key, Circuit(*key))


def reset() -> None:
    """Forget everything, for tests."""
    _circuits.clear()
    gates.forget()
