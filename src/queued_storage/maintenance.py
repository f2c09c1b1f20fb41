"""Passes over many files of the ledger."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Min, Sum

from .aliases import known_storages, storage_for
from .conf import settings
from .exceptions import UnknownAlias
from .models import State, ledger

logger = logging.getLogger("queued_storage")

BATCH = 1000  # rows in memory


def sweep(alias: str | None = None) -> int:
    """Have every due file worked on through its queue; returns how many were handed over.

    Due are files whose wake-up was lost, whose next try has come, or whose worker died. Files of
    an alias that no storage here has are logged, and stay as they are. What a queue that cannot
    be told raises is raised in the end, when the other queues have been told.
    """
    count = 0
    errors: list[Exception] = []
    for of_alias, pks in _due(alias):
        try:
            count += _hand_over(of_alias, pks)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return count


def _due(alias: str | None) -> Iterator[tuple[str, list[int]]]:
    """The due rows, each once, in batches of one alias."""
    rows = ledger().due().order_by("pk")
    if alias is not None:
        rows = rows.filter(alias=alias)
    last = 0
    while found := list(rows.filter(pk__gt=last).values_list("pk", "alias")[:BATCH]):
        last = found[-1][0]
        by_alias = defaultdict(list)
        for pk, of_alias in found:
            by_alias[of_alias].append(pk)
        yield from by_alias.items()


def _hand_over(alias: str, pks: list[int]) -> int:
    try:
        storage: Any = storage_for(alias)
    except UnknownAlias as error:
        logger.error("%s files are due, but nobody can move them. %s", len(pks), error)
        return 0
    size = storage.queue.batch_size
    for start in range(0, len(pks), size):
        storage.queue.enqueue(pks[start : start + size])
    return len(pks)


@dataclass(frozen=True)
class Tally:
    """The files of one storage in one state."""

    alias: str
    state: str
    files: int
    bytes: int
    oldest: datetime  # when the first of them was saved
    is_claimed: bool  # whether a storage of this process has the alias


def tallies() -> list[Tally]:
    """How many files are where, by storage and state."""
    known = {storage.alias for storage in known_storages()}
    rows: Any = (
        ledger()
        .values_list("alias", "state")
        .annotate(Count("pk"), Sum("size"), Min("saved_at"))
        .order_by("alias", "state")
    )
    return [
        Tally(alias, state, files, size, oldest, alias in known)
        for alias, state, files, size, oldest in rows
    ]


def troubles() -> list[str]:
    """What somebody must be told: files that are parked, and files that nobody can move."""
    found = [
        f"{tally.files} files of {tally.alias!r} failed. See 'queued_storage status', mend the "
        f"cause, then transfer them again."
        for tally in tallies()
        if tally.state == State.FAILED
    ]
    stuck = ledger().filter(state=State.DELETING, attempts__gt=settings.retries)
    if count := stuck.count():
        found.append(
            f"{count} deleted files cannot be removed from their remote; it is tried on and on. "
            f"See 'queued_storage status' for the reasons."
        )
    unclaimed = {tally.alias for tally in tallies() if not tally.is_claimed}
    return found + [
        f"No storage has the alias {alias!r}, so its files stay where they are."
        for alias in sorted(unclaimed)
    ]


def last_failures(limit: int = 10) -> list[tuple[str, str, str]]:
    """The alias, name and reason of the files that are in trouble, the newest first."""
    rows = ledger().exclude(last_error="").order_by("-pk")
    return list(rows.values_list("alias", "name", "last_error")[:limit])
