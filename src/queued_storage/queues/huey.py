"""Huey."""

import copy
from typing import Any
from weakref import WeakKeyDictionary

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, imported, inline_errors, run_message
from .timeouts import with_timeouts

try:
    from huey import Huey
    from huey.api import Task
except ImportError as error:
    raise MissingLibrary("Huey", "huey") from error

DJANGO_INSTANCE = "huey.contrib.djhuey.HUEY"  # created from the setting HUEY


class HueyQueue(BaseQueue):
    """Enqueues a task for the consumers of a Huey instance.

    ``huey`` is the instance or its dotted path, by default the instance of
    ``huey.contrib.djhuey``. The other options are those of a Huey task, with times in seconds.
    """

    def __init__(
        self,
        huey: Huey | str | None = None,
        *,
        priority: int | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> None:
        self.huey = _instance(DJANGO_INSTANCE if huey is None else huey)
        self._options = {"priority": priority, "expires": expires, "timeout": timeout}
        if priority is not None and not self.huey.storage.priority:
            raise InvalidQueue(
                f"{type(self.huey).__name__} does not support priorities. Use PriorityRedisHuey, "
                f"or remove the option 'priority'."
            )
        self._task = _task_of(self.huey)
        self._storage: Any = None
        self._storage_with_timeouts: Any = None

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # Huey runs the task itself in immediate mode
            self._publisher().enqueue(self._task((pks,), **self._options))
        return errors

    def _publisher(self) -> Huey:
        """Return a copy of the instance, with connections of its own."""
        storage = self.huey.storage
        if self._storage is not storage:  # immediate mode has a storage of its own
            self._storage_with_timeouts = _storage_with_timeouts(storage)
            self._storage = storage
        publisher = copy.copy(self.huey)
        publisher.storage = self._storage_with_timeouts
        return publisher


def _instance(huey: Huey | str) -> Huey:
    instance = huey
    if isinstance(huey, str):
        try:
            instance = imported(huey, "Huey instance")
        except SystemExit as error:  # Huey prints what is wrong with the setting HUEY, and exits
            raise InvalidQueue(f"The Huey instance {huey!r} cannot be imported.") from error
    if not isinstance(instance, Huey):
        raise InvalidQueue(f"{huey!r} is not a Huey instance, but {instance!r}.")
    return instance


def run(pks: list[int]) -> None:
    """Process these files of the ledger."""
    run_message(pks)


_tasks: WeakKeyDictionary[Huey, type[Task]] = WeakKeyDictionary()


def _task_of(huey: Huey) -> type[Task]:
    """Return the task, which an instance registers only once."""
    if huey not in _tasks:
        _tasks[huey] = huey.task(retries=0)(run).task_class
    return _tasks[huey]


def _storage_with_timeouts(storage: Any) -> Any:
    if not hasattr(storage, "pool"):  # not Redis
        return storage
    storage = copy.copy(storage)
    storage.conn = with_timeouts(storage.conn)
    storage.pool = storage.conn.connection_pool
    return storage
