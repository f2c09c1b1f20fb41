"""The sums that limits need, with a million files that only the local storage has.

That is: how long each takes, and what saves pay just below ``max_pending_bytes``.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

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
from .rows import Options, Row, by_turns, milliseconds
from .saves import FEW, Saving

FILES = 1_000_000  # in a state of those that wait for their upload
ALIAS = "near"
SIZE = 10_000  # bytes of each, which VALUES says
ROOM = 250 * FEW  # bytes that may still be saved


def rows(options: Options) -> Iterator[Row]:
    files = 9_000 if options.quick else FILES
    goals = partial(_goals, files)
    return rows_of("sums", options, goals, partial(_measure, files=files, options=options))


def _goals(files: int) -> Iterator[Goal]:
    yield "local", f"size of {files:,} local copies", 500, "ms"
    yield "pending", f"size of {files:,} files that wait for their upload", 500, "ms"
    yield "recent", f"the same among {files:,}, of those saved in the last seconds", 10, "ms"
    yield "save", f"save() of 10 KB near max_pending_bytes, {files:,} files wait", 1.5, "x"


def _measure(database: str, files: int, options: Options) -> Measured:
    from queued_storage.ledger import localsides

    work = Saving(options)
    free = work.make(f"free-{database}", delayed=True)
    limit = {"max_pending_bytes": (files + 10) * SIZE + ROOM}
    near = work.make(ALIAS, delayed=True, **limit)
    saves = {
        "without limits": partial(_save, work, free, database),
        "near the limit": partial(_save, work, near, database),
    }
    by_turns(saves, 3)  # warm up, and mark the directories
    _fill(database, files)
    found: Measured = {}
    moment = datetime.now(UTC) - timedelta(seconds=10)
    works: dict[str, Callable[[], object]] = {
        "local": lambda: localsides.local_bytes(ALIAS),
        "pending": lambda: localsides.pending_in_parts(ALIAS, 10),
        "recent": lambda: localsides.pending_bytes_since(ALIAS, moment),
    }
    for key, ask in works.items():
        times = [_seconds(ask) for _turn in range(options.rounds(5))]
        found[key] = round(statistics.median(times) * 1000, 2), {"longest": round(max(times), 3)}
    seconds = by_turns(saves, options.rounds(200))
    ratio = seconds["near the limit"] / seconds["without limits"]
    found["save"] = round(ratio, 3), milliseconds(seconds)
    return found


def _save(work: Saving, storage: Any, database: str, number: int) -> None:
    work.save_queued(storage, database, bytes(FEW), [f"{time.monotonic_ns()}-{number}"])


def _fill(database: str, files: int) -> None:
    from django.db import connections

    vendor = connections[database].vendor
    moment = time_in(database, time.time() - 3600)
    with connections[database].cursor() as cursor:
        for first in range(1, files + 1, AT_ONCE):
            numbers = SEQUENCE[vendor].format(first, min(first + AT_ONCE - 1, files))
            cursor.execute(
                f"INSERT INTO queued_storage_queuedfile ({COLUMNS}) "
                f"SELECT %s, {NAME[vendor]}, {VALUES} FROM {numbers}",
                [ALIAS, "some/directory/", "held", moment, None],
            )
        cursor.execute(ANALYZE.get(vendor, "ANALYZE TABLE queued_storage_queuedfile"))


def _seconds(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started
