"""``python -m benchmarks.report``: the docs page and its plots, from the rows of a run."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .rows import Row

DOCS = Path(__file__).parent.parent / "docs"
ROWS = DOCS / "_static" / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"
NOTES = Path(__file__).parent / "notes.md"  # what the figures do not say themselves
INTRODUCTION = """\
# Benchmarks

What the package costs and carries, beside others at the same work in the same run. `make bench`
measures it on your machine, in about ten minutes. Each figure is a ratio of medians, ours and the
other's by turns: on another machine the times differ, the ratios less so. The S3 server runs on the
same machine; a distance to it is made by a proxy that keeps bytes back.

"""
METHOD = """\
## How workers are compared

- The worker is `manage.py queued_storage worker` in a process of its own, fed from a ledger in
  SQLite. Its time runs from the moment when the saved files become due to the last promotion in the
  ledger. What is promoted was verified: by the checksum that the server compared, or by the size
  where the generic uploader carried it.
- With the extra `fast`, the storage chooses SHA-256, which obstore sends; else the CRC-32 of boto3.
- `put_object` and `S3Storage` are called in as many threads, which live on. They share a client of
  boto3's; `S3Storage` makes a session for each.
- `rclone copy` and `s5cmd cp` copy a directory. They start anew each time: what they take for one
  file is taken off, so that the ratio is one of steady work. They keep no ledger.
- The ancestor is django-queued-storage 0.8 with Django 3.2, Celery 4.4 and Redis, on Python 3.10.
- All have their threads and sessions before the time runs, send files of the same bytes to the same
  server, and take turns. Each gets so many files that it is busy for about one and a half seconds.
- The file of 1 GB has just been written, as a save leaves it, and is on the disk.

"""
ENDING = """\
## What paid, and what did not

"""


def main() -> None:
    from .plots import draw

    found = json.loads(ROWS.read_text())
    PAGE.write_text(page(found))
    draw({row["key"]: row for row in found["rows"]}, DOCS / "_static")


def page(found: Mapping[str, Any]) -> str:
    rows = [Row(**row) for row in found["rows"]]
    return "".join(
        [
            INTRODUCTION,
            _circumstances(found["run"]),
            "| what | found | goal | |\n|---|---|---|---|\n",
            *map(_line, rows),
            "\n",
            *_reasons(rows),
            *_plots(rows),
            METHOD,
            ENDING,
            NOTES.read_text(),
        ]
    )


def _circumstances(run: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    note = f" {run['note']}" if run.get("note") else ""
    return f"This run is of {run['date']}, on {run['cores']} cores: {versions}.{note}\n\n"


def _line(row: Row) -> str:
    found = "not measured" if row.ratio is None else f"{row.ratio:,g} {row.unit}"
    bound = "at most" if row.is_at_most else "at least"
    verdict = "" if row.ratio is None else "met" if row.is_met else "**missed**"
    return f"| {row.what} | {found} | {bound} {row.goal:,g} {row.unit} | {verdict} |\n"


def _reasons(rows: list[Row]) -> Iterator[str]:
    told = [row for row in rows if not row.is_met]
    if not told:
        return
    yield "## Goals that were missed\n\n"
    for row in told:
        yield f"{row.what}\n: {row.reason or _known_reason(row.key)}\n\n"


def _known_reason(key: str) -> str:
    """What is told of the row itself, or of all rows whose key begins so."""
    parts = key.split(".")
    known = (REASONS.get(".".join(parts[:count])) for count in range(len(parts), 0, -1))
    return next(filter(None, known), "Not profiled yet.")


# What is known of rows that may miss their goal, by the key or how it begins
REASONS: dict[str, str] = {
    "imports": "Almost half is one full pass of Python's garbage collector, to which the app's "
    "classes give the occasion; the rest is spread over its modules.",
    "saves.large": "Without the extra 'checksums', zlib.crc32 takes half as long as all that "
    "FileSystemStorage.save() does.",
    "saves.python": "No cause is left that stands out: the row's statement and Django's cursor "
    "take a fifth, the link to the file's own name and the draft's removal another one, the check "
    "whether the name is free a tenth. Other processes that use the same caches of the processor "
    "add up to a half.",
    "saves.s3.0": "The floor is near: FileSystemStorage.save() and a bare INSERT, without anything "
    "of ours, are not much quicker than this. To make a file takes more than half of that.",
    "saves.s3.30": "A save after 70 ms of waiting finds the processor's caches cold, and takes "
    "twice as long as the next ones; FileSystemStorage.save() alone does, too.",
    "looks.transferred.domain.default": "What we add to the peer's few microseconds are the one "
    "spelling of the name, the key that any name can have, which is longer than the peer's so that "
    "Django's cache looks at more characters, and the care for a cache that is away.",
    "saves.fsync": "The disk writes what other processes gave it, too, before it says that it has "
    "a file.",
    "workers.boto3": "Both are limited by Python, which runs one thread at a time. The worker "
    "spends about as much of its time on everything else (to claim a file, read it, compare its "
    "checksum, promote it) as on sending it; to send it takes a third of what put_object takes.",
    "workers.ancestor": "30 ms away, a thread waits so long for the one request that a file takes: "
    "eight threads have not more than 240 answers a second.",
    "workers.rclone": "All cores are busy, more than half of their time with the server. Of what "
    "the worker takes of the rest, claims and promotion, which rclone has not, are almost half, "
    "and to send by obstore is a fifth.",
    "workers.s5cmd": "All cores are busy, more than half of their time with the server. s5cmd is "
    "compiled, keeps no ledger and compares nothing; of what the worker's Python takes, a fifth is "
    "to send by obstore.",
    "workers.generic": "The worker asks any storage first whether the name is free, so as not to "
    "overwrite what is not its own: one request more than save() and size() make.",
    "workers.large.memory": "boto3 has ten connections, each with a thread and its buffers; the C "
    "library keeps some of what was freed.",
    "workers.large": "Both send by the same calls. What the worker does besides are a few requests "
    "of milliseconds; from run to run the ratio varies by more than that.",
}


def _plots(rows: list[Row]) -> Iterator[str]:
    keys = {row.key: row for row in rows}
    yield "## Plots\n\n"
    for name, (title, needs) in PLOTS.items():
        if all(key in keys and keys[key].ratio is not None for key in needs):
            yield f"![{title}](_static/benchmark-{name}.svg)\n\n"


# The file's name, what it shows, and the rows that have it in their details
PLOTS = {
    "saves": ("A save by size", ("saves.large",)),
    "looks": ("An address, by where the file is", ("looks.local",)),
    "page": ("A page with 100 files", ("looks.page.none",)),
    "files": ("Files brought to S3 in a second, by concurrency", ("workers.boto3.32",)),
    "bytes": ("Bytes brought to S3 in a second, by concurrency", ("workers.boto3.32",)),
    "memory": ("Memory for 1 GB", ("reading.memory", "workers.large.memory")),
    "growth": ("Passes by the number of files", ("passes.sweep.SQLite",)),
    "pending": ("Passes by the number of due files", ("passes.sweep.SQLite",)),
}


if __name__ == "__main__":
    sys.exit(main())
