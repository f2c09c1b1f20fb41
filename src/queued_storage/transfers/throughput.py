"""Counts what this process transfers, and adds the numbers to the ledger once a minute."""

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta

from django.db import connections
from django.db.models.signals import post_migrate

from ..ledger.database import in_transaction, is_in_memory, ledger_database
from ..ledger.sql.clock import database_time
from ..ledger.throughput import (
    KEPT,
    MINUTE,
    Moment,
    Numbers,
    beginning,
    is_available,
    pending,
    throughput,
)
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime.forks import after_fork

WRITE_EVERY = 60.0  # seconds
PRUNE_EVERY = 3600.0  # seconds
STEP = 5.0  # seconds that are counted together
PATIENCE = 2.0  # seconds to wait for another thread that is writing
OLDEST = KEPT[MINUTE].total_seconds()  # of what is kept in memory while the database is away


class Recorder:
    """What this process has counted since it last wrote.

    A worker, and the threads of a process, write every minute while they search for files. In a
    process that only gets messages, a thread writes a minute after the first file, and ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the counts
        self._writing = threading.Lock()
        self._counts: dict[tuple[int, str], Numbers] = {}  # by step and alias
        self._next_write = time.monotonic() + WRITE_EVERY
        self._next_prune = 0.0
        self._kept_until = 0.0  # whether a thread that searches for files writes
        self._timer: threading.Timer | None = None

    def count(self, alias: str, numbers: Numbers) -> None:
        """Note what was done with a file. Inside a transaction, as in a ``TestCase``, nothing is
        noted, since it may not last."""
        if in_transaction():
            return
        now = time.monotonic()
        key = int(now // STEP), alias
        with self._lock:
            self._counts[key] = self._counts.get(key, Numbers()).plus(numbers)
            if self._timer is None and now > self._kept_until:
                self._start_timer()

    def _start_timer(self) -> None:
        if is_in_memory(connections[ledger_database()]):
            return
        timer = threading.Timer(WRITE_EVERY, self._write_later)
        timer.name, timer.daemon = "queued-storage-throughput", True
        with suppress(RuntimeError):  # the interpreter ends, or there are no more threads
            timer.start()
            self._timer = timer

    def _write_later(self) -> None:
        self._timer = None
        try:
            self.write()
        finally:
            connections.close_all()

    def write_if_due(self, aliases: Collection[str]) -> None:
        """Write, unless this process has written within a minute, with how many files of these
        storages are pending."""
        now = time.monotonic()
        self._kept_until = now + 2 * WRITE_EVERY
        if now >= self._next_write:
            self.write(aliases)

    def write(self, aliases: Collection[str] = ()) -> None:
        """Add what was counted to the ledger. If that fails, the next write does it."""
        if in_transaction() or not self._writing.acquire(timeout=PATIENCE):
            return
        try:
            self._next_write = time.monotonic() + WRITE_EVERY
            with self._lock:
                counts, self._counts = self._counts, {}
            try:
                self._write(counts, aliases)
            except Exception as error:
                logger.warning("The throughput could not be recorded: %s", reason(error))
                self._keep(counts)
        finally:
            self._writing.release()

    def _write(self, counts: dict[tuple[int, str], Numbers], aliases: Collection[str]) -> None:
        if not is_available():
            counts.clear()
            return
        waiting = pending({*aliases, *(alias for _step, alias in counts)})
        if not (counts or waiting):
            return
        now = database_time(ledger_database())
        minutes: dict[Moment, Numbers] = {}
        steps: dict[Moment, list[tuple[int, str]]] = {}
        for key, numbers in counts.items():
            ago = max(time.monotonic() - (key[0] + 0.5) * STEP, 0.0)
            moment = Moment(beginning(now - timedelta(seconds=ago), MINUTE), key[1])
            minutes[moment] = minutes.get(moment, Numbers()).plus(numbers)
            steps.setdefault(moment, []).append(key)
        for alias, files in waiting.items():
            moment = Moment(beginning(now, MINUTE), alias)
            minutes[moment] = minutes.get(moment, Numbers()).plus(Numbers(pending=files))
        throughput().start(minutes)
        for moment in sorted(minutes):
            throughput().add(moment, minutes[moment])
            for key in steps.get(moment, ()):  # not again if the next one fails
                del counts[key]
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + PRUNE_EVERY
            throughput().prune(now)

    def _keep(self, counts: dict[tuple[int, str], Numbers]) -> None:
        oldest = (time.monotonic() - OLDEST) // STEP
        with self._lock:
            for key, numbers in counts.items():
                if key[0] >= oldest:
                    self._counts[key] = self._counts.get(key, Numbers()).plus(numbers)

    def stop(self) -> None:
        """Forget everything; wait for a thread that is writing."""
        timer, self._timer = self._timer, None
        if timer is not None and timer is not threading.current_thread():
            timer.cancel()
            timer.join(PATIENCE)
        self._counts = {}


_recorder = Recorder()


def transferred(alias: str, size: int) -> None:
    """Count a file of a storage, with its size in bytes."""
    _recorder.count(alias, Numbers(files=1, bytes=size))


def failed(alias: str) -> None:
    """Count an attempt that failed."""
    _recorder.count(alias, Numbers(failures=1))


def write_if_due(aliases: Collection[str]) -> None:
    """Write every minute, for a thread that searches for files of these storages."""
    _recorder.write_if_due(aliases)


def write(aliases: Collection[str] = ()) -> None:
    """Write now, for a process that ends, or for one that goes through all of these storages."""
    _recorder.write(aliases)


def forget(**kwargs: object) -> None:
    """Begin anew, after a flush or for a test."""
    global _recorder
    before, _recorder = _recorder, Recorder()
    before.stop()


def _begin_anew() -> None:
    """Leave the counts of the parent to it, whose locks and threads a forked process has not."""
    global _recorder
    _recorder = Recorder()


after_fork(_begin_anew)
post_migrate.connect(forget)
