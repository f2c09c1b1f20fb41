"""What queue adapters are made of."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from django.db import close_old_connections
from django.utils.module_loading import import_string

from ..exceptions import InvalidQueue
from ..reporting.logs import logger


class BaseQueue(ABC):
    """Notifies workers of files that are due.

    The ledger knows what is due, so a message may be lost, come late, or come twice. It contains
    ids of rows in the ledger and nothing else. The ledger also schedules retries, so turn off
    those of the task queue.
    """

    # The maximum number of ids in one message
    batch_size: ClassVar[int] = 100

    def retire(self) -> None:
        """End what runs for the queue in this process, without waiting for it.

        Called when a changed setting replaces the queue.
        """

    # Must be implemented

    @abstractmethod
    def enqueue(self, pks: list[int]) -> Mapping[int, Exception] | None:
        """Make a worker call ``run_all(pks)`` soon.

        Return within about a second, even if the broker is down. An exception is logged, and the
        files stay due. A queue that processes the files before it returns must return what
        ``run_all()`` returned.
        """


# For workers

# Jobs are above the queues, so their functions are reached by name.
RUN_JOB = "queued_storage.operations.jobs.run"
RUN_SLICE = "queued_storage.operations.jobs.run_slice"


def message_of_job(pk: int) -> int:
    """Return the id that stands for a job in a message. Processes that know no jobs ignore it."""
    return -pk


def run_all(pks: Iterable[int]) -> dict[int, Exception]:
    """Process the files of a message.

    Files that somebody has locked are left out, and stay due. Those whose last worker died come at
    the end, each while this process does nothing else.

    Return the exceptions of failed attempts. The ledger stores them too, so a worker may ignore
    them.
    """
    from ..transfers import copying, preparing, watching, work

    errors: dict[int, Exception] = {}
    left = []
    done = list(pks)
    with _failures_of_others("Steps could not be run."):
        errors.update(preparing.run_due_of([pk for pk in done if pk > 0]))
    for pk in done:
        with _failures_of(pk, errors):
            if pk < 0:
                was_claimed, error = True, import_string(RUN_SLICE)(-pk)
            else:
                was_claimed, error = work.run_new(pk)
            if error:
                errors[pk] = error
            if not was_claimed:
                left.append(pk)
    for pk in left:
        with _failures_of(pk, errors):
            if error := work.run_suspect(pk):
                errors[pk] = error
    with _failures_of_others("Copies could not be made."):
        errors.update(copying.make_due_of([pk for pk in done if pk > 0]))
    if (collected := _inline_errors.get()) is not None:
        collected.update(errors)
    watching.watch_if_closed()
    return errors


@contextmanager
def _failures_of(pk: int, errors: dict[int, Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as failure:  # the ledger is unavailable: the lease will expire
        from ..ledger import schema  # needs the models

        errors[pk] = failure
        if not schema.is_explained(failure):
            logger.exception("File %s could not be processed.", pk, extra={"queued_file": pk})


def run_message(pks: Iterable[int]) -> None:
    """Process a message in a task queue that doesn't manage Django's connections."""
    if _inline_errors.get() is not None:  # the connection of the calling thread is in use
        run_all(pks)
        return
    close_old_connections()
    try:
        run_all(pks)
    finally:
        close_old_connections()


@contextmanager
def _failures_of_others(text: str) -> Iterator[None]:
    try:
        yield
    except Exception as failure:  # the ledger is unavailable: the leases will expire
        from ..ledger import schema  # needs the models

        if not schema.is_explained(failure):
            logger.exception(text)


# For adapters

_inline_errors: ContextVar[dict[int, Exception] | None] = ContextVar(
    "queued_storage_inline_errors", default=None
)


@contextmanager
def inline_errors() -> Iterator[dict[int, Exception]]:
    """Collect the exceptions of attempts that run in the block.

    Some task queues have a mode in which they run a task instead of sending it. The task returns
    nothing, because task queues store and log results.
    """
    errors: dict[int, Exception] = {}
    token = _inline_errors.set(errors)
    try:
        yield errors
    finally:
        _inline_errors.reset(token)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not ``None``."""
    return {name: value for name, value in options.items() if value is not None}


def imported(path: str, what: str) -> Any:
    """Import what an option or setting names by its dotted path."""
    try:
        return import_string(path)
    except ImportError as error:
        raise InvalidQueue(f"The {what} {path!r} cannot be imported: {error}") from error
