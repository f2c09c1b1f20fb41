"""Calls a task of the ancestor's, an object with ``delay()``, as its version expects."""

from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..ledger.names import Name
from ..remotes.classes import dotted_path
from ..reporting.descriptions import by_name
from .sides import Side, Sides


class ForeignTask(Protocol):
    """A task that transfers files in its own way."""

    def delay(self, *args: Any) -> object: ...


class AncestorLike(Protocol):
    """The part of a storage that the arguments of such a task describe."""

    @property
    def sides(self) -> Sides: ...

    def get_cache_key(self, name: Name) -> str: ...


def arguments_of_0_8(storage: AncestorLike, name: str) -> tuple[Any, ...]:
    """Return what 0.8 passed to ``task.delay()``.

    The options of both storages are among the arguments, so they reach the task's broker.
    """
    local, local_options = _path_and_options(storage.sides.local)
    remote, remote_options = _path_and_options(storage.sides.remote)
    return name, storage.get_cache_key(name), local, remote, local_options, remote_options


def arguments_of_0_3(storage: AncestorLike, name: str) -> tuple[Any, ...]:
    """Return what 0.3 passed to ``task.delay()``: classes, and the arguments to call them with."""
    local_class, local_args, local_kwargs = _class_and_arguments(storage.sides.local)
    remote_class, remote_args, remote_kwargs = _class_and_arguments(storage.sides.remote)
    return (
        name,
        local_class,
        remote_class,
        storage.get_cache_key(name),
        local_args,
        local_kwargs,
        remote_args,
        remote_kwargs,
    )


def _path_and_options(side: Side) -> tuple[str, dict[str, Any]]:
    maker, args, options = side.blueprint()
    named, nameless = by_name(maker, args)
    if nameless:
        raise ImproperlyConfigured(f"{side.name}: pass the arguments {nameless!r} by keyword.")
    path = maker if isinstance(maker, str) else dotted_path(maker)
    return path, {**named, **options}


def _class_and_arguments(side: Side) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    maker, args, kwargs = side.blueprint()
    return import_string(maker) if isinstance(maker, str) else maker, args, kwargs
