"""Probes closed remotes, and opens those that work again."""

import random
import time
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

from django.utils.module_loading import import_string

from ..conf import settings
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.priorities import PRIORITIES
from ..ledger.remotes import Remote, RemoteState, remotes
from ..ledger.states import State
from ..remotes.faults import Diagnosis, Fault
from ..reporting.reasons import reason
from . import announcing, circuit, leases, trials, work
from .gates import gates, is_known, storage_with
from .parts import TransferringStorage, storage_of
from .trials import Result

HOLD = trials.SECONDS + 5.0  # seconds for which a probe, or an opening, is for one process
REFUSED_FACTOR = 10  # a remote that refuses is probed this much more rarely: somebody must act
# The queues are above the transfers, so this function is reached by its name.
SWEEP = "queued_storage.queues.sweep.sweep"


def probe_due() -> None:
    """Probe the closed remotes of this process whose next probe is due, unless another process
    does."""
    for remote in remotes().probed():
        if (remote.alias, remote.digest) in gates.closed_places():
            probe(remote)


def probe_closed(aliases: Iterable[str]) -> None:
    """Probe those of these remotes that are closed at once: somebody waits for their files."""
    gates.forget()
    chosen = set(aliases)
    for alias in gates.closed().intersection(chosen):
        probe_now(alias)
    for alias, place in gates.closed_places():
        if alias not in chosen or storage_of(alias, "").remote_place.digest == place:
            continue
        for remote in remotes().at(alias, place).probed():
            probe(remote, even_early=True)


def probe_now(alias: str) -> bool:
    """Probe the remote of a storage at once if it is closed; return whether it is open.

    That is for commands that somebody waits for. One that was paused stays closed.
    """
    storage = storage_of(alias, "")
    known = remotes().at(alias, storage.remote_place.digest)
    if remote := known.probed().first():
        probe(remote, even_early=True)
    gates.forget()
    return not known.closed().exists()


class Answer(NamedTuple):
    """What a probe found out."""

    works: bool | None  # None if that is still unknown
    state: RemoteState | None = None  # of one that does not work, unless it is as before
    error: BaseException | None = None
    retry_after: float | None = None  # seconds
    is_by_file: bool = False


WORKS = Answer(True)
UNKNOWN = Answer(None)


def probe(remote: Remote, *, even_early: bool = False) -> bool:
    """Probe a closed remote, unless another process does; return whether it was opened.

    If this process dies meanwhile, another one probes it after ``HOLD`` seconds, or when the lease
    of the file ends by which it is probed.
    """
    same = remotes().filter(pk=remote.pk)
    if not same.take_probe(HOLD, even_early=even_early):
        return False
    if ledger().filter(alias=remote.alias).probes().exists():
        return False
    storage = storage_with(remote)
    try:
        answer = _find_out(storage, remote, by_all=even_early)
    except Exception as mistake:  # such as a remote that cannot be made any more
        answer = _failure(Diagnosis(Fault.UNCLEAR), mistake)
    if answer.works:
        has_opened = _open(storage, remote)
        if answer.is_by_file:
            _learn(storage, remote)
        return has_opened
    if answer.error is None:
        same.take_probe(circuit.FIRST_PROBE, even_early=True)
        return False
    text = reason(answer.error, storage.local, storage.remote)
    state = answer.state or remote.state
    pause = _pause(remote, state, answer.retry_after)
    if same.postpone_probe(state, text, pause) and state != remote.state:
        announcing.announce(storage, same.get(), remote)
    return False


def _find_out(storage: TransferringStorage, remote: Remote, *, by_all: bool) -> Answer:
    """Find out whether a remote works: by a small write, or by a file if it may deny that.

    A remote that refuses is probed once, in turn in both ways; one that could not be reached may be
    probed in both if it answers again. ``by_all`` is for one that somebody waits for.
    """
    if storage.other_place is not None:
        return _try_out(storage)
    is_refused = remote.state == RemoteState.REFUSED
    is_by_file = remote.is_probed_by_files or remote.probes % 2 == 0
    if is_refused and is_by_file and not by_all and (answer := _try_file(storage, remote)):
        return answer
    trial = trials.try_out(storage)
    if trial.result is Result.WORKS:
        _note(remote, is_probed_by_files=False)
        return WORKS
    if trial.error is None:
        return _try_file(storage, remote) or _without_files(remote, UNKNOWN)
    diagnosis = storage.uploader.diagnose(trial.error, 0)
    denied = _failure(diagnosis, trial.error)
    if diagnosis.fault is Fault.UNCLEAR and remote.is_probed_by_files:
        denied = _without_files(remote, denied)
    if diagnosis.fault is Fault.AWAY or (is_refused and not by_all):
        return denied
    answer = _try_file(storage, remote)
    return denied if answer is None or answer.error else answer


def _try_out(storage: TransferringStorage) -> Answer:
    """Find out whether a remote works that no file is uploaded to. Without an answer it is opened,
    since only what is done there can tell."""
    trial = trials.try_out(storage)
    if trial.error is None:
        return WORKS
    return _failure(storage.uploader.diagnose(trial.error, 0), trial.error)


def _failure(diagnosis: Diagnosis, error: BaseException) -> Answer:
    state = circuit.state_of(diagnosis, error)
    return Answer(False, state, error, diagnosis.retry_after)


def _without_files(remote: Remote, answer: Answer) -> Answer:
    """Open a remote that only files can prove if there are none, since deletes may wait for it."""
    files = ledger().filter(alias=remote.alias, state__in=[State.PENDING, State.TRANSFERRING])
    return answer if files.exists() else WORKS


def _try_file(storage: TransferringStorage, remote: Remote) -> Answer | None:
    """Find out whether a remote works by uploading a file; None if no file is due."""
    row = _claim(remote)
    if row is None:
        return None
    started = time.monotonic()
    error = work.run_claimed(row)
    if circuit.circuit_of(remote.alias).has_succeeded_since(started):
        return Answer(True, is_by_file=True)
    if error is None:  # it was deleted or overwritten meanwhile
        return UNKNOWN
    diagnosis = storage.uploader.diagnose(error, row.size)
    if diagnosis.fault is Fault.FILE:  # it cannot be read, for example
        return UNKNOWN
    ledger().note_failed_probe(row, reason(error, storage.local, storage.remote))
    answer = _failure(diagnosis, error)
    return answer._replace(state=None) if diagnosis.fault is Fault.UNCLEAR else answer


def _learn(storage: TransferringStorage, remote: Remote) -> None:
    """Find out whether a remote that takes files takes a small write, too."""
    trial = trials.try_out(storage)
    if trial.error is None or storage.uploader.diagnose(trial.error, 0).fault is not Fault.AWAY:
        _note(remote, is_probed_by_files=trial.result is Result.FAILS)


def _note(remote: Remote, *, is_probed_by_files: bool) -> None:
    if is_probed_by_files != remote.is_probed_by_files:
        remotes().filter(pk=remote.pk).update(is_probed_by_files=is_probed_by_files)


def _claim(remote: Remote) -> QueuedFile | None:
    """Claim a due file: the oldest, the newest and any other one in turn, for one of them may be
    the fault. Files that have failed, in a probe or before, come last."""
    files = ledger().filter(alias=remote.alias, state=State.PENDING).due()
    files = files.workable_here().exclude(pk__in=leases.held())
    choose = (_oldest, _newest, _any_of)[remote.probes % 3]
    chosen = product((files.filter(failures=[]), files), (choose, _oldest), PRIORITIES)
    for some, order, priority in chosen:  # one range of an index each
        if row := ledger().claim_probe(order(some.filter(priority=priority))):
            return row
    return None


def _oldest(files: QueuedFileQuerySet) -> QueuedFileQuerySet:
    return files.order_by("due_at")


def _newest(files: QueuedFileQuerySet) -> QueuedFileQuerySet:
    return files.order_by("-due_at")


def _any_of(files: QueuedFileQuerySet) -> QueuedFileQuerySet:
    """Those from a random moment on, which an index finds however many there are."""
    moments = files.values_list("due_at", flat=True)
    first, last = moments.order_by("due_at").first(), moments.order_by("-due_at").first()
    if first is None or last is None:
        return files
    return _oldest(files.filter(due_at__gte=first + (last - first) * random.random()))


# Opening


def _open(storage: TransferringStorage, remote: Remote) -> bool:
    has_opened = bool(remotes().filter(pk=remote.pk).reopen(HOLD))
    gates.forget()
    circuit.circuit_of(remote.alias, storage.other_place).succeeded()
    if has_opened:
        _tell(storage, remote, remote)
    return has_opened


def finish_openings() -> None:
    """Finish what processes have begun that died right after they opened a remote."""
    for remote in filter(is_known, remotes().opening()):
        if remotes().filter(pk=remote.pk).take_opening(HOLD):
            _tell(storage_with(remote), remote, None)


def _tell(storage: TransferringStorage, remote: Remote, before: Remote | None) -> None:
    """Announce that a remote is open, and enqueue its files."""
    same = remotes().filter(pk=remote.pk)
    failure = None
    try:
        announcing.announce(storage, same.get(), before)
        import_string(SWEEP)(remote.alias)
    except Exception as error:  # such as a broker that is down; a later sweep finds the files
        failure = error
    same.finish_opening()
    if failure:
        raise failure


def _pause(remote: Remote, state: str, retry_after: float | None) -> float:
    """Return the seconds until the next probe, after one that failed."""
    longest = settings.probe_every * (REFUSED_FACTOR if state == RemoteState.REFUSED else 1)
    pause = min(circuit.FIRST_PROBE * 2.0 ** min(remote.probes + 1, 30), longest)
    return max(pause, min(retry_after or 0.0, circuit.RETRY_AFTER_MAX))
