"""What a queue adapter is, and how one is found."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from django.core.signals import setting_changed
from django.db import close_old_connections
from django.utils.module_loading import import_string

from ..conf import settings
from ..exceptions import InvalidQueue
from ..reporting.descriptions import describe
from ..reporting.logs import logger

TIMEOUT = 1.0  # seconds that a save may wait for a broker


class BaseQueue(ABC):
    """Has files worked on soon, in some worker.

    A queue is only a wake-up: the ledger knows what is due, so a message may be lost, come late,
    or come twice. It carries ids of the ledger and nothing else. Retries are the ledger's too; a
    queue's own must be off.
    """

    # How many ids one message carries at most
    batch_size: ClassVar[int] = 100

    def _retire(self) -> None:
        """End what runs for it in this process, without waiting: a setting was changed, and the
        queue is not in use any more."""

    # Must be implemented

    @abstractmethod
    def enqueue(self, pks: list[int]) -> Mapping[int, Exception] | None:
        """See to it that ``run_all(pks)`` is called soon.

        It must not wait for a broker longer than about a second. It may raise; the caller logs
        that, and the rows stay due. A queue that runs the files before it returns gives back the
        exceptions that their attempts ended with.
        """


_inline: ContextVar[dict[int, Exception] | None] = ContextVar("queued_storage_inline", default=None)


@contextmanager
def inline_errors() -> Iterator[dict[int, Exception]]:
    """Collect what attempts fail with whose message is run, not sent: engines have such modes.

    An engine's task itself returns nothing, since results are stored and logged.
    """
    errors: dict[int, Exception] = {}
    token = _inline.set(errors)
    try:
        yield errors
    finally:
        _inline.reset(token)


def run_all(pks: Iterable[int]) -> dict[int, Exception]:
    """What a worker does with a message: work on each file; errors are the ledger's to keep."""
    from ..transfers import work

    errors = {}
    for pk in pks:
        try:
            error = work.run(pk)
        except Exception as failure:  # the ledger itself is out of reach: the lease will end
            logger.exception("File %s could not be worked on.", pk, extra={"queued_file": pk})
            error = failure
        if error:
            errors[pk] = error
    if (collected := _inline.get()) is not None:
        collected.update(errors)
    return errors


def run_message(pks: Iterable[int]) -> None:
    """The task of an engine that knows nothing of Django: its threads keep no stale connection."""
    if _inline.get() is not None:  # the thread is the caller's, and so is its connection
        run_all(pks)
        return
    close_old_connections()
    try:
        run_all(pks)
    finally:
        close_old_connections()


def impatient(client: Any) -> Any:
    """The same client of redis-py, on connections of its own that are quick to give up."""
    pool = copy.copy(client.connection_pool)
    pool.connection_kwargs = {
        **pool.connection_kwargs,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": None,
        "retry_on_error": [],
        "retry_on_timeout": False,
    }
    pool.reset()
    client = copy.copy(client)
    client.connection_pool = pool
    return client


_built: dict[str, BaseQueue] = {}


def get_queue(spec: Any, host: str | None = None) -> BaseQueue:
    """The queue for a dotted path, ``{"BACKEND", "OPTIONS"}``, class or instance.

    Where a text in the options says ``{host}``, it is that of the workers of ``host``, by default
    this one. One and the same configuration gives one and the same queue. ``InvalidQueue`` is
    raised for what is none; its child ``MissingLibrary`` names the extra to install.
    """
    if isinstance(spec, str) and (queue := _built.get(spec)):
        return queue
    if isinstance(spec, BaseQueue):
        return spec
    backend, options = _backend_and_options(spec)
    options = {
        name: value.replace("{host}", host or settings.host) if isinstance(value, str) else value
        for name, value in options.items()
    }
    key = _path_of(backend)
    if options:
        key += f" {sorted(options.items(), key=repr)!r}"
    queue = _built.get(key)
    if queue is None:  # two threads may make one each, but both use the same
        queue = _built.setdefault(key, _build(backend, options))
    return queue


def _backend_and_options(spec: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(spec, Mapping):
        return spec, {}
    unknown = set(spec) - {"BACKEND", "OPTIONS"}
    options = spec.get("OPTIONS") or {}
    if unknown or "BACKEND" not in spec or not isinstance(options, Mapping):
        raise InvalidQueue(
            f"A queue is given as {{'BACKEND': …, 'OPTIONS': …}}, not {describe(spec)!r}."
        )
    return spec["BACKEND"], dict(options)


def _path_of(backend: Any) -> str:
    if isinstance(backend, type):
        return f"{backend.__module__}.{backend.__qualname__}"
    return str(backend)


def _build(backend: Any, options: dict[str, Any]) -> BaseQueue:
    if isinstance(backend, str):
        try:
            backend = import_string(backend)
        except ImportError as error:
            raise InvalidQueue(f"The queue {backend!r} cannot be imported: {error}") from error
    if not (isinstance(backend, type) and issubclass(backend, BaseQueue)):
        raise InvalidQueue(
            f"{backend!r} is no queue: give a subclass of queued_storage.queues.base.BaseQueue, "
            f"its dotted path, or {{'BACKEND': …, 'OPTIONS': …}}."
        )
    try:
        return backend(**options)
    except TypeError as error:
        raise InvalidQueue(
            f"{_path_of(backend)} does not take {describe(options)}: {error}"
        ) from error


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in {"QUEUED_STORAGE", "TASKS"}:
        queues = list(_built.values())
        _built.clear()
        for queue in queues:
            queue._retire()


setting_changed.connect(_on_setting_changed)
