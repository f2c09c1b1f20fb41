"""Descriptions of how a storage was made, without secrets."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import urlsplit

from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from .reasons import is_secret


@runtime_checkable
class Described(Protocol):
    """A storage with its own description, such as a queued storage."""

    def configuration(self) -> Any: ...

    def fingerprint(self) -> str: ...


@runtime_checkable
class Deconstructible(Protocol):
    """An object whose class is decorated with Django's ``deconstructible``."""

    def deconstruct(self) -> tuple[str, Sequence[Any], Mapping[str, Any]]: ...


def describe(spec: Any) -> Any:
    """Return a storage specification without its secrets, for a fingerprint."""
    if isinstance(spec, Mapping):
        return {str(key): describe(spec[key]) for key in spec if not is_secret(str(key))}
    if isinstance(spec, list | tuple):
        return [describe(item) for item in spec]
    if isinstance(spec, str) and "://" in spec:
        return _describe_url(spec)
    if isinstance(spec, type):
        return f"{spec.__module__}.{spec.__qualname__}"
    if isinstance(spec, Described):
        return spec.configuration()
    if isinstance(spec, Storage):
        return _describe_instance(spec)
    if spec is None or isinstance(spec, str | int | float | bool):
        return spec
    return str(spec) if hasattr(spec, "__fspath__") else describe(type(spec))


def _describe_url(url: str) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_describable(storage: Storage) -> bool:
    """Whether ``describe()`` tells this storage from others of its class."""
    takes_nothing = type(storage).__init__ is object.__init__
    return takes_nothing or isinstance(storage, Described) or arguments_of(storage) is not None


def arguments_of(storage: Storage) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """The arguments that a storage was made with; None if its class isn't deconstructible.

    A class that cannot be imported by its name, such as one inside a function, counts as that.
    """
    if not isinstance(storage, Deconstructible):
        return None
    try:
        _path, args, options = storage.deconstruct()
    except ValueError:
        return None
    return args, options


def _describe_instance(storage: Storage) -> Any:
    args, options = arguments_of(storage) or ((), {})
    return [describe(type(storage)), *describe_arguments(type(storage), args, options)]


def describe_arguments(maker: Any, args: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of a call without secrets, which are recognized by their names.

    Arguments that ``maker`` takes as ``*args`` have no names, so they must not be secret.
    """
    named, rest = by_name(maker, args)
    return [describe({**named, **options}), *map(describe, rest)]


def by_name(maker: Any, args: Sequence[Any]) -> tuple[dict[str, Any], Sequence[Any]]:
    """Return positional arguments by the names that ``maker`` gives them, and the nameless rest."""
    if not args:
        return {}, args
    if isinstance(maker, str):
        maker = import_string(maker)
    is_class = isinstance(maker, type)
    # A __new__, such as that of @deconstructible, may hide the names.
    method = cast(Any, maker).__init__ if is_class else maker
    parameters = list(signature(method).parameters.values())[is_class:]
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    ]
    return dict(zip(names, args, strict=False)), args[len(names) :]
