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

# Of each block, the innermost first. Threads that Django starts for async code share them.
_blocks: ContextVar[tuple[dict[Key, Found], ...]] = ContextVar("queued_storage_blocks", default=())
is_open = _blocks.get  # whether there is one: each url() asks


@contextmanager
def remembered(found: Mapping[Key, Found]) -> Iterator[None]:
    """Remember where files are until the block ends, or one of them is changed here."""
    before = _blocks.set((dict(found), *_blocks.get()))
    try:
        yield
    finally:
        _blocks.reset(before)


def find(alias: str, name: str, default: Default) -> Found | Default:
    """Return where a file of the page is, or the default if nothing is remembered of its name."""
    for found in _blocks.get():
        if (alias, name) in found:
            return found[alias, name]
    return default


def forget(alias: str, name: str) -> None:
    for found in _blocks.get():
        found.pop((alias, name), None)
