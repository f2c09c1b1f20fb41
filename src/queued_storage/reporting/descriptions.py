"""Describes how a storage was made, without what is secret."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import urlsplit

from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from .reasons import is_secret


@runtime_checkable
class Described(Protocol):
    """A storage that says itself what it is made of, as queued storages do."""

    def configuration(self) -> Any: ...

    def fingerprint(self) -> str: ...


def describe(spec: Any) -> Any:
    """A storage specification without what is secret in it, for a fingerprint."""
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
    known = takes_nothing or hasattr(storage, "_constructor_args")
    return known or isinstance(storage, Described)


def _describe_instance(storage: Storage) -> Any:
    # What Django's @deconstructible keeps of the call
    args, options = getattr(storage, "_constructor_args", ((), {}))
    return [describe(type(storage)), *describe_arguments(type(storage), args, options)]


def describe_arguments(maker: Any, args: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The same for the arguments of a call; a positional one that is secret is known by its name.

    What the maker takes as ``*args`` has no name, so a secret must not be there.
    """
    named, rest = by_name(maker, args)
    return [describe({**named, **options}), *map(describe, rest)]


def by_name(maker: Any, args: Sequence[Any]) -> tuple[dict[str, Any], Sequence[Any]]:
    """Positional arguments under the names that ``maker`` gives them, and those without one."""
    if not args:
        return {}, args
    if isinstance(maker, str):
        maker = import_string(maker)
    is_class = isinstance(maker, type)
    # A __new__, as @deconstructible adds one, may hide the names.
    method = cast(Any, maker).__init__ if is_class else maker
    parameters = list(signature(method).parameters.values())[is_class:]
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    ]
    return dict(zip(names, args, strict=False)), args[len(names) :]
