"""Huey."""

import copy
from typing import Any
from weakref import WeakKeyDictionary

from django.utils.module_loading import import_string

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, impatient, inline_errors, run_message

try:
    from huey import Huey
    from huey.api import Task
except ImportError as error:
    raise MissingLibrary("Huey", "huey") from error

DJANGOS = "huey.contrib.djhuey.HUEY"  # made of the setting HUEY


class HueyQueue(BaseQueue):
    """Enqueues a task for the consumers of a Huey instance.

    ``huey`` is the instance or its dotted path, by default the one of ``huey.contrib.djhuey``. The
    other options are those of a Huey task, with times in seconds.
    """

    def __init__(
        self,
        huey: Huey | str | None = None,
        *,
        priority: int | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> None:
        self.huey = _huey(huey)
        self._options = {"priority": priority, "expires": expires, "timeout": timeout}
        if priority is not None and not self.huey.storage.priority:
            raise InvalidQueue(
                f"{type(self.huey).__name__} has no priorities: use PriorityRedisHuey, or leave "
                f"out the option 'priority'."
            )
        self._task = _task_of(self.huey)
        self._patient: Any = None
        self._impatient: Any = None

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # there are some in immediate mode
            self._publisher().enqueue(self._task((pks,), **self._options))
        return errors

    def _publisher(self) -> Huey:
        """The instance again, on connections that are quick to give up."""
        storage = self.huey.storage  # not always the same: immediate mode has another one
        if self._patient is not storage:
            self._impatient = _impatient(storage)
            self._patient = storage
        publisher = copy.copy(self.huey)
        publisher.storage = self._impatient
        return publisher


def _huey(spec: Huey | str | None) -> Huey:
    path = DJANGOS if spec is None else spec
    if isinstance(path, str):
        try:
            spec = import_string(path)
        except (ImportError, SystemExit) as error:  # Huey says what is wrong with HUEY, and exits
            raise InvalidQueue(f"The Huey instance {path!r} cannot be imported: {error}") from error
    if not isinstance(spec, Huey):
        raise InvalidQueue(f"{path!r} is no Huey instance but {spec!r}.")
    return spec


def run(pks: list[int]) -> None:
    """Work on these files of the ledger."""
    run_message(pks)


_tasks: WeakKeyDictionary[Huey, type[Task]] = WeakKeyDictionary()


def _task_of(huey: Huey) -> type[Task]:
    """The task, which an instance registers once."""
    if huey not in _tasks:
        _tasks[huey] = huey.task(retries=0)(run).task_class
    return _tasks[huey]


def _impatient(storage: Any) -> Any:
    if not hasattr(storage, "pool"):
        return storage  # no Redis
    storage = copy.copy(storage)
    storage.conn = impatient(storage.conn)
    storage.pool = storage.conn.connection_pool
    return storage
