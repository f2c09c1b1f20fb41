"""The cost of a save in a request."""

import os
import shutil
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from time import thread_time
from typing import Any
from unittest import mock
from uuid import uuid4

from .peers import DelayProxy, S3Server, bucket, why_missing
from .project import configure, databases, queued_storage
from .rows import Options, Row, by_turns, milliseconds

FEW = 10_000
SIZES = {"1 KB": 1000, "10 KB": FEW, "100 KB": 100_000, "1 MB": 1_000_000, "10 MB": 10_000_000}
MANY = 100_000_000
NAMES = {"default": "SQLite", "postgres": "PostgreSQL"}


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("postgres")
    configure(options.directory, postgres=not missing)
    with databases() as found:
        work = Saving(options)
        for database in NAMES:
            if database in found:
                with queued_storage(DATABASE=None if database == "default" else database):
                    yield from work.in_database(database)
            else:
                yield from work.not_measured(database, missing)
        yield work.python_cost()
        yield work.large()
        yield work.flushed()
        yield from work.against_s3()


class Saving:
    """QueuedStorage and Django's own storage in one directory."""

    def __init__(self, options: Options) -> None:
        from django.core.files.base import ContentFile
        from django.core.files.storage import FileSystemStorage
        from django.db import transaction
        from django.utils import timezone

        from queued_storage.backends import QueuedStorage
        from queued_storage.models import QueuedFile

        self.options = options
        self.ledger, self.now = QueuedFile.objects, timezone.now
        self.atomic, self.content = transaction.atomic, ContentFile
        place = options.directory
        self.plain = FileSystemStorage(place / "plain")
        self.make = lambda alias, **more: QueuedStorage(
            FileSystemStorage(place / "local" / alias),
            FileSystemStorage(place / "remote"),
            alias=alias,
            **more,
        )
        self.quiet = self.make("quiet", delayed=True)

    # The two sides

    def save_plainly(self, database: str, data: bytes, names: list[str]) -> None:
        """Save as a project with files on disk and a model with a file does."""
        with self.atomic(using=database):
            for name in names:
                saved = self.plain.save(name, self.content(data))
                self.ledger.using(database).create(alias="plain", name=saved, saved_at=self.now())

    def save_queued(self, storage: Any, database: str, data: bytes, names: list[str]) -> None:
        with self.atomic(using=database):
            for name in names:
                storage.save(name, self.content(data))

    def compare(
        self,
        storage: Any,
        database: str,
        size: int,
        rounds: int,
        files: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> dict[str, float]:
        data, run = os.urandom(size), uuid4().hex

        def names(number: int) -> list[str]:
            return [f"{run}/{number}-{each}" for each in range(files)]

        found = by_turns(
            {
                "plain": lambda number: self.save_plainly(database, data, names(number)),
                "queued": lambda number: self.save_queued(storage, database, data, names(number)),
            },
            self.options.rounds(rounds),
            clock,
        )
        for side in (self.plain, storage.local):
            shutil.rmtree(side.path(run))
        return found

    # Rows

    def in_database(self, database: str) -> Iterator[Row]:
        name = NAMES[database]
        self.compare(self.quiet, database, FEW, 20)  # warm up
        found = self.compare(self.quiet, database, FEW, 400)
        yield self._row_without(name, ratio(found), milliseconds(found))
        celery, missing = self._with_celery()
        if celery is None:
            yield self._row_with(name, None, {}, missing)
            return
        self.compare(celery, database, FEW, 5, files=10)
        found = self.compare(celery, database, FEW, 60, files=10)
        yield self._row_with(name, ratio(found), milliseconds(found))

    def not_measured(self, database: str, reason: str | None) -> Iterator[Row]:
        yield self._row_without(NAMES[database], None, {}, reason or "")
        yield self._row_with(NAMES[database], None, {}, reason or "")

    def _row_without(
        self, database: str, found: float | None, details: dict[str, Any], reason: str = ""
    ) -> Row:
        return Row(
            key=f"saves.{database}",
            what=f"save() of 10 KB in a transaction, nothing enqueued, {database}",
            goal=1.1,
            is_at_most=True,
            ratio=found,
            details={"against": "FileSystemStorage.save() and an INSERT of the ORM", **details},
            reason=reason,
        )

    def _row_with(
        self, database: str, found: float | None, details: dict[str, Any], reason: str = ""
    ) -> Row:
        return Row(
            key=f"saves.wake-up.{database}",
            what=f"10 x save() in a transaction, enqueued with Celery, {database}",
            goal=1.5,
            is_at_most=True,
            ratio=found,
            details={
                "against": "ten times FileSystemStorage.save() and an INSERT; the wake-up is a "
                "message to Celery by Redis",
                **details,
            },
            reason=reason,
        )

    def _with_celery(self) -> tuple[Any, str]:
        if missing := why_missing("redis"):
            return None, missing
        from celery import Celery

        from tests.support.services import url

        app = Celery("bench", broker=url("redis"), set_as_current=True)
        app.conf.task_default_queue = f"bench-{uuid4().hex}"
        app.set_default()
        return self.make("celery", queue="queued_storage.queues.celery.CeleryQueue"), ""

    def python_cost(self) -> Row:
        """Measure a save without its queries and without the local storage's own save."""
        from django.db import connection

        data = os.urandom(FEW)
        elsewhere = 0.0

        def timed(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
            nonlocal elsewhere
            started = thread_time()
            try:
                return call(*args, **options)
            finally:
                elsewhere += thread_time() - started

        storage = self.make("costs")
        local = storage.local
        local._save = partial(timed, local._save)  # called by save()
        times = []
        for number in range(self.options.rounds(500)):
            content = self.content(data)
            with self.atomic(), connection.execute_wrapper(partial(timed)):
                elsewhere = 0.0
                started = thread_time()
                storage.save(f"{number}.bin", content)
                times.append(thread_time() - started - elsewhere)
            storage.queue.messages.clear()
        return Row(
            key="saves.python",
            what="Python code in save(), without the query and the local write",
            goal=150,
            is_at_most=True,
            ratio=round(statistics.median(times) * 1e6, 1),
            unit="µs",
            details={"with": "the wake-up's callback, and the link to the file's own name"},
        )

    def large(self) -> Row:
        size = FEW if self.options.quick else MANY
        # Compare processor time, because the time to write 100 MB to disk varies too much.
        processor = partial(self.compare, self.quiet, "default", size, 15, clock=thread_time)
        found = processor()
        with mock.patch("queued_storage.files.streams._crc32", return_value=zlib.crc32):
            by_zlib = processor()
        series = {
            label: milliseconds(self.compare(self.quiet, "default", size, 30))
            for label, size in SIZES.items()
        }
        series["100 MB"] = milliseconds(self.compare(self.quiet, "default", size, 9))
        return Row(
            key="saves.large",
            what="save() of 100 MB, including its checksum, with the extra 'checksums'",
            goal=1.15,
            is_at_most=True,
            ratio=ratio(found),
            details={
                "against": "FileSystemStorage.save() and an INSERT, by processor time",
                **milliseconds(found),
                "without the extra": ratio(by_zlib),
                "by size": series,
            },
        )

    def flushed(self) -> Row:
        """Measure the cost of FSYNC, so that users know it."""
        data, run = os.urandom(FEW), uuid4().hex
        os.sync()  # the writes of other rows must not be measured

        def save(number: int, fsync: bool) -> None:
            with queued_storage(FSYNC=fsync):
                self.save_queued(self.quiet, "default", data, [f"{run}/{fsync}/{number}"])

        found = by_turns(
            {
                "without": lambda number: save(number, False),
                "with": lambda number: save(number, True),
            },
            self.options.rounds(60),
        )
        return Row(
            key="saves.fsync",
            what="save() of 10 KB with FSYNC",
            goal=10,
            is_at_most=True,
            ratio=round(found["with"] / found["without"], 2),
            details={"against": "save() without FSYNC", **milliseconds(found)},
        )

    def against_s3(self) -> Iterator[Row]:
        missing = why_missing("s3")
        for delay, goal in ((0, 10), (30, 100)):
            found, details = (None, {}) if missing else self._against_s3(delay)
            yield Row(
                key=f"saves.s3.{delay}",
                what=f"save() of 10 KB, {delay} ms latency to the S3 server",
                goal=goal,
                is_at_most=False,
                ratio=found,
                details={"against": "S3Storage.save() by save(), times quicker", **details},
                reason=missing or "",
            )

    def _against_s3(self, delay: int) -> tuple[float, dict[str, Any]]:
        from storages.backends.s3 import S3Storage

        from queued_storage.backends import QueuedStorage

        data = os.urandom(FEW)
        with ExitStack() as stack:
            server = stack.enter_context(S3Server())
            name = stack.enter_context(bucket(server))
            theirs = stack.enter_context(DelayProxy(server.port, delay))
            ours = stack.enter_context(DelayProxy(server.port, delay))
            s3 = S3Storage(**server.options(name, theirs.endpoint_url))
            queued = QueuedStorage(
                str(f"{self.plain.__class__.__module__}.FileSystemStorage"),
                S3Storage(**server.options(name, ours.endpoint_url)),
                {"location": str(self.options.directory / f"before-s3-{delay}")},
                alias=f"s3-{delay}",
            )
            s3.save("warm", self.content(data))

            def save_queued(number: int) -> None:
                self.save_queued(queued, "default", data, [f"{number}.bin"])

            found = by_turns(
                {
                    "S3Storage": lambda number: s3.save(f"{number}.bin", self.content(data)),
                    "queued": save_queued,
                },
                self.options.rounds(50),
            )
            assert ours.connections == 0, "save() has called the remote"
        details = {**milliseconds(found), "remote calls of ours": 0}
        return round(found["S3Storage"] / found["queued"], 1), details


def ratio(found: dict[str, float]) -> float:
    return round(found["queued"] / found["plain"], 3)
