"""Have workers carry out an action on many files, and do their part of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import cast

from django.db.models import Case, Value, When

from ..conf import settings
from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger, on_commit
from ..ledger.jobs import Action, Finding, Job, are_available, jobs
from ..ledger.sql.clock import DatabaseNow
from ..ledger.states import State
from ..queues.jobs import notify
from ..reporting.logs import logger
from ..reporting.reasons import reason
from . import acceptance, comparison, errands
from .passes import Step, never
from .storages import OperableStorage

MAX_ATTEMPTS = 3  # for one file, if workers die or the ledger is away while they process it
GIVEN_UP = "Gave up: the worker was interrupted during every attempt."
SLICE = 20.0  # seconds that a job occupies a worker of a task queue at a time


# For those who request it


def applicable(action: str, rows: QueuedFileQuerySet) -> QueuedFileQuerySet:
    """Those of the rows that the action is for, on any host."""
    if action == Action.VERIFY:
        return rows.exclude(state=State.DELETING)
    if action == Action.ACCEPT_LOCAL:
        return rows.exclude(state=State.DELETING).filter(is_local=True)
    return rows.filter(state=State.TRANSFERRED, is_local=action == Action.EVICT)


def request(action: str, rows: QueuedFileQuerySet, requested_by: str = "") -> list[Job]:
    """Record one job for each storage of the rows, and notify workers on commit.

    If each host has its own local storage, there is one for each host as well: only workers of a
    host can evict its local copies, and files are restored to this host.
    """
    parts: dict[tuple[str, str], list[int]] = defaultdict(list)
    columns = ("pk", "alias", "host")
    for pk, alias, host in rows.order_by("pk").values_list(*columns).iterator():
        parts[alias, _host_for(action, host)].append(pk)
    found = [
        jobs().request(action, alias, host, pks, requested_by)
        for (alias, host), pks in parts.items()
    ]
    for job in found:
        on_commit(lambda job=job: _enqueue(job))  # type: ignore[misc]  # binds this job
    return found


def _host_for(action: str, host: str) -> str:
    if not settings.local_per_host:
        return ""
    return host if action in (Action.EVICT, Action.ACCEPT_LOCAL) else settings.host


def _enqueue(job: Job) -> None:
    """Notify a worker; if that fails, one finds the job when it next queries the ledger."""
    try:
        storage = cast(OperableStorage, storage_for(job.alias))
        notify(storage.queue_for(job.host, is_local=bool(job.host)), [job.pk])
    except Exception as error:
        logger.warning("No worker could be notified of the job %s: %s", job, reason(error))


# For workers


class Busy(Exception):
    """Another worker is processing the file, or died while it did."""

    def __init__(self, *, is_expired: bool) -> None:
        self.is_expired = is_expired


def run_due(aliases: Collection[str], until: Callable[[], bool] = never) -> None:
    """Go on with all due jobs of these storages until ``until()`` returns True."""
    if not are_available():
        return
    for pk, _alias in jobs().due_keys(aliases):
        if until():
            return
        run(pk, until)


def run_slice(pk: int) -> None:
    """Go on with a job that a message names, and enqueue the rest after a while."""
    end = time.monotonic() + SLICE
    if are_available() and run(pk, lambda: time.monotonic() >= end):
        _enqueue(jobs().get(pk=pk))


def run(pk: int, until: Callable[[], bool] = never) -> bool:
    """Claim a job and process its files, until ``until()`` returns True.

    Return whether it goes on now: False if it has ended, or if a worker goes on later.
    """
    job = jobs().claim(pk)
    if job is None:
        return False
    try:
        while not until():
            if not _take_step(job):
                return False
    except Busy as busy:
        # An expired claim on a file is ended by the next worker that queries the ledger.
        jobs().release(job, settings.lease, is_failure=busy.is_expired)
        return False
    except Exception:
        jobs().release(job, settings.retry_delay, is_failure=True)
        raise
    jobs().release(job)
    return True


def _take_step(job: Job) -> bool:
    """Process the next file; return whether there are more."""
    pk = (job.pks or [])[job.position]
    result = _given_up(pk) if job.attempts > MAX_ATTEMPTS else _STEPS[job.action](pk)
    findings, is_success = result
    return jobs().advance(job, findings, is_success=is_success)


Result = tuple[list[Finding], bool]  # what is wrong with the file, and whether the action succeeded
SKIPPED: Result = ([], False)


def _given_up(pk: int) -> Result:
    name = ledger().filter(pk=pk).values_list("name", flat=True).first() or str(pk)
    return [{"name": name, "error": GIVEN_UP}], False


def _evict(pk: int) -> Result:
    return _errand(pk, errands.EVICT, ledger().filter(pk=pk).evictable())


def _restore(pk: int) -> Result:
    return _errand(pk, errands.RESTORE, ledger().filter(pk=pk).restorable())


def _errand(pk: int, errand: errands.Errand, rows: QueuedFileQuerySet) -> Result:
    name = rows.values_list("name", flat=True).first()
    error = errand.run(pk) if name is not None else errands.CHANGED
    if not error:
        return [], True
    if error == errands.CHANGED:
        _require_unclaimed(pk)
        return SKIPPED  # it is deleted, overwritten, or done already
    return [{"name": name, "error": error}], False


def _require_unclaimed(pk: int) -> None:
    claimed = ledger().filter(pk=pk, state=State.TRANSFERRED).exclude(lease_token="")
    is_expired = Case(When(due_at__lte=DatabaseNow(), then=Value(True)), default=Value(False))
    for expired in claimed.values_list(is_expired, flat=True):
        raise Busy(is_expired=expired)


def _verify(pk: int) -> Result:
    found = [
        {"name": each.name, "side": each.side, "kind": str(each.kind), "error": each.details}
        for each in comparison.verify(ledger().filter(pk=pk))
    ]
    return found, not found


def _accept_local(pk: int) -> Result:
    steps: list[Step] = []
    accepted = acceptance.accept_local(ledger().filter(pk=pk), steps.append)
    found = [{"name": step.name, "error": step.error} for step in steps if step.error]
    return found, bool(accepted)


_STEPS: dict[str, Callable[[int], Result]] = {
    Action.EVICT: _evict,
    Action.RESTORE: _restore,
    Action.VERIFY: _verify,
    Action.ACCEPT_LOCAL: _accept_local,
}
