"""A ledger with a million files, and a process of an earlier version that uses it."""

import contextlib
import multiprocessing
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import FILES, Options, Row

OPEN = 1_000  # due later, of another storage
SETTLED = 5  # a file of that storage is transferred for so many files of the first one
AT_ONCE = 100_000  # rows in one INSERT
NAMES = {"default": "SQLite", "postgres": "PostgreSQL", "mariadb": "MariaDB"}
BEFORE = "0002_job"
SEQUENCE = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i < {1}) "
    "SELECT i FROM n)",
    "postgresql": "generate_series({0}, {1}) AS n(i)",
    "mysql": "(SELECT seq AS i FROM seq_{0}_to_{1}) AS n",
}
NAME = {"sqlite": "%s || i", "postgresql": "%s || i", "mysql": "CONCAT(%s, i)"}
ANALYZE = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE queued_storage_queuedfile"}
COLUMNS = (
    "alias, name, remote_name, state, task, is_local, size, checksum, content_type, verified, "
    "generation, attempts, sent, lease_token, host, last_error, unconfirmed, saved_at, failures, "
    "due_at"
)
VALUES = (
    "'', %s, '', true, 10000, 'crc32:01234567', 'image/jpeg', '', 1, 0, 0, '', 'web-1', "
    "'', '', %s, '[]', %s"
)
CHANGE = "UPDATE queued_storage_queuedfile SET last_error = %s WHERE id = %s"

Measured = dict[str, tuple[float, dict[str, Any]]]


Goal = tuple[str, str, float, str]  # the key, what is measured, its maximum, and the unit


def rows_of(
    group: str,
    options: Options,
    goals: Callable[[], Iterable[Goal]],
    measure: Callable[[str], Measured],
    reasons: Mapping[tuple[str, str], str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a group for each database.

    ``reasons`` say why a goal is missed, by the database and the key.
    """
    missing = {each: why_missing(each) or "" for each in ("postgres", "mariadb")}
    if not find_spec("MySQLdb"):
        import pymysql

        pymysql.install_as_MySQLdb()
    configure(options.directory, not missing["postgres"], not missing["mariadb"])
    with databases() as found:
        for database, name in NAMES.items():
            measured: Measured = {}
            if database in found:
                with queued_storage(DATABASE=None if database == "default" else database):
                    measured = measure(database)
            for key, what, goal, unit in goals():
                ratio, details = measured.get(key, (None, {}))
                reason = (reasons or {}).get((database, key), "")
                yield Row(
                    key=f"{group}.{key}.{name}",
                    what=f"{what}, {name}",
                    goal=goal,
                    is_at_most=True,
                    ratio=ratio,
                    unit=unit,
                    details=details,
                    reason=reason if measured else missing[database],
                )


def files_of(options: Options) -> int:
    """Return how many files are due, of a storage whose remote is closed."""
    return 10_000 if options.quick else FILES


def fill(database: str, files: int) -> None:
    """Fill the table that the version before had: due files, and transferred ones."""
    from django.db import connections

    migrate(database, BEFORE)
    now = time.time()
    for first in range(1, files, AT_ONCE):
        last = min(first + AT_ONCE - 1, files)
        _insert(database, "closed", first, last, due=now - 86_400)
    _insert(database, "open", 1, files // SETTLED)
    _insert(database, "open", files // SETTLED + 1, files // SETTLED + OPEN, due=now - 3_600)
    with connections[database].cursor() as cursor:
        vendor = connections[database].vendor
        cursor.execute(ANALYZE.get(vendor, "ANALYZE TABLE queued_storage_queuedfile"))


def migrate(database: str, name: str) -> None:
    from django.core.management import call_command

    call_command("migrate", "queued_storage", name, database=database, verbosity=0)


def _insert(database: str, alias: str, first: int, last: int, due: float | None = None) -> None:
    from django.db import connections

    vendor = connections[database].vendor
    numbers = SEQUENCE[vendor].format(first, last)
    sql = f"INSERT INTO queued_storage_queuedfile ({COLUMNS}) SELECT %s, {NAME[vendor]}, {VALUES} "
    with connections[database].cursor() as cursor:
        saved_at = time_in(database, due or time.time())
        state = "pending" if due else "transferred"
        values = [alias, "some/directory/", state, saved_at, saved_at if due else None]
        cursor.execute(f"{sql} FROM {numbers}", values)


def time_in(database: str, seconds: float) -> Any:
    """Return a time as the database takes it."""
    import datetime

    from django.db import connections

    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return connections[database].ops.adapt_datetimefield_value(moment)


# Another process


class Writer:
    """A process of an earlier version that saves, and changes old rows, all the time.

    It knows neither places nor priorities.
    """

    FIGURES = ("save", "change", "turns", "seconds")

    def __init__(self, database: str, files: int) -> None:
        context = multiprocessing.get_context("fork")
        self._figures = context.Array("d", len(self.FIGURES))
        self._is_over = context.Event()
        self._process = context.Process(target=self._write, args=[database, files], daemon=True)

    @classmethod
    @contextlib.contextmanager
    def beside(cls, database: str, files: int) -> Iterator["Writer"]:
        from django.db import connections

        connections.close_all()
        writer = cls(database, files)
        writer._process.start()
        try:
            yield writer
        finally:
            writer._is_over.set()
            writer._process.join()
        assert writer._process.exitcode == 0

    @contextlib.contextmanager
    def watched(self, found: Measured, key: str) -> Iterator[None]:
        """Measure how long the block takes, and the longest save meanwhile."""
        self._await_turn()
        with self._figures.get_lock():
            self._figures[:] = [0] * len(self.FIGURES)
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._await_turn()
        found[f"{key}.time"] = round(seconds, 2), {}
        found[f"{key}.wait"] = self.longest("save")

    def longest(self, what: str) -> tuple[float, dict[str, Any]]:
        figure = self._figures[self.FIGURES.index(what)]
        turns, seconds = self._figures[2:]
        details = {"saves": int(turns), "mean save, ms": round(seconds / turns * 1000, 2)}
        return round(figure * 1000, 1), details

    def _await_turn(self) -> None:
        """Wait for the end of what has begun."""
        turns = self._figures[2]
        while self._process.is_alive() and self._figures[2] == turns:
            time.sleep(0.001)

    def _write(self, database: str, files: int) -> None:
        from django.db import connections

        at = time_in(database, time.time())
        insert = f"INSERT INTO queued_storage_queuedfile ({COLUMNS}) VALUES (%s, %s, {VALUES})"
        if connections[database].vendor == "sqlite":
            with connections[database].cursor() as cursor:  # to measure what would be an error
                cursor.execute("PRAGMA busy_timeout = 600000")
        number = 0
        while not self._is_over.is_set():
            number += 1
            with connections[database].cursor() as cursor:
                values = ["writer", f"{number}", "held", at, None]
                saving = self._seconds(cursor.execute, insert, values)
                key = random.randint(1, files)
                changing = self._seconds(cursor.execute, CHANGE, [f"{number}", key])
            with self._figures.get_lock():
                self._figures[0] = max(self._figures[0], saving)
                self._figures[1] = max(self._figures[1], changing)
                self._figures[2] += 1
                self._figures[3] += saving
            time.sleep(0.002)

    @staticmethod
    def _seconds(execute: Callable[..., object], sql: str, values: list[Any]) -> float:
        started = time.perf_counter()
        execute(sql, values)
        return time.perf_counter() - started
