"""The priorities with which files are saved."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..ledger.priorities import priority_of

# Those of the blocks that the thread, or the task of an event loop, is in, by alias
_chosen: ContextVar[Mapping[str, int]] = ContextVar("queued_storage_priorities")


def of_content(content: Any, default: int) -> int:
    """Return the priority that a file which is saved has as an attribute, if it has one."""
    value = getattr(content, "priority", None)
    return default if value is None else priority_of(value)


def chosen(alias: str, default: int) -> int:
    """Return the priority of the innermost block for a storage, if there is one."""
    return _chosen.get({}).get(alias, default)


@contextmanager
def prioritized(alias: str, value: str | int) -> Iterator[None]:
    """Choose the priority of what is saved to a storage, until the block ends."""
    token = _chosen.set({**_chosen.get({}), alias: priority_of(value)})
    try:
        yield
    finally:
        _chosen.reset(token)
