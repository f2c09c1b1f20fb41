"""The queues of this process, one for each configuration."""

from collections.abc import Mapping
from typing import Any

from django.core.signals import setting_changed

from ..conf import settings
from ..exceptions import InvalidQueue
from ..remotes.classes import dotted_path
from ..reporting.descriptions import describe
from .base import BaseQueue, imported

_queues: dict[str, BaseQueue] = {}


def get_queue(spec: Any, host: str | None = None) -> BaseQueue:
    """Return the queue for a dotted path, ``{"BACKEND", "OPTIONS"}``, class or instance.

    In options that are strings, ``{host}`` is replaced by ``host``, by default this host. Equal
    configurations share one queue. Raise ``InvalidQueue`` if there is no such queue, or its
    subclass ``MissingLibrary``, which names the extra to install.
    """
    if isinstance(spec, str) and (queue := _queues.get(spec)):
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
    queue = _queues.get(key)
    if queue is None:  # two threads may build one each, but both use the same
        queue = _queues.setdefault(key, _build(backend, options))
    return queue


def _backend_and_options(spec: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(spec, Mapping):
        return spec, {}
    unknown = set(spec) - {"BACKEND", "OPTIONS"}
    options = spec.get("OPTIONS") or {}
    if unknown or "BACKEND" not in spec or not isinstance(options, Mapping):
        raise InvalidQueue(
            f"A queue must be configured as {{'BACKEND': …, 'OPTIONS': …}}, not {describe(spec)!r}."
        )
    return spec["BACKEND"], dict(options)


def _path_of(backend: Any) -> str:
    return dotted_path(backend) if isinstance(backend, type) else str(backend)


def _build(backend: Any, options: dict[str, Any]) -> BaseQueue:
    if isinstance(backend, str):
        backend = imported(backend, "queue")
    if not (isinstance(backend, type) and issubclass(backend, BaseQueue)):
        raise InvalidQueue(
            f"{backend!r} is not a queue. Use a subclass of queued_storage.queues.base.BaseQueue, "
            f"its dotted path, or {{'BACKEND': …, 'OPTIONS': …}}."
        )
    try:
        return backend(**options)
    except TypeError as error:
        raise InvalidQueue(
            f"{_path_of(backend)} does not accept the options {describe(options)}: {error}"
        ) from error


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in {"QUEUED_STORAGE", "TASKS"}:
        queues = list(_queues.values())
        _queues.clear()
        for queue in queues:
            queue.retire()


setting_changed.connect(_on_setting_changed)
