"""What each migration of an upgrade costs, with a million files in the ledger.

Meanwhile, another process saves files and changes old rows.
"""

import time
from collections.abc import Iterator

from .million import BEFORE, Measured, Writer, files_of, fill, in_each_database, migrate
from .rows import Options, Row

REASONS = {
    ("default", "0003.wait"): "SQLite rebuilds the table, and nothing else can write meanwhile.",
    ("default", "0004.wait"): "SQLite is locked while it builds an index.",
    ("default", "0007.wait"): "SQLite is locked while it builds an index.",
}


def rows(options: Options) -> Iterator[Row]:
    for database, name, measured, missing in in_each_database(options, _measure):
        for key, what, goal, unit in _goals(files_of(options)):
            ratio, details = measured.get(key, (None, {}))
            yield Row(
                key=f"migrations.{key}.{name}",
                what=f"{what}, {name}",
                goal=goal,
                is_at_most=True,
                ratio=ratio,
                unit=unit,
                details=details,
                reason=REASONS.get((database, key), "") if measured else missing,
            )


def _goals(files: int) -> Iterator[tuple[str, str, float, str]]:
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
