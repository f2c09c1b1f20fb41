"""Remembers, while a page is made, where its files are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from ..ledger.states import Entry
from .routes import Route

Key = tuple[str, str]  # the alias of the storage, and the name
Default = TypeVar("Default")
Found = Entry | Route | None  # None for a name that the ledger doesn't have

# Those of the innermost block. Threads that Django starts for async code share it.
_found: ContextVar[dict[Key, Found] | None] = ContextVar("queued_storage_found", default=None)


@contextmanager
def remembered(found: Mapping[Key, Found]) -> Iterator[None]:
    """Remember where files are until the block ends, or one of them is changed here."""
    before = _found.set({**(_found.get() or {}), **found})
    try:
        yield
    finally:
        _found.reset(before)


def find(alias: str, name: str, default: Default) -> Found | Default:
    """Return where a file of the page is, or the default if nothing is remembered of its name."""
    found = _found.get()
    return default if found is None else found.get((alias, name), default)


def forget(alias: str, name: str) -> None:
    if found := _found.get():
        found.pop((alias, name), None)
