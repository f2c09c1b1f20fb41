"""Celery."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from ..exceptions import InvalidQueue, MissingLibrary, TimeLimitReached
from ..reporting.logs import logger
from . import sweep as sweeping
from .base import BaseQueue, given, imported, inline_errors, run_all
from .timeouts import TIMEOUT

try:
    from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler
    from celery import Celery, shared_task
    from celery.app import app_or_default
    from kombu import Producer
    from kombu.exceptions import OperationalError
except ImportError as error:
    raise MissingLibrary("Celery", "celery") from error

SOFT_LIMIT = 0.9  # as a fraction of the hard limit
SWEEP_EXPIRES = 300  # seconds that a sweep may wait for a worker; later sweeps replace it

# By default, a connection waits for seconds and retries. Each transport uses the options it knows.
TRANSPORT_OPTIONS = {
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


# Tasks


# If its process is killed, the message is delivered again for the files that were not started. The
# others are under a lease. Each kill costs one of them an attempt, so this cannot repeat forever.
@shared_task(
    name="queued_storage.run",
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=0,
)
def run(pks: list[int]) -> None:
    """Process these files of the ledger."""
    with _soft_limit_ends_message():
        run_all(pks)


@shared_task(name="queued_storage.sweep", ignore_result=True, max_retries=0, expires=SWEEP_EXPIRES)
def sweep(alias: str | None = None) -> None:
    """Enqueue all due files, of one storage or of all. For Celery's beat."""
    sweeping.sweep(alias)


# The queue


class CeleryQueue(BaseQueue):
    """Sends the task ``queued_storage.run`` to the workers of a Celery app.

    ``app`` is the app or its dotted path, by default the current app. The other options are those
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
        self._app = _app_at(app) if isinstance(app, str) else app
        self._options = given(
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            priority=priority,
            expires=expires,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
        )

    @property
    def app(self) -> Celery:
        return app_or_default(self._app)  # the app itself; `current_app` is a proxy

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # Celery runs the task itself if task_always_eager is set
            self._send(pks)
        return errors

    def _send(self, pks: list[int]) -> None:
        producers = _producers_of(self.app)
        started = time.monotonic()
        try:
            self._publish(pks, producers, producers.take())
        except OperationalError:
            if time.monotonic() - started > TIMEOUT / 2:
                raise
            # An idle connection that was closed fails immediately; a new one may work.
            self._publish(pks, producers, producers.create())

    def _publish(self, pks: list[int], producers: "_Producers", producer: Producer) -> None:
        options = self._default_soft_limit() | self._options
        try:
            self.app.tasks[run.name].apply_async((pks,), producer=producer, retry=False, **options)
        except BaseException:
            if producer.connection:
                producer.connection.collect()  # close() would wait for a response
            raise
        producers.put_back(producer)

    def _default_soft_limit(self) -> dict[str, float]:
        """Return a soft limit if there is only a hard limit.

        A process that reaches its hard limit looks like a worker that was stopped. Such an attempt
        doesn't count, so the file would be retried forever.
        """
        conf = self.app.conf
        hard = self._options.get("time_limit") or conf.task_time_limit
        if not hard or conf.task_soft_time_limit:
            return {}
        return {"soft_time_limit": SOFT_LIMIT * hard}


def _app_at(path: str) -> Celery:
    app = imported(path, "Celery app")
    if not isinstance(app, Celery):
        raise InvalidQueue(f"{path!r} is not a Celery app, but {app!r}.")
    return app


# Connections


class _Producers:
    """The producers of one app in this process: one for each thread that publishes at a time.

    They have connections of their own, which give up after ``TIMEOUT`` seconds.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._idle: list[Producer] = []
        self._inherited: list[Producer] = []
        self._pid = os.getpid()

    def take(self) -> Producer:
        """Return an idle producer, or a new one."""
        if self._pid != os.getpid():
            # A fork shares them with its parent. Dropping them would close the parent's, too.
            self._inherited, self._idle, self._pid = self._idle, [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self.create()

    def create(self) -> Producer:
        connection = self._app.connection_for_write(
            connect_timeout=TIMEOUT, transport_options=TRANSPORT_OPTIONS
        )
        return self._app.amqp.Producer(connection, auto_declare=False)

    def put_back(self, producer: Producer) -> None:
        self._idle.append(producer)


_producers: WeakKeyDictionary[Celery, _Producers] = WeakKeyDictionary()


def _producers_of(app: Celery) -> _Producers:
    return _producers.get(app) or _producers.setdefault(app, _Producers(app))


# Time limits


@contextmanager
def _soft_limit_ends_message() -> Iterator[None]:
    """Make Celery's soft limit end the message, whatever the process is doing.

    Celery raises an ``Exception`` from a signal handler. In the middle of an upload, botocore would
    treat it as a lost connection and send the data again.
    """
    if not _has_soft_limit():
        yield
        return
    signal.signal(SIG_SOFT_TIMEOUT, _end_message)
    try:
        yield
    except TimeLimitReached as limit:
        logger.warning("%s The remaining files of the message stay due.", limit)
    finally:
        signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)


def _has_soft_limit() -> bool:
    """Whether this is a process of the prefork pool; other pools have no soft limit."""
    return (
        SIG_SOFT_TIMEOUT is not None
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(SIG_SOFT_TIMEOUT) is soft_timeout_sighandler
    )


def _end_message(signum: int, frame: Any) -> None:
    raise TimeLimitReached("Celery's soft time limit was reached.")
