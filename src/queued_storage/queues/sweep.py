"""Tells the queues of all that is due."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ..aliases import storage_for
from ..exceptions import UnknownAlias
from ..models import ledger

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
