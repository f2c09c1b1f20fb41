"""Runs the steps that files have to pass."""

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections

from ..conf import settings
from ..exceptions import InvalidResult, LeaseLost, LocalStorageMissing, TransferError
from ..files import localfiles, quarantine, volumes
from ..ledger.aliases import storages_in_use
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.preparation_claims import preparation_claims, prepared_row
from ..ledger.preparations import Preparation, Preparations, preparations
from ..ledger.states import State
from ..remotes.classes import dotted_path
from ..reporting.logs import about, logger
from ..reporting.reasons import reason
from ..reporting.spans import Span, span
from ..runtime import ending
from ..signals import file_rejected
from ..steps import LATER, PASS, REJECT, REPLACE, Outcome, Step
from . import gatekeeping, leases
from .delays import backoff
from .leases import PreparationLease
from .parts import TransferringStorage, sides_of, storage_of
from .solitude import solitude
from .stepfile import PreparedFile
from .work import send

RECORDED_AFTER = 0.5  # seconds of work; steps that take less are run again if their worker dies
BATCH = 20  # due preparations that are read at once, of which other workers may claim some first


def aliases_with_steps(aliases: Collection[str] | None = None) -> list[str]:
    """Return which of these storages have steps, or of all that this process knows.

    Files of the others are left alone: this process may not know the steps that they are to pass.
    """
    found = []
    for alias in storages_in_use() if aliases is None else aliases:
        with suppress(Exception):  # it cannot be made; a system check reports it
            if storage_of(alias, "").has_steps:
                found.append(alias)
    return sorted(set(found))


def due(alias: str) -> Preparations:
    """The preparations of a storage that are to be continued now."""
    return preparations().due().of_alias(alias)


def is_due(aliases: Collection[str]) -> bool:
    """Return whether there is something to do that this process can do."""
    return any(due(alias).exists() for alias in aliases_with_steps(aliases))


def run_due(
    alias: str,
    until: Callable[[], bool],
    on_passed: Callable[[list[int]], object] = lambda pks: None,
) -> dict[int, Exception]:
    """Run the steps of a storage's files, oldest first, until none is due.

    ``on_passed`` is called with the ids of files that are to be transferred now. Return the
    exceptions of failed attempts by the row's id.
    """
    errors: dict[int, Exception] = {}
    while not until():
        has_found = False
        for found in _first(due(alias), BATCH):
            if until():
                break
            result = run_found(found)
            if result is not None:
                has_found = True
                if result.error:
                    errors[result.pk] = result.error
                if result.is_transferable:
                    on_passed([result.pk])
        if not has_found:
            break
    return errors


def run_due_of(pks: Collection[int]) -> dict[int, Exception]:
    """Do the same for these files only."""
    results = map(run_found, due_of(pks))
    return {result.pk: result.error for result in results if result and result.error}


def due_of(pks: Collection[int]) -> "list[Found]":
    """Return the due preparations of these files, as far as this process knows their steps."""
    aliases = aliases_with_steps() if pks else []
    if not aliases:
        return []
    return _first(preparations().due().of_alias(*aliases).filter(file__in=pks))


def _first(due: Preparations, limit: int | None = None) -> "list[Found]":
    found = due.order_by("due_at").values_list("pk", "lease_token")[:limit]
    return [Found(pk, bool(token)) for pk, token in found]


class Found(NamedTuple):
    """A due preparation."""

    pk: int
    is_suspect: bool  # whether its last worker died


class Result(NamedTuple):
    """How the work on one preparation ended."""

    pk: int  # of the file
    error: Exception | None  # of a failed attempt, which the ledger has recorded
    is_transferable: bool  # whether all steps have passed


def run_found(found: Found) -> Result | None:
    """Continue a due preparation; None if another worker was faster."""
    return _run_alone(found.pk) if found.is_suspect else _run_new(found.pk)


def _run_new(pk: int) -> Result | None:
    with solitude.beside_others():
        claimed = preparation_claims().claim(pk)
        return None if claimed is None else run(claimed)


def _run_alone(pk: int) -> Result | None:
    """Continue one whose worker died, while this process does nothing else."""
    with solitude.alone() as is_alone:
        claimed = preparation_claims().claim(pk, suspect=True) if is_alone else None
        return None if claimed is None else run(claimed)


def run(preparation: Preparation) -> Result:
    """Continue a claimed preparation."""
    row = prepared_row(preparation)
    with about(row), leases.keep_preparation(row) as lease:
        return _Preparing(preparation, row, lease).run()


def plan_of(steps: Sequence[Step]) -> str:
    """Return a digest of which steps these are: progress counts for the same ones only."""
    names = "\n".join(dotted_path(type(step)) for step in steps)
    return hashlib.sha256(names.encode()).hexdigest()[:32]


class _Preparing:
    def __init__(self, preparation: Preparation, row: QueuedFile, lease: PreparationLease) -> None:
        self._preparation = preparation
        self._row = row  # with the claim on the preparation
        self._lease = lease
        self._claims = preparation_claims()
        self._storage: TransferringStorage | None = None
        self._step = 0  # that is run now
        self._plan = ""
        self._unrecorded = False  # whether the ledger does not know yet that steps have passed
        self._recorded_at = time.monotonic()
        lease.on_stall = self._stall

    def run(self) -> Result:
        error: Exception | None = None
        is_passed = False
        try:
            is_passed = self._continue()
        except LeaseLost as lost:
            logger.info("%s", lost)
            self._end_void_claim()
        except Exception as failure:
            error = failure
            self._fail(failure)
        except BaseException:
            self._claims.give_back(self._row, error="The worker was stopped.", count=False)
            raise
        return Result(self._row.pk, error, is_passed)

    def _end_void_claim(self) -> None:
        """Let another worker do what is to be done now, unless this claim is recorded as over."""
        if not self._lease.is_over:
            self._claims.give_back(self._row, count=False)

    def _continue(self) -> bool:
        """Return whether all steps have passed."""
        preparation, row = self._preparation, self._row
        self._storage = storage = storage_of(row.alias, row.task)
        volumes.require(row.alias, storage.local)
        if preparation.file.state == State.DELETING:
            gatekeeping.discard(storage, row.pk)
            ledger().filter(pk=row.pk).hurry()
            return False
        if self._is_stale():
            quarantine.remove(storage.local, preparation)  # a later save was published first
            self._claims.drop(row)
            return False
        if preparation.is_unsettled:
            gatekeeping.put_away(storage, preparation, row)
            return False
        if not preparation.is_released and not self._all_pass(storage):
            return False
        gatekeeping.publish(storage, preparation, row)
        logger.info("All steps of %s have passed.", row)
        return not storage.delayed

    def _is_stale(self) -> bool:
        """Whether the file has other content by now, or needs no steps any more."""
        preparation, file = self._preparation, self._preparation.file
        is_not_prepared = not preparation.hidden and file.state != State.PREPARING
        return preparation.generation != file.generation or is_not_prepared

    def _all_pass(self, storage: TransferringStorage) -> bool:
        """Run the steps that are left; return False if one puts the file off, or rejects it."""
        preparation, steps = self._preparation, storage.steps
        plan = plan_of(steps)
        self._step = preparation.step if preparation.plan == plan else 0
        self._plan = plan
        while self._step < len(steps):
            if preparation.attempts > settings.retries + 1:
                raise TransferError("Gave up: the worker died during every attempt.")
            step = steps[self._step]
            outcome = self._run_step(storage, step)
            if isinstance(outcome, LATER):
                self._give_back(outcome.seconds, count=False)
                return False
            if isinstance(outcome, REJECT):
                self._reject(storage, step, outcome.reason)
                return False
            self._step += 1
            if isinstance(outcome, REPLACE):
                self._replace(storage, plan, outcome.content)
                self._note_recorded()
            elif self._step < len(steps):
                self._advance(plan)
            preparation.attempts = 1
        return True

    def _advance(self, plan: str) -> None:
        """Record that a step has passed, unless that costs more than to run it again."""
        self._unrecorded = True
        if time.monotonic() - self._recorded_at >= RECORDED_AFTER:
            self._require(self._claims.advance(self._row, self._step, plan))
            self._note_recorded()

    def _note_recorded(self) -> None:
        self._unrecorded = False
        self._recorded_at = time.monotonic()

    def _progress(self, *, count: bool) -> dict[str, Any]:
        """The columns of what the ledger does not know yet."""
        if not self._unrecorded:
            return {}
        return {"step": self._step, "plan": self._plan, "attempts": 1 if count else 0}

    def _give_back(self, delay: float, error: str = "", *, count: bool = True) -> int:
        progress = self._progress(count=count)
        return self._claims.give_back(self._row, delay, error, count=count, **progress)

    def _run_step(self, storage: TransferringStorage, step: Step) -> Outcome:
        preparation = self._preparation
        self._lease.progress()
        file = PreparedFile(
            self._row,
            preparation.content,
            storage.local,
            quarantine.local_name(storage.local, preparation),
            preparation.attempts,
            self._lease.progress,
        )
        with self._span(step, file) as span_of_step:
            outcome = step.run(file)
            if outcome is not PASS and not isinstance(outcome, REPLACE | LATER | REJECT):
                raise InvalidResult(
                    f"{dotted_path(type(step))}.run() returned {outcome!r}; return PASS, "
                    f"REPLACE(), LATER() or REJECT()."
                )
            span_of_step.note(outcome=type(outcome).__name__.strip("_").lower())
            self._lease.require()
        return outcome

    def _span(self, step: Step, file: PreparedFile) -> Span:
        row, name = self._row, dotted_path(type(step))
        return span(
            "step",
            storage=row.alias,
            file=row.pk,
            step=name,
            attempt=file.attempt,
            bytes=file.size,
        )

    def _require(self, changed: int) -> None:
        if not changed:
            self._lease.lose()

    def _replace(self, storage: TransferringStorage, plan: str, content: object) -> None:
        """Let other bytes be the content, for the steps that follow and for readers."""
        preparation, row, local = self._preparation, self._row, storage.local
        hidden = quarantine.save(local, row.name, content)
        try:
            if preparation.hidden:
                self._require(
                    self._claims.replace_hidden(row, self._step, plan, hidden.name, hidden.content)
                )
            else:
                gatekeeping.replace_published(storage, preparation, row, hidden, self._step, plan)
        except Error:  # if the connection was lost, these bytes may be all that the file has
            raise
        except Exception:
            localfiles.discard(local, hidden.name)
            raise
        if preparation.hidden:
            quarantine.remove(local, preparation)
            preparation.hidden = hidden.name
        else:
            preparation.generation += 1
            row.generation = preparation.file.generation = preparation.generation
        preparation.size = hidden.content.size
        preparation.checksum = preparation.file.checksum = hidden.content.checksum

    def _reject(self, storage: TransferringStorage, step: Step, text: str) -> None:
        preparation, row = self._preparation, self._row
        is_published = not preparation.hidden
        hidden = preparation.hidden or quarantine.new_hidden_name(row.name)
        self._require(self._claims.reject(row, text, hidden, is_published=is_published))
        storage.forget_route(row.name)
        if is_published:
            current = preparations().of(row.pk).select_related("file").first()
            if current is not None:
                gatekeeping.put_away(storage, current, row)
        logger.warning("%s was rejected: %s", row, text)
        name = dotted_path(type(step))
        send(file_rejected, storage, preparation.file, reason=text, step=name)

    # Failure

    def _fail(self, error: Exception) -> None:
        row, claims, attempts = self._row, self._claims, self._preparation.attempts
        text = reason(error, *sides_of(row))
        if ending.has_begun() or isinstance(error, LocalStorageMissing):
            self._give_back(settings.retry_delay, text, count=False)
            return
        if isinstance(error, ImproperlyConfigured):  # a fault of this process, not of the file
            logger.error("%s", error)
            self._give_back(settings.retry_delay, text, count=False)
            return
        is_final = isinstance(error, InvalidResult) or attempts > settings.retries
        if not is_final:
            taken = self._give_back(backoff(attempts), text)
        elif settings.on_step_error == "publish":
            taken = self._skip(text)
        else:
            taken = claims.hold(row, text, **self._progress(count=True))
        if taken:
            log = logger.error if is_final else logger.warning
            log("A step of %s failed: %s", row, text)

    def _skip(self, text: str) -> int:
        """Go on with the next step, at once, although this one could not be run."""
        storage = self._storage
        if storage is None:
            return self._claims.hold(self._row, text)
        plan = plan_of(storage.steps)
        taken = self._claims.advance(self._row, self._step + 1, plan)
        self._claims.give_back(self._row, error=text, count=False)
        return taken

    def _stall(self) -> None:
        """Record that the thread of this work hangs. If it goes on, it finds its claim void."""
        try:
            with about(self._row):
                self._fail(self._lease.stall())
        except Exception as mistake:  # the lease expires
            logger.warning("A stalled step could not be ended: %s", reason(mistake))
        finally:
            self._lease.end()
            connections.close_all()
