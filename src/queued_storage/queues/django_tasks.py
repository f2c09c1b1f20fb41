"""The tasks framework of Django 6, and its backport for Django 5.2."""

from typing import TYPE_CHECKING

import django
from django.core.exceptions import ImproperlyConfigured

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, inline_errors, run_all

try:
    if TYPE_CHECKING or django.VERSION >= (6, 0):
        from django.tasks import task, task_backends
        from django.tasks.exceptions import TaskException
    else:
        from django_tasks import task, task_backends
        from django_tasks.exceptions import TaskException
except ImportError as error:
    raise MissingLibrary("django-tasks", "django-tasks") from error


def _default_queue_of(backend: str) -> str:
    queues = task_backends[backend].queues
    return "default" if not queues or "default" in queues else min(queues)


# Django checks a task when it is defined, so it needs a backend and a queue that exist.
_backend = next(iter(task_backends), "default")


@task(backend=_backend, queue_name=_default_queue_of(_backend))
def run(pks: list[int]) -> None:
    """Process these files of the ledger."""
    run_all(pks)


class DjangoTasksQueue(BaseQueue):
    """Enqueues a task on the backend of this alias in ``TASKS``.

    ``queue_name`` is one of the backend's ``QUEUES``, by default "default" or the first in
    alphabetical order.
    """

    def __init__(
        self, backend: str = "default", queue_name: str | None = None, priority: int | None = None
    ) -> None:
        try:
            self._task = run.using(
                backend=backend,
                queue_name=queue_name or _default_queue_of(backend),
                priority=priority,
            )
        except (TaskException, ImproperlyConfigured) as error:
            raise InvalidQueue(f"TASKS[{backend!r}] cannot be used: {error}") from error

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # the ImmediateBackend runs the task itself
            self._task.enqueue(pks)
        return errors
