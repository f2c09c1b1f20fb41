"""How quickly workers claim files, and whether they share them evenly."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import Options, Row

BATCH = 10
GOALS = {"default": ("SQLite", 8000), "postgres": ("PostgreSQL", 3000)}
WORKERS = 4
EVEN = 0.5  # minimum share of each worker, relative to the average
WORK = 0.01  # seconds that a worker is busy with a batch before its next claim


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("postgres")
    configure(options.directory, postgres=not missing)
    files = 200 if options.quick else 5_000
    with databases() as found, ExitStack() as stack:
        for database, (name, goal) in GOALS.items():
            speed = share = None
            details: dict[str, Any] = {}
            if database in found:
                stack.enter_context(
                    queued_storage(DATABASE=None if database == "default" else database)
                )
                details, speed, share = _measure(database, files, 1 if options.quick else 2)
            yield Row(
                key=f"claims.{name}",
                what=f"rows claimed in batches of {BATCH}, {name}",
                goal=goal,
                is_at_most=False,
                ratio=speed,
                unit="rows/s",
                details=details,
                reason="" if speed else missing or "",
            )
            yield Row(
                key=f"claims.shared.{name}",
                what=f"smallest share of {WORKERS} workers, relative to an equal share, {name}",
                goal=EVEN,
                is_at_most=False,
                ratio=share,
                details={"claimed by each": details.get("claimed by each"), "files": files},
                reason="" if share is not None else missing or "",
            )


def _measure(database: str, files: int, rounds: int) -> tuple[dict[str, Any], float, float]:
    speeds = []
    for _round in range(rounds):
        _fill(database, files)
        started = time.perf_counter()
        claimed = _claim_all()
        speeds.append(claimed / (time.perf_counter() - started))
        assert claimed == files
    _fill(database, files)
    shares = _claim_together()
    assert sum(shares) == files, "each file is claimed once"
    details = {
        "rows/s by one": round(statistics.median(speeds)),
        "claimed by each": shares,
    }
    return details, details["rows/s by one"], round(min(shares) * WORKERS / files, 2)


def _fill(database: str, files: int) -> None:
    from django.db import connections
    from django.utils import timezone

    from queued_storage.models import QueuedFile

    now = timezone.now()
    rows = QueuedFile.objects.using(database)
    rows.all().delete()
    rows.bulk_create(
        [
            QueuedFile(alias="bench", name=f"{number}", saved_at=now, due_at=now)
            for number in range(files)
        ],
        batch_size=500,
    )
    with connections[database].cursor() as cursor:
        cursor.execute("ANALYZE")


def _claim_all(work: float = 0) -> int:
    from queued_storage.ledger.database import ledger

    count = 0
    while claimed := ledger().claim_due(BATCH, ["bench"]):
        count += len(claimed)
        time.sleep(work)
    return count


def _claim_together() -> list[int]:
    """Return the number of files that each of several concurrent processes claims.

    They work between two claims. Without that, the process that holds SQLite's lock would usually
    get it again.
    """
    from django.db import connections

    connections.close_all()
    context = multiprocessing.get_context("fork")
    together = context.Barrier(WORKERS)
    counts = context.Queue()

    def work() -> None:
        together.wait()
        counts.put(_claim_all(WORK))

    workers = [context.Process(target=work) for _number in range(WORKERS)]
    for worker in workers:
        worker.start()
    shares = sorted(counts.get(timeout=300) for _worker in workers)
    for worker in workers:
        worker.join()
    return shares
