"""What each migration of an upgrade costs, with a million files in the ledger.

Meanwhile, another process saves files and changes old rows.
"""

import time
from collections.abc import Iterator
from functools import partial

from .million import BEFORE, Goal, Measured, Writer, files_of, fill, migrate, rows_of
from .rows import Options, Row

REASONS = {
    ("default", "0003.wait"): "SQLite rebuilds the table, and nothing else can write meanwhile.",
    ("default", "0004.wait"): "SQLite is locked while it builds an index.",
    ("default", "0007.wait"): "SQLite is locked while it builds an index.",
    ("default", "0010.wait"): "SQLite is locked while it builds an index.",
}


def rows(options: Options) -> Iterator[Row]:
    files = files_of(options)
    measure = partial(_measure, options=options)
    return rows_of("migrations", options, partial(_goals, files), measure, REASONS)


def _goals(files: int) -> Iterator[Goal]:
    for name in later_migrations():
        number = name[:4]
        yield f"{number}.time", f"migration {number}, {files:,} files", 60, "s"
        yield f"{number}.wait", f"longest save during migration {number}", 1000, "ms"
    yield "alone.wait", "longest save without anything beside it", 1000, "ms"


def later_migrations() -> list[str]:
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(None)
    [last] = loader.graph.leaf_nodes("queued_storage")
    names = [name for app, name in loader.graph.forwards_plan(last) if app == "queued_storage"]
    return names[names.index(BEFORE) + 1 :]


def _measure(database: str, options: Options) -> Measured:
    files = files_of(options)
    fill(database, files)
    found: Measured = {}
    with Writer.beside(database, files) as writer:
        with writer.watched(found, "alone"):
            time.sleep(0.5 if options.quick else 20)
        for name in later_migrations():
            with writer.watched(found, name[:4]):
                migrate(database, name)
    return found
