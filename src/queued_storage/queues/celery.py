"""Celery."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from django.utils.module_loading import import_string

from ..exceptions import InvalidQueue, MissingLibrary, TimeLimitReached
from ..reporting.logs import logger
from . import sweep as sweeping
from .base import BaseQueue, inline_errors, run_all

try:
    from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
    from celery import Celery, shared_task
    from celery.app import app_or_default
    from kombu import Producer
    from kombu.exceptions import OperationalError
except ImportError as error:
    raise MissingLibrary("Celery", "celery") from error

TIMEOUT = 1.0  # seconds that a save may wait for the broker
SOFT_LIMIT = 0.9  # of a hard limit
SWEEP_EXPIRES = 300  # seconds that a sweep waits for a worker before the next ones are enough

# Celery's own connection waits for seconds and tries again. Each transport takes from these
# options what it knows.
IMPATIENT = {
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
    "connect_retries_timeout": TIMEOUT,
    # AMQP
    "read_timeout": TIMEOUT,
    "write_timeout": TIMEOUT,
    # Redis
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "retry_on_timeout": False,
}


# A message whose process died comes again, for the files that it had not begun. That ends: those
# it had are under a lease, and each death costs one of them an attempt.
@shared_task(
    name="queued_storage.run",
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=0,
)
def run(pks: list[int]) -> None:
    """Work on these files of the ledger."""
    with _soft_limit():
        run_all(pks)


@shared_task(name="queued_storage.sweep", ignore_result=True, max_retries=0, expires=SWEEP_EXPIRES)
def sweep(alias: str | None = None) -> None:
    """Have every due file worked on, of one storage or of all: for Celery's beat."""
    sweeping.sweep(alias)


@contextmanager
def _soft_limit() -> Iterator[None]:
    """Have Celery's soft limit end a message for certain.

    Celery raises an ``Exception`` from a signal handler, wherever the process is. In the middle of
    an upload botocore takes that for a lost connection, and sends again.
    """
    if not _is_soft_limit_raised_here():
        yield
        return
    signal.signal(SIG_SOFT_TIMEOUT, _end_message)
    try:
        yield
    except TimeLimitReached as limit:
        logger.warning("%s What is left of its message stays due.", limit)
    finally:
        signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)


def _is_soft_limit_raised_here() -> bool:
    """In the processes of the prefork pool it is, and nowhere else."""
    return (
        SIG_SOFT_TIMEOUT is not None
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(SIG_SOFT_TIMEOUT) is soft_timeout_sighandler
    )


def _end_message(signum: int, frame: Any) -> None:
    raise TimeLimitReached("Celery's soft time limit is over.")


class CeleryQueue(BaseQueue):
    """Sends the task ``queued_storage.run`` to the workers of a Celery app.

    ``app`` is the app or its dotted path, by default the current one. The other options are those
    of ``apply_async()``.
    """

    def __init__(
        self,
        app: Celery | str | None = None,
        *,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        priority: int | None = None,
        expires: float | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
    ) -> None:
        self._app = _imported(app) if isinstance(app, str) else app
        options: dict[str, Any] = {
            "queue": queue,
            "exchange": exchange,
            "routing_key": routing_key,
            "priority": priority,
            "expires": expires,
            "time_limit": time_limit,
            "soft_time_limit": soft_time_limit,
        }
        self._options = {name: value for name, value in options.items() if value is not None}

    @property
    def app(self) -> Celery:
        return app_or_default(self._app)  # the app itself; `current_app` is a proxy

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # there are some where task_always_eager is set
            self._send(pks)
        return errors

    def _send(self, pks: list[int]) -> None:
        started = time.monotonic()
        try:
            self._publish(pks)
        except OperationalError:
            # An idle connection may have been cut, which shows at once; a new one is in order.
            if time.monotonic() - started > TIMEOUT / 2:
                raise
            self._publish(pks, anew=True)

    def _publish(self, pks: list[int], *, anew: bool = False) -> None:
        with _producers_of(self.app).borrowed(anew=anew) as producer:
            self.app.tasks[run.name].apply_async(
                (pks,), producer=producer, retry=False, **(self._soft_limit() | self._options)
            )

    def _soft_limit(self) -> dict[str, Any]:
        """One ahead of a hard limit, where there is none.

        What a hard limit ends looks like a worker that was stopped. That is no fault of the file,
        so it would be tried for ever.
        """
        conf = self.app.conf
        hard = self._options.get("time_limit") or conf.task_time_limit
        is_needed = hard and not conf.task_soft_time_limit
        return {"soft_time_limit": SOFT_LIMIT * hard} if is_needed else {}


class _Producers:
    """Those of one app in this process, on connections that are quick to give up.

    There are as many as threads publish at one time.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._idle: list[Producer] = []
        self._inherited: list[Producer] = []
        self._pid = os.getpid()

    @contextmanager
    def borrowed(self, *, anew: bool) -> Iterator[Producer]:
        if self._pid != os.getpid():
            # Shared with the parent, and closed for it too if they were dropped here.
            self._inherited, self._idle, self._pid = self._idle, [], os.getpid()
        try:
            producer = self._new() if anew else self._idle.pop()
        except IndexError:
            producer = self._new()
        try:
            yield producer
        except BaseException:
            if producer.connection:
                producer.connection.collect()  # waits for no answer, as close() does
            raise
        self._idle.append(producer)

    def _new(self) -> Producer:
        connection = self._app.connection_for_write(
            connect_timeout=TIMEOUT, transport_options=IMPATIENT
        )
        return self._app.amqp.Producer(connection, auto_declare=False)


_producers: WeakKeyDictionary[Celery, _Producers] = WeakKeyDictionary()


def _producers_of(app: Celery) -> _Producers:
    return _producers.get(app) or _producers.setdefault(app, _Producers(app))


def _imported(path: str) -> Celery:
    try:
        app = import_string(path)
    except ImportError as error:
        raise InvalidQueue(f"The Celery app {path!r} cannot be imported: {error}") from error
    if not isinstance(app, Celery):
        raise InvalidQueue(f"{path!r} is no Celery app but {app!r}.")
    return app
