"""What a ledger with ten times as many files costs: what a worker, an operator and a page ask.

``BENCHMARK_GROWTH_FILES`` is the number of files in the smaller one. With a million, filling both
takes minutes, and the larger one 10 GB on the disk, per database.
"""

import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from .peers import why_missing
from .project import SITE, configure, databases, on_postgres, on_sqlite, queued_storage
from .rows import Options, Row, milliseconds

FILES = int(os.environ.get("BENCHMARK_GROWTH_FILES", "1_000_000"))
TIMES = 10  # as many files are in the larger ledger
AT_ONCE = 1_000_000  # rows in one INSERT
DUE = 1_000  # in both of them
BATCH = 50  # files in a claim
ALIAS = "bench"
SIDES = {"SQLite": ("default", "large"), "PostgreSQL": ("postgres", "large_postgres")}
WHAT = {
    "claim": f"claim of {BATCH} files",
    "sweep": "sweep",
    "status": "status",
    "list": "the admin's list of files",
    "dashboard": "the live dashboard",
    "url": "url() without a cache",
}
NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT %s UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
    "SELECT i FROM n)",
    "postgresql": "generate_series(%s, %s) AS n(i)",
}
# A file is saved and transferred in each second, so that the files with the highest ids are the
# newest ones.
MOMENT = {
    "sqlite": "datetime(%s, i || ' seconds')",
    "postgresql": "%s::timestamptz + i * interval '1 second'",
}
INSERT = """
INSERT INTO queued_storage_queuedfile (alias, name, remote_name, state, task, is_local, size,
    checksum, content_type, verified, generation, attempts, sent, lease_token, host, last_error,
    unconfirmed, saved_at, transferred_at, failures, due_at, place)
SELECT 'bench', 'some/directory/' || i || '.jpg', 'some/directory/' || i || '.jpg',
    'transferred', '', {true}, 10000, 'crc32:01234567', 'image/jpeg', 'checksum', 1, 1, 10000, '',
    'web-1', '', '', {moment}, {moment}, '[]', NULL, 0
FROM {numbers}
"""

Works = dict[str, Callable[[], float]]  # each returns the seconds that it took


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("postgres")
    place = options.directory
    found: dict[str, Any] = {"default": on_sqlite(place), "large": on_sqlite(place, "large")}
    if not missing:
        found |= {"postgres": on_postgres(), "large_postgres": on_postgres("_large")}
    configure(place, DATABASES=found, **SITE)
    files = 2_000 if options.quick else FILES
    with databases():
        growth = Growth(options)
        for name, sides in SIDES.items():
            measured: dict[str, tuple[float, float]] = {}
            if sides[0] in found:
                measured = growth.measured(sides, files)
            yield from _rows(name, files, measured, missing or "")


def _rows(
    database: str, files: int, found: Mapping[str, tuple[float, float]], missing: str
) -> Iterator[Row]:
    for key, what in WHAT.items():
        details: dict[str, Any] = {}
        ratio = None
        if key in found:
            few, many = found[key]
            ratio = round(many / few, 2)
            details = {
                "unit": "ms",
                **milliseconds({f"{files:,}": few, f"{files * TIMES:,}": many}),
            }
        yield Row(
            key=f"growth.{key}.{database}",
            what=f"{what} with {files * TIMES:,} files, compared with {files:,}, {database}",
            goal=1.5,
            is_at_most=True,
            ratio=ratio,
            details=details,
            reason="" if found else missing,
        )


class Growth:
    def __init__(self, options: Options) -> None:
        from django.contrib.auth.models import User
        from django.core.files.base import ContentFile
        from django.core.files.storage import FileSystemStorage
        from django.test import Client

        from queued_storage.backends import QueuedStorage

        self._content = ContentFile
        self._options = options
        self._storage = QueuedStorage(
            FileSystemStorage(options.directory / "near", "/near/"),
            FileSystemStorage(options.directory / "far", "/far/"),
            alias=ALIAS,
        )
        self._client = Client()
        self._client.force_login(User.objects.create_superuser("operator"))

    def measured(self, sides: tuple[str, str], files: int) -> dict[str, tuple[float, float]]:
        """Return the seconds that each work takes on the smaller ledger, and on the larger one."""
        works: list[Works] = []
        for database, count in zip(sides, (files, files * TIMES), strict=True):
            with queued_storage(DATABASE=database):
                self._storage.save("first", self._content(b"marks the directory"))
            _fill(database, count)
            works.append(self._works(count))
        return {key: self._by_turns(sides, (works[0][key], works[1][key]), key) for key in works[0]}

    def _by_turns(
        self, sides: tuple[str, str], works: tuple[Callable[[], float], ...], key: str
    ) -> tuple[float, float]:
        """Measure in turns and in both orders. The first two turns warm up."""
        rounds = self._options.rounds(200 if key in ("claim", "url", "sweep") else 40)
        times: tuple[list[float], list[float]] = ([], [])
        turns = [0, 1]
        for _round in range(rounds + 2):
            for side in turns:
                with queued_storage(DATABASE=sides[side], CACHE=None):
                    times[side].append(works[side]())
            turns.reverse()
        few, many = (statistics.median(each[2:]) for each in times)
        return few, many

    def _works(self, files: int) -> Works:
        from django.core.management import call_command

        from queued_storage.maintenance import sweep

        numbers = iter(range(files // 2, files * 100, 7_919))
        status = partial(call_command, "queued_storage", "status", stdout=io.StringIO())

        def sweep_all() -> None:
            sweep(ALIAS)

        def url() -> None:
            name = f"some/directory/{next(numbers) % (files - DUE) + 1}.jpg"
            assert self._storage.url(name) == f"/far/{name}"

        return {
            "claim": self._claim,
            "sweep": partial(self._sweep, sweep_all),
            "status": partial(_seconds, status),
            "list": partial(_seconds, partial(self._get, "", "some/directory/")),
            "dashboard": partial(_seconds, partial(self._get, "dashboard/", ALIAS)),
            "url": partial(_seconds, url),
        }

    def _claim(self) -> float:
        """Claim files, and make them due again."""
        from queued_storage.ledger.database import ledger
        from queued_storage.ledger.states import State

        claimed: list[Any] = []
        seconds = _seconds(lambda: claimed.extend(ledger().claim_due(BATCH, [ALIAS])))
        assert len(claimed) == BATCH
        rows = ledger().filter(pk__in=[row.pk for row in claimed])
        rows.update(state=State.PENDING, lease_token="", due_at=claimed[0].saved_at, attempts=0)
        return seconds

    def _sweep(self, work: Callable[[], object]) -> float:
        seconds = _seconds(work)
        queue: Any = self._storage.queue
        assert queue.messages
        queue.messages.clear()
        return seconds

    def _get(self, page: str, text: str) -> None:
        answer = self._client.get(f"/admin/queued_storage/queuedfile/{page}")
        assert answer.status_code == 200
        assert text in answer.content.decode()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _fill(database: str, files: int) -> None:
    """Insert files that are transferred, of which the last ones are due."""
    import datetime

    from django.db import connections
    from django.db.models import Max
    from django.utils import timezone

    from queued_storage.ledger.states import State
    from queued_storage.models import QueuedFile

    connection = connections[database]
    is_sqlite = connection.vendor == "sqlite"
    sql = INSERT.format(
        true="1" if is_sqlite else "true",
        moment=MOMENT[connection.vendor],
        numbers=NUMBERS[connection.vendor],
    )
    ago = timezone.now() - datetime.timedelta(hours=1, seconds=files)
    start = connection.ops.adapt_datetimefield_value(ago)
    with connection.cursor() as cursor:
        for first in range(1, files + 1, AT_ONCE):
            last = min(first + AT_ONCE - 1, files)
            cursor.execute(sql, [start, start, first, last])
        newest = QueuedFile.objects.using(database).aggregate(newest=Max("pk"))["newest"]
        due = QueuedFile.objects.using(database).filter(pk__gt=newest - DUE)
        assert due.update(state=State.PENDING, due_at=ago, remote_name="", verified="") == DUE
        cursor.execute("ANALYZE" if is_sqlite else "VACUUM ANALYZE")
