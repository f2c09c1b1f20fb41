"""Claims among a million due files of three priorities, while urgent ones keep coming."""

import statistics
import time
from collections.abc import Iterator
from functools import partial

from .million import (
    ANALYZE,
    AT_ONCE,
    COLUMNS,
    NAME,
    SEQUENCE,
    VALUES,
    Goal,
    Measured,
    rows_of,
    time_in,
)
from .rows import Options, Row

FILES = 1_000_000  # due for a few minutes, a third of them with each priority
OVERDUE = 1_000  # of a low priority, due for longer than MAX_WAIT
BATCH = 10  # files in a claim
HOUR = 3600


def rows(options: Options) -> Iterator[Row]:
    files, overdue = (9_000, 100) if options.quick else (FILES, OVERDUE)
    goals = partial(_goals, files, overdue)
    measure = partial(_measure, files=files, overdue=overdue)
    return rows_of("priorities", options, goals, measure)


def _goals(files: int, overdue: int) -> Iterator[Goal]:
    among = f"claim among {files:,} due files of three priorities"
    yield "claim", among, 25, "ms"
    turns = overdue // BATCH
    yield "turns", f"claims until {overdue:,} overdue files of a low priority are done", turns, "x"
    yield "high", "the same until the next claim begins with a file of a high priority", 1, "x"


def _measure(database: str, files: int, overdue: int) -> Measured:
    from django.db import connections

    third = files // 3
    for priority in (-1, 0, 1):
        for first in range(1, third + 1, AT_ONCE):
            _insert(database, priority, first, min(first + AT_ONCE - 1, third), age=60)
    _insert(database, 1, third + 1, third + overdue, age=2 * HOUR)
    with connections[database].cursor() as cursor:
        vendor = connections[database].vendor
        cursor.execute(ANALYZE.get(vendor, "ANALYZE TABLE queued_storage_queuedfile"))
    return _claim_all(database, third, overdue)


def _claim_all(database: str, third: int, overdue: int) -> Measured:
    """Claim all overdue files, while more files with a high priority come than are claimed."""
    from queued_storage.ledger.database import ledger

    seconds, turns, low, number = [], 0, 0, third
    while low < overdue:
        _insert(database, -1, number + 1, number + 2 * BATCH, age=1)
        number += 2 * BATCH
        started = time.perf_counter()
        claimed = ledger().claim_due(BATCH, ["site"])
        seconds.append(time.perf_counter() - started)
        turns += 1
        low += sum(row.priority == 1 for row in claimed)
        assert turns <= overdue, "Files with a low priority starve."
    following = ledger().claim_due(BATCH, ["site"])
    is_high = all(row.priority == -1 for row in following)
    details = {"longest, ms": round(max(seconds) * 1000, 2)}
    return {
        "claim": (round(statistics.median(seconds) * 1000, 2), details),
        "turns": (turns, {}),
        "high": (1 if is_high else 2, {}),
    }


def _insert(database: str, priority: int, first: int, last: int, age: float) -> None:
    from django.db import connections

    vendor = connections[database].vendor
    numbers = SEQUENCE[vendor].format(first, last)
    sql = (
        f"INSERT INTO queued_storage_queuedfile ({COLUMNS}, priority) "
        f"SELECT %s, {NAME[vendor]}, {VALUES}, %s FROM {numbers}"
    )
    moment = time_in(database, time.time() - age)
    with connections[database].cursor() as cursor:
        values = ["site", f"files/{priority}/", "pending", moment, moment, priority]
        cursor.execute(sql, values)
