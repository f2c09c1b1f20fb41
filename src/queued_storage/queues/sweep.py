"""Tells the queues of all that is due."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..exceptions import UnknownAlias
from ..ledger.aliases import storage_for
from ..ledger.database import ledger
from ..reporting.logs import logger

BATCH = 1000  # rows in memory, of very many
FEW = 5000  # that are read at once, from the index of what is due


def sweep(alias: str | None = None) -> int:
    """Have every due file worked on through its queue; returns how many were handed over.

    Due are files whose wake-up was lost, whose next try has come, or whose worker died. Files of
    an alias that no storage here has are logged, and stay as they are. What a queue that cannot
    be told raises is raised in the end, when the other queues have been told.
    """
    count = 0
    errors: list[Exception] = []
    for place, pks in _due(alias):
        try:
            count += _hand_over(place, pks)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return count


class Place(NamedTuple):
    """Whose files they are, and which host they need."""

    alias: str
    host: str
    is_local: bool


def _due(alias: str | None) -> Iterator[tuple[Place, list[int]]]:
    """The due rows, each once, in batches of one place."""
    rows = ledger().due()
    if alias is not None:
        rows = rows.of_aliases([alias])
    found = list(rows.order_by().values_list("pk", *Place._fields)[: FEW + 1])
    if len(found) <= FEW:
        yield from _by_place(found)
        return
    rows = rows.order_by("pk")
    last = 0
    while found := list(rows.filter(pk__gt=last).values_list("pk", *Place._fields)[:BATCH]):
        last = found[-1][0]
        yield from _by_place(found)


def _by_place(found: list[tuple[Any, ...]]) -> Iterable[tuple[Place, list[int]]]:
    by_place = defaultdict(list)
    for pk, *place in sorted(found):
        by_place[Place(*place)].append(pk)
    return by_place.items()


def _hand_over(place: Place, pks: list[int]) -> int:
    try:
        storage: Any = storage_for(place.alias)
    except UnknownAlias as error:
        logger.error(
            "%s files are due, but nobody can move them. %s",
            len(pks),
            error,
            extra={"queued_storage": place.alias},
        )
        return 0
    queue = storage.queue_for(place.host, is_local=place.is_local)
    for start in range(0, len(pks), queue.batch_size):
        queue.enqueue(pks[start : start + queue.batch_size])
    return len(pks)
