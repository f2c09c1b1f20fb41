"""Time and memory of the verbs with many files.

The memory is the peak growth of the process since before the first verb.
"""

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .project import configure
from .rows import Options, Row, peak

FILES = 20_000
COPIES = 1000  # files that are evicted and restored


class Nowhere(io.TextIOBase):
    """A stream that discards its input."""

    def write(self, text: str) -> int:
        return len(text)


def rows(options: Options) -> Iterator[Row]:
    configure(options.directory)
    files, copies = (100, 10) if options.quick else (FILES, COPIES)
    speeds, grown = run(options.directory, files, copies)
    yield Row(
        key="verbs.memory",
        what=f"memory used by the subcommands for {files:,} files",
        goal=32,
        is_at_most=True,
        ratio=round(grown, 1),
        unit="MiB",
        details={"files": files, "files per second": speeds},
    )


def run(directory: Path, files: int, copies: int) -> tuple[dict[str, int], float]:
    from django.core.management import CommandError, call_command

    from queued_storage.backends import QueuedStorage
    from queued_storage.ledger.database import ledger
    from queued_storage.ledger.states import State

    call_command("migrate", verbosity=0)
    path = "django.core.files.storage.FileSystemStorage"
    near, far = directory / "near", directory / "far"
    storage = QueuedStorage(
        path, path, {"location": near}, {"location": far, "base_url": "/far/"}, alias="bench"
    )
    assert storage.alias
    speeds: dict[str, int] = {}

    def put(place: Path) -> None:
        for number in range(files):
            name = place / f"{number % 100}" / f"{number}.txt"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(b"x" * 10)
            os.utime(name, (0, 0))

    def timed(*command: str, count: int = files) -> None:
        queue: Any = storage.queue
        started = time.perf_counter()
        with contextlib.suppress(CommandError):  # raised if the verb finds problems
            call_command("queued_storage", *command, stdout=Nowhere(), stderr=Nowhere())
        speeds[" ".join(command)] = round(count / (time.perf_counter() - started))
        queue.messages.clear()

    put(near)
    before = peak()
    timed("orphans", "local", "--json")
    timed("backfill", "--under", ".")
    timed("status")
    timed("cancel", "--all")
    ledger().update(state=State.FAILED)
    timed("retry", "--all")
    timed("flush")
    ledger().all().delete()
    put(far)
    timed("adopt", "--under", ".")
    timed("verify")
    timed("verify", "--content")
    timed("prune", "--all", "--yes")
    timed("evict", "--size", str(copies * 10), count=copies)
    timed("restore", "--all", count=copies)
    timed("orphans", "remote")
    return speeds, peak() - before
