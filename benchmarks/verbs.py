"""``python -m benchmarks.verbs``: time and memory of the verbs on very many files.

The memory is by how much the process has grown at its peak, since before the first verb.
"""

import argparse
import io
import os
import resource
import tempfile
import time
from pathlib import Path

from .__main__ import configure


class LastLine(io.TextIOBase):
    """Keeps nothing else of what is printed."""

    text = ""

    def write(self, text: str) -> int:
        self.text = text if text.strip() else self.text
        return len(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.verbs", description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--copies", type=int, default=5000, help="to evict and restore")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="queued-storage-bench-") as directory:
        configure(directory)
        run(Path(directory), given.files, given.copies)


def run(directory: Path, files: int, copies: int) -> None:
    from django.core.management import CommandError, call_command

    from queued_storage.backends import QueuedStorage
    from queued_storage.models import State, ledger

    call_command("migrate", verbosity=0)
    path = "django.core.files.storage.FileSystemStorage"
    near, far = directory / "near", directory / "far"
    storage = QueuedStorage(
        path, path, {"location": near}, {"location": far, "base_url": "/far/"}, alias="bench"
    )
    assert storage.alias

    def put(place: Path) -> None:
        for number in range(files):
            name = place / f"{number % 100}" / f"{number}.txt"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(b"x" * 10)
            os.utime(name, (0, 0))

    def timed(*command: str, count: int = files) -> None:
        out = LastLine()
        started = time.perf_counter()
        try:
            call_command("queued_storage", *command, stdout=out, stderr=LastLine())
            said = out.text.strip()
        except CommandError as error:
            said = str(error)
        seconds = time.perf_counter() - started
        storage.queue.messages.clear()
        grown = (peak() - before) / 1024
        print(
            f"{' '.join(command):<40} {seconds:7.1f} s {count / seconds:8.0f} files/s "
            f"{grown:6.1f} MiB  {said}",
            flush=True,
        )

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
    timed("prune", "--all")
    timed("evict", "--size", str(copies * 10), count=copies)
    timed("restore", "--all", count=copies)
    timed("orphans", "remote")


def peak() -> int:
    """The most memory that the process had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
