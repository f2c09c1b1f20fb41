"""Procrastinate, on the PostgreSQL of the project."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps
from django.db import connections, transaction

from ..exceptions import InvalidQueue, MissingLibrary
from .base import TIMEOUT, BaseQueue, run_message

try:
    from procrastinate import App
    from procrastinate.contrib.django import app
    from procrastinate.contrib.django.django_connector import DjangoConnector
    from procrastinate.contrib.django.settings import settings
    from procrastinate.exceptions import ConnectorException
except ImportError as error:
    raise MissingLibrary("Procrastinate", "procrastinate") from error

DJANGOS = "procrastinate.contrib.django"
TASK = "queued_storage.run"
QUEUE_MAX_BYTES = 63 - len("procrastinate_queue_v1#")  # the name of a channel has 63 at most


class ProcrastinateQueue(BaseQueue):
    """Defers the task ``queued_storage.run`` for the workers of ``procrastinate.contrib.django``.

    The options are those of ``Task.configure()``.
    """

    def __init__(self, queue: str | None = None, priority: int | None = None) -> None:
        self._queue = queue
        self._priority = priority
        self._alias = settings.DATABASE_ALIAS
        if not apps.is_installed(DJANGOS):
            raise InvalidQueue(f"Add {DJANGOS!r} to INSTALLED_APPS, and migrate.")
        if (vendor := connections[self._alias].vendor) != "postgresql":
            raise InvalidQueue(
                f"Procrastinate needs PostgreSQL, and DATABASES[{self._alias!r}] is {vendor}: set "
                f"PROCRASTINATE_DATABASE_ALIAS, or use another queue."
            )
        if queue and len(queue.encode()) > QUEUE_MAX_BYTES:
            raise InvalidQueue(f"{queue!r} is too long: PostgreSQL could not notify of it.")
        if TASK not in app.tasks:
            app.task(name=TASK)(run_message)
        # In a worker, the connections of the other app are not Django's.
        self._app = App(connector=DjangoConnector(self._alias))

    def enqueue(self, pks: list[int]) -> None:
        job = self._app.configure_task(TASK, queue=self._queue, priority=self._priority)
        try:
            with self._impatient():
                job.defer(pks=[*pks])
        except ConnectorException as error:
            raise error.__cause__ or error from None  # it says no more than "Database error."

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """Somebody may hold a lock on the table."""
        connection = connections[self._alias]
        if connection.in_atomic_block:  # the limit would stay for what follows in it
            yield
            return
        with transaction.atomic(using=self._alias), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {TIMEOUT * 1000:.0f}")
            yield
