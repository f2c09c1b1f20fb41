"""Probes closed remotes, and opens those that work again."""

from collections.abc import Iterable

from django.utils.module_loading import import_string

from ..conf import settings
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.remotes import Remote, RemoteState, remotes
from ..ledger.states import State
from ..remotes.faults import Diagnosis, Fault
from ..reporting.reasons import reason
from . import announcing, circuit, leases, trials, work
from .gates import gates
from .parts import TransferringStorage, storage_of
from .trials import Result

MARGIN = 5.0  # seconds that a probe may take beside the trial
REFUSED_FACTOR = 10  # a remote that refuses is probed this much more rarely: somebody must act
# The queues are above the transfers, so this function is reached by its name.
SWEEP = "queued_storage.queues.sweep.sweep"


def probe_due() -> None:
    """Probe the closed remotes of this process whose next probe is due, unless another process
    does."""
    for remote in remotes().probed():
        if remote.alias in gates.closed():
            probe(remote)


def probe_closed(aliases: Iterable[str]) -> None:
    """Probe those of these remotes that are closed at once: somebody waits for their files."""
    gates.forget()
    for alias in gates.closed().intersection(aliases):
        probe_now(alias)


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


def probe(remote: Remote, *, even_early: bool = False) -> bool:
    """Probe a closed remote, unless another process does; return whether it was opened.

    If this process dies meanwhile, another one probes it after that time.
    """
    same = remotes().filter(pk=remote.pk)
    if not same.take_probe(trials.SECONDS + MARGIN, even_early=even_early):
        return False
    storage = storage_of(remote.alias, "")
    try:
        diagnosis, error = _find_out(storage, remote)
    except Exception as mistake:  # such as a remote that cannot be made any more
        diagnosis, error = Diagnosis(Fault.UNCLEAR), mistake
    if error is None:
        return _open(storage, remote)
    text = reason(error, storage.local, storage.remote)
    state = circuit.state_of(diagnosis, error)
    pause = _pause(remote, state, diagnosis.retry_after)
    if same.postpone_probe(state, text, pause) and state != remote.state:
        announcing.announce(storage, same.get(), remote)
    return False


def _find_out(
    storage: TransferringStorage, remote: Remote
) -> tuple[Diagnosis, BaseException | None]:
    """Return None if the remote works, else the error that it answers with."""
    trial = trials.try_out(storage)
    if trial.result is Result.WORKS:
        return Diagnosis(Fault.UNCLEAR), None
    diagnosis = Diagnosis(Fault.UNCLEAR)
    if trial.error:
        diagnosis = storage.uploader.diagnose(trial.error, 0)
        if diagnosis.fault is Fault.AWAY:
            return diagnosis, trial.error
    # Perhaps it takes files, but not what we write.
    row = _claim(remote)
    if row is None:
        return diagnosis, trial.error
    error = work.run_claimed(row)
    if error is None and trial.error:
        remotes().filter(pk=remote.pk).update(is_probed_by_files=True)
    return diagnosis, error and (trial.error or error)


def _claim(remote: Remote) -> QueuedFile | None:
    """Claim a due file, the oldest and the newest one in turn: one of them may be the fault."""
    due = ledger().filter(alias=remote.alias, priority=0, state=State.PENDING).due()
    order = "-due_at" if remote.probes % 2 else "due_at"
    held = leases.held()
    for pk in due.workable_here().order_by(order).values_list("pk", flat=True)[: len(held) + 1]:
        if pk not in held and (row := ledger().claim_new(pk)):
            return row
    return None


def _open(storage: TransferringStorage, remote: Remote) -> bool:
    same = remotes().filter(pk=remote.pk)
    has_opened = bool(same.reopen())
    gates.forget()
    circuit.circuit_of(remote.alias).succeeded()
    if has_opened:
        announcing.announce(storage, same.get(), remote)
        import_string(SWEEP)(remote.alias)
    return has_opened


def _pause(remote: Remote, state: str, retry_after: float | None) -> float:
    """Return the seconds until the next probe, after one that failed."""
    longest = settings.probe_every * (REFUSED_FACTOR if state == RemoteState.REFUSED else 1)
    pause = min(circuit.FIRST_PROBE * 2.0 ** min(remote.probes + 1, 30), longest)
    return max(pause, min(retry_after or 0.0, circuit.RETRY_AFTER_MAX))
