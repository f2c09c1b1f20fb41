"""The price of limits of the local storage: what they add to a save."""

import time
from collections.abc import Iterator
from typing import Any

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import Options, Row, by_turns, milliseconds
from .saves import FEW, NAMES, Saving

WAITING = 10_000  # files that only the local storage has


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("postgres")
    configure(options.directory, postgres=not missing)
    with databases() as found:
        work = Saving(options)
        for database, name in NAMES.items():
            if database not in found:
                yield _row(name, None, {}, missing or "")
                continue
            with queued_storage(DATABASE=None if database == "default" else database):
                ratio, times = _measured(work, database, options)
                yield _row(name, ratio, times)


def _measured(work: Saving, database: str, options: Options) -> tuple[float, dict[str, Any]]:
    free = work.make(f"free-{database}", delayed=True)
    limited = work.make(
        f"limited-{database}",
        delayed=True,
        keep_local={"max_bytes": "1T", "min_free": 1},
        max_pending_bytes="1T",
    )
    data = bytes(FEW)

    def save(storage: Any, number: int) -> None:
        work.save_queued(storage, database, data, [f"{time.monotonic_ns()}-{number}"])

    turns = {
        "without limits": lambda number: save(free, number),
        "with limits": lambda number: save(limited, number),
    }
    by_turns(turns, 3)  # warm up, and mark the directories
    for storage in (free, limited):
        _fill(work, database, storage.alias, options.rounds(WAITING))
    found = by_turns(turns, options.rounds(600))
    return found["with limits"] / found["without limits"], milliseconds(found)


def _fill(work: Saving, database: str, alias: str, files: int) -> None:
    now = work.now()
    fields = {"alias": alias, "size": FEW, "state": "held", "saved_at": now}
    rows = [work.ledger.model(name=f"waiting/{number}", **fields) for number in range(files)]
    work.ledger.using(database).bulk_create(rows, batch_size=500)


def _row(database: str, found: float | None, details: dict[str, Any], reason: str = "") -> Row:
    return Row(
        key=f"limits.{database}",
        what=f"save() of 10 KB with limits that are not reached, {database}",
        goal=1.1,
        is_at_most=True,
        ratio=found,
        details={
            "against": f"the same without limits; {WAITING:,} files wait for their upload",
            **details,
        },
        reason=reason,
    )
