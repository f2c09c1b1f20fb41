"""Celery."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from django.utils.module_loading import import_string

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, inline_errors, run_all

try:
    from celery import Celery, shared_task
    from celery.app import app_or_default
    from kombu import Producer
    from kombu.exceptions import OperationalError
except ImportError as error:
    raise MissingLibrary("Celery", "celery") from error

TIMEOUT = 1.0  # seconds that a save may wait for the broker

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


@shared_task(name="queued_storage.run", ignore_result=True, acks_late=True, max_retries=0)
def run(pks: list[int]) -> None:
    """Work on these files of the ledger."""
    run_all(pks)


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
                (pks,), producer=producer, retry=False, **self._options
            )


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
