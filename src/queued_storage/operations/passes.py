"""Passes over many files, in batches that fit into memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from ..ledger.database import QueuedFileQuerySet
from ..ledger.models import QueuedFile

BATCH = 100  # rows in memory
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Step:
    """What a pass has done since its last step."""

    files: int
    bytes: int
    error: str = ""  # why the step failed; empty if it succeeded
    name: str = ""  # the file that the error is about


Report = Callable[[Step], object]  # is called after each step of a pass


def ignore(step: Step) -> None:
    """Report nothing."""


def never() -> bool:
    """Let a pass run to its end."""
    return False


def batches(rows: QueuedFileQuerySet) -> Iterator[Sequence[QueuedFile]]:
    """The rows, oldest first."""
    return rows.in_batches(BATCH)


def each(rows: QueuedFileQuerySet) -> Iterator[QueuedFile]:
    """The rows one by one, oldest first, read in batches."""
    return (row for batch in batches(rows) for row in batch)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of at most ``size``; Python 3.12 has this in ``itertools``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
