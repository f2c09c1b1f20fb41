"""How many bytes a file takes in the tables of PostgreSQL once it was saved and transferred."""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import Options, Row

FILES = 20_000
SAVED = 500  # files that are saved together, and then transferred
CLAIMED = 50  # of them that are claimed together
VACUUMED = 20  # times that VACUUM runs, as autovacuum would
TABLE = "queued_storage_queuedfile"
ALIAS = "rowsize"


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("postgres") or ""
    configure(options.directory, postgres=not missing)
    row = Row(
        key="rowsize.lived",
        what="bytes of a row that was saved and transferred, indexes included, PostgreSQL",
        goal=650,
        is_at_most=True,
        ratio=None,
        unit="bytes",
        reason=missing,
    )
    with databases() as found:
        if "postgres" in found:
            with queued_storage(DATABASE="postgres"):
                row = _measured(row, 2_000 if options.quick else FILES)
    yield row


def _measured(row: Row, files: int) -> Row:
    for first in range(0, files, SAVED):
        _live(first)
        if first % (files // VACUUMED) < SAVED:
            _execute(f"VACUUM {TABLE}")
    lived = _sizes(files)
    _execute(f"VACUUM FULL {TABLE}")
    details = {"files": files, "packed": sum(_sizes(files).values()), **lived}
    return replace(row, ratio=sum(lived.values()), details=details)


def _live(first: int) -> None:
    """Save, claim and promote files, with the statements of a save and of a worker."""
    from queued_storage.ledger.database import ledger
    from queued_storage.ledger.states import Content

    for number in range(first, first + SAVED):
        name = f"documents/2026/11/{number:012}.pdf"
        content = Content(10_000, f"crc32:{zlib.crc32(name.encode()):08x}", "application/pdf")
        assert ledger().record(ALIAS, name, content, held=False, place=1 << 62)
    while claimed := ledger().claim_due(CLAIMED, [ALIAS], [ALIAS]):
        for row in claimed:
            content = Content(row.size, row.checksum)
            assert ledger().promote(row, row.name, content, "checksum", evict=False)


def _sizes(files: int) -> dict[str, int]:
    """The bytes per file of the table and of each index."""
    found = _execute(
        "SELECT relname, pg_relation_size(oid) FROM pg_class "
        f"WHERE oid = '{TABLE}'::regclass "
        f"OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = '{TABLE}'::regclass)"
    )
    return {name: round(size / files) for name, size in found}


def _execute(sql: str) -> list[tuple[Any, ...]]:
    from django.db import connections

    with connections["postgres"].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []
