"""The cost of queries over the whole ledger as it grows, up to ``BENCHMARK_FILES``."""

import io
from collections.abc import Callable, Iterator
from typing import Any

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import FILES, Options, Row, by_turns

SIZES = (*(size for size in (1_000, 10_000, 100_000, 1_000_000) if size < FILES), FILES)
DUE = 1_000
NAMES = {"default": "SQLite", "postgres": "PostgreSQL"}
NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT %s UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
    "SELECT i FROM n)",
    "postgresql": "generate_series(%s, %s) AS n(i)",
}
INSERT = """
INSERT INTO queued_storage_queuedfile (alias, name, remote_name, state, task, is_local, size,
    checksum, content_type, verified, generation, attempts, sent, lease_token, host, last_error,
    unconfirmed, saved_at, transferred_at, failures, due_at, place)
SELECT 'bench', 'some/directory/' || i || '.jpg', 'some/directory/' || i || '.jpg',
    'transferred', 'queued_storage.tasks.Transfer', {true}, 10000, 'crc32:01234567',
    'image/jpeg', 'checksum', 1, 1, 10000, '', 'web-1', '', '', %s, %s, '[]', NULL, %s
FROM {numbers}
"""


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("postgres")
    configure(options.directory, postgres=not missing)
    sizes = SIZES[:2] if options.quick else SIZES
    with databases() as found:
        for database, name in NAMES.items():
            growth: dict[str, Any] = {}
            pending: dict[str, Any] = {}
            if database in found:
                with queued_storage(DATABASE=None if database == "default" else database):
                    growth, pending = _measure(database, sizes, options)
            for pass_, says in (("sweep", "sweep"), ("status", "status")):
                yield Row(
                    key=f"passes.{pass_}.{name}",
                    what=f"{says} with {sizes[-1]:,} files, {DUE:,} of them due, {name}",
                    goal=50,
                    is_at_most=True,
                    ratio=growth.get(pass_, {}).get(str(sizes[-1])),
                    unit="ms",
                    details={
                        "by files, ms": growth.get(pass_, {}),
                        "by due files, ms": pending.get(pass_, {}),
                    },
                    reason="" if growth else missing or "",
                )


Series = dict[str, dict[str, float]]


def _measure(database: str, sizes: tuple[int, ...], options: Options) -> tuple[Series, Series]:
    from django.core.files.base import ContentFile
    from django.core.files.storage import FileSystemStorage

    from queued_storage.backends import QueuedStorage

    storage = QueuedStorage(
        FileSystemStorage(options.directory / "near"),
        FileSystemStorage(options.directory / "far"),
        alias="bench",
    )
    storage.save("first", ContentFile(b"marks the directory"))
    works = _works(storage)
    growth: Series = {name: {} for name in works}
    pending: Series = {name: {} for name in works}
    last = 0
    for size in sizes:
        _grow(database, last + 1, size, storage.remote_place.digest)
        last = size
        _let_fall_due(database, DUE)
        for name, seconds in by_turns(works, options.rounds(15)).items():
            growth[name][str(size)] = round(seconds * 1000, 2)
    for due in (0, 100, 1_000, 10_000):
        _let_fall_due(database, due)
        for name, seconds in by_turns(works, options.rounds(9)).items():
            pending[name][str(due)] = round(seconds * 1000, 2)
    return growth, pending


def _works(storage: Any) -> dict[str, Callable[[int], object]]:
    from django.core.management import call_command

    from queued_storage.maintenance import sweep

    def sweep_all(number: int) -> None:
        sweep("bench")
        storage.queue.messages.clear()

    return {
        "sweep": sweep_all,
        "status": lambda number: call_command("queued_storage", "status", stdout=io.StringIO()),
    }


def _grow(database: str, first: int, last: int, place: int) -> None:
    from django.db import connections
    from django.utils import timezone

    connection = connections[database]
    sql = INSERT.format(
        true="1" if connection.vendor == "sqlite" else "true",
        numbers=NUMBERS[connection.vendor],
    )
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, now, place, first, last])


def _let_fall_due(database: str, due: int) -> None:
    from django.db import connections
    from django.utils import timezone

    from queued_storage.ledger.states import State
    from queued_storage.models import QueuedFile

    rows = QueuedFile.objects.using(database)
    rows.exclude(due_at=None).update(due_at=None, state=State.TRANSFERRED)
    newest = rows.order_by("-pk").values_list("pk", flat=True)[:due]
    for start in range(0, due, 500):
        rows.filter(pk__in=list(newest[start : start + 500])).update(
            due_at=timezone.now(), state=State.PENDING
        )
    with connections[database].cursor() as cursor:
        cursor.execute("ANALYZE" if connections[database].vendor == "sqlite" else "VACUUM ANALYZE")
