"""Look up what is known of a class by its dotted path, without importing its library."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

Known = TypeVar("Known")

LIBRARY = "storages."  # how the dotted paths of django-storages begin


def dotted_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def known_of(cls: type, table: Mapping[str, Known]) -> Iterator[Known]:
    """Yield what a table of dotted paths knows of a class, then of its bases in their order."""
    for base in cls.__mro__:
        if (path := dotted_path(base)) in table:
            yield table[path]
