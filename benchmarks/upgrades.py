"""What an upgrade from a version without places costs, with a million files in the ledger.

That is: the migrations and the filling in of places, while another process saves, and what a claim
gains beside a remote that is closed.
"""

import contextlib
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from .peers import why_missing
from .project import configure, databases, queued_storage
from .rows import Options, Row, by_turns

FILES = 1_000_000  # due, of a storage whose remote is closed
OPEN = 1_000  # due later, of another storage
SETTLED = 5  # a file of that storage is transferred for so many files of the first one
AT_ONCE = 100_000  # rows in one INSERT
BATCH = 10  # files in a claim
NAMES = {"default": "SQLite", "postgres": "PostgreSQL", "mariadb": "MariaDB"}
BEFORE = "0002_job"
MIGRATIONS = ("0003_remote", "0004_due_by_alias", "0005_remove_due")
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


REASONS = {
    ("default", "0003.wait"): "SQLite rebuilds the table, and nothing else can write meanwhile.",
    ("default", "0004.wait"): "SQLite is locked while it builds an index.",
}


def rows(options: Options) -> Iterator[Row]:
    missing = {each: why_missing(each) or "" for each in ("postgres", "mariadb")}
    if not find_spec("MySQLdb"):
        import pymysql

        pymysql.install_as_MySQLdb()
    configure(options.directory, not missing["postgres"], not missing["mariadb"])
    with databases() as found:
        for database, name in NAMES.items():
            measured: dict[str, tuple[float, dict[str, Any]]] = {}
            if database in found:
                with queued_storage(DATABASE=None if database == "default" else database):
                    measured = _measure(database, options)
            for key, what, goal, unit in _goals(10_000 if options.quick else FILES):
                ratio, details = measured.get(key, (None, {}))
                yield Row(
                    key=f"upgrades.{key}.{name}",
                    what=f"{what}, {name}",
                    goal=goal,
                    is_at_most=True,
                    ratio=ratio,
                    unit=unit,
                    details=details,
                    reason=REASONS.get((database, key), "") if measured else missing[database],
                )


def _goals(files: int) -> Iterator[tuple[str, str, float, str]]:
    beside = f"claim beside {files:,} due files of a closed remote"
    yield "claim", f"{beside}, compared with the query of the version before", 0.2, "x"
    yield "claim.ms", beside, 25, "ms"
    for number in (name[:4] for name in MIGRATIONS):
        yield f"{number}.time", f"migration {number}, {files:,} files", 60, "s"
        yield f"{number}.wait", f"longest save during migration {number}", 1000, "ms"
    yield "alone.wait", "longest save without anything beside it", 1000, "ms"
    yield "filling.time", f"filling in the places of {files + files // SETTLED:,} files", 600, "s"
    yield "filling.step", "filling in the places of 500 of them", 200, "ms"
    yield "filling.wait", "longest save during the filling", 1000, "ms"
    yield "filling.change", "longest change of an old row during the filling", 1000, "ms"
    yield "again.all", "going through all files when every place is filled in", 20, "s"
    yield "again.next", "the same for the processes after that", 100, "ms"


Measured = dict[str, tuple[float, dict[str, Any]]]


def _measure(database: str, options: Options) -> Measured:
    from django.db import connections

    files = 10_000 if options.quick else FILES
    _migrate(database, BEFORE)
    now = time.time()
    for first in range(1, files, AT_ONCE):
        _insert(database, "closed", first, min(first + AT_ONCE - 1, files), due=now - 86_400)
    _insert(database, "open", 1, files // SETTLED)
    _insert(database, "open", files // SETTLED + 1, files // SETTLED + OPEN, due=now - 3_600)
    with connections[database].cursor() as cursor:
        vendor = connections[database].vendor
        cursor.execute(ANALYZE.get(vendor, "ANALYZE TABLE queued_storage_queuedfile"))
    found: Measured = {}
    with Writer.beside(database, files) as writer:
        with writer.watched(found, "alone"):
            time.sleep(0.5 if options.quick else 20)
        before = 0.0
        for name in MIGRATIONS:
            with writer.watched(found, name[:4]):
                _migrate(database, name)
            if name == MIGRATIONS[0]:
                before = by_turns({"before": _claim_as_before}, options.rounds(9))["before"]
        after = by_turns({"after": _claim}, options.rounds(9))["after"]
        details = {"before, ms": round(before * 1000, 2), "after, ms": round(after * 1000, 2)}
        found["claim"] = round(after / before, 4), details
        found["claim.ms"] = round(after * 1000, 2), details
        _fill(writer, found)
        found["filling.change"] = writer.longest("change")
    _look_again(found)
    return found


def _migrate(database: str, name: str) -> None:
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


# Claims


def _claim(number: int) -> None:
    from queued_storage.ledger.database import ledger

    assert len(ledger().claim_due(BATCH, ["open"])) == BATCH


def _claim_as_before(number: int) -> None:
    """Do what the version before did, whose index of due files did not begin with the alias."""
    from queued_storage.ledger.database import ledger
    from queued_storage.ledger.states import State

    rows = ledger()
    due = rows.due().filter(alias__in=["open"]).claimable().exclude(state=State.TRANSFERRING)
    with rows.locking():
        pks = list(due.order_by("due_at").unlocked_keys()[:BATCH])
        taken = rows._take(pks, [])
    assert len(taken) == BATCH


# Places


def _fill(writer: "Writer", found: Measured) -> None:
    from queued_storage.ledger.database import ledger
    from queued_storage.ledger.remotes import remotes
    from queued_storage.transfers.filling import Filling

    for alias in ("closed", "open"):
        remotes().register(alias, PLACE)
    steps = []
    process = Filling()
    with writer.watched(found, "filling"):
        started = time.perf_counter()
        while process.take_turn(0, lambda: True, even_early=True):
            steps.append(time.perf_counter() - started)
            started = time.perf_counter()
    assert ledger().filter(place=None, alias__in=["closed", "open"]).count() == 0
    longest = {"longest, ms": round(max(steps) * 1000, 1), "steps": len(steps)}
    found["filling.step"] = round(statistics.median(steps) * 1000, 1), longest


def _look_again(found: Measured) -> None:
    from queued_storage.ledger.database import ledger_database
    from queued_storage.ledger.identity import PROGRESS, LedgerIdentity
    from queued_storage.ledger.remotes import remotes
    from queued_storage.transfers.filling import Filling

    remotes().register("writer", PLACE)
    Filling().take_turn(3600, lambda: True, even_early=True)  # what the writer has saved
    LedgerIdentity.objects.using(ledger_database()).filter(pk=PROGRESS).delete()
    for key, unit in (("again.all", 1), ("again.next", 1000)):
        started = time.perf_counter()
        Filling().take_turn(3600, lambda: True, even_early=True)
        found[key] = round((time.perf_counter() - started) * unit, 2), {}


PLACE: Any = SimpleNamespace(digest=5, description="the place of the benchmark")


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
