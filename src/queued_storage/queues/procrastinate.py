"""Procrastinate, on the project's PostgreSQL database."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps
from django.db import connections, transaction

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, run_message
from .timeouts import TIMEOUT

try:
    from procrastinate import App
    from procrastinate.contrib.django import app
    from procrastinate.contrib.django.django_connector import DjangoConnector
    from procrastinate.contrib.django.settings import settings
    from procrastinate.exceptions import ConnectorException
except ImportError as error:
    raise MissingLibrary("Procrastinate", "procrastinate") from error

DJANGO_APP = "procrastinate.contrib.django"
TASK = "queued_storage.run"
# Workers listen to a channel of this name, and PostgreSQL allows 63 bytes for it.
QUEUE_MAX_BYTES = 63 - len("procrastinate_queue_v1#")


class ProcrastinateQueue(BaseQueue):
    """Defers the task ``queued_storage.run`` for the workers of ``procrastinate.contrib.django``.

    The options are those of ``Task.configure()``.
    """

    def __init__(self, queue: str | None = None, priority: int | None = None) -> None:
        self._queue = queue
        self._priority = priority
        self._alias = settings.DATABASE_ALIAS
        if not apps.is_installed(DJANGO_APP):
            raise InvalidQueue(f"Add {DJANGO_APP!r} to INSTALLED_APPS, and run migrate.")
        if (vendor := connections[self._alias].vendor) != "postgresql":
            raise InvalidQueue(
                f"Procrastinate requires PostgreSQL, but DATABASES[{self._alias!r}] is {vendor}. "
                f"Set PROCRASTINATE_DATABASE_ALIAS, or use another queue."
            )
        if queue and len(queue.encode()) > QUEUE_MAX_BYTES:
            raise InvalidQueue(
                f"The queue name {queue!r} is too long: at most {QUEUE_MAX_BYTES} bytes are "
                f"allowed, because PostgreSQL limits the names of channels."
            )
        if TASK not in app.tasks:
            app.task(name=TASK)(run_message)
        # The connections of procrastinate's own app are not Django's in a worker.
        self._app = App(connector=DjangoConnector(self._alias))

    def enqueue(self, pks: list[int]) -> None:
        job = self._app.configure_task(TASK, queue=self._queue, priority=self._priority)
        try:
            with self._time_limit():
                job.defer(pks=[*pks])
        except ConnectorException as error:  # its own text is just "Database error."
            raise error.__cause__ or error from None

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        """Abort the statement after ``TIMEOUT``, because the table may be locked."""
        connection = connections[self._alias]
        if connection.in_atomic_block:  # the limit would apply to the rest of the transaction too
            yield
            return
        with transaction.atomic(using=self._alias), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {TIMEOUT * 1000:.0f}")
            yield
