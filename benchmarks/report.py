"""``python -m benchmarks.report``: write the docs page and its plots from the rows of a run."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .reasons import known_reason
from .rows import Row

DOCS = Path(__file__).parent.parent / "docs"
ROWS = DOCS / "_static" / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"
COMPARISON = DOCS / "comparison.md"  # repeats some of the results
NOTES = Path(__file__).parent / "notes.md"  # explanations of the results
INTRODUCTION = """\
# Benchmarks

This page shows how fast the package is, compared with other tools that do the same work in the same
run. To measure your own machine, run `make bench`. It takes about half an hour.

Unless a row says otherwise, figures with the unit `x` are ratios of medians. The two sides take
turns. On another machine the durations differ, but the ratios differ less. With a goal of "at
most", the ratio is this package's duration divided by the other one. With a goal of "at least", it
is this package's speed divided by the other one. The sections below describe what is compared.

The S3 server runs on the same machine. Latency is added by a proxy that delays the bytes.

"""
METHOD = """\
## How saves and URLs are compared

- `save()` in a transaction is compared with `FileSystemStorage.save()` and an `INSERT` by the ORM.
  The row for 100 MB compares processor times. With `FSYNC`, `save()` is compared with `save()`
  without it.
- `save()` with a latency to the S3 server is compared with `S3Storage.save()`.
- `url()` of a file that isn't transferred yet is compared with `FileSystemStorage.url()` and a
  query by the ORM. `url()` of a transferred file is compared with `S3Storage.url()` and a cache
  lookup.

## How workers are compared

- The worker is `manage.py queued_storage worker` in a process of its own. The ledger is in SQLite.
  The measurement starts when the saved files become due, and ends when the last one is marked as
  transferred in the ledger. Every file is verified: by the checksum that the server compared, or by
  the size if the generic uploader is used.
- The worker uploads small files with obstore. Without obstore, it calls boto3's `put_object`.
- `put_object` and `S3Storage` are called in the same number of threads, which are kept for the
  whole run. The threads share one boto3 client; `S3Storage` creates a session in each thread.
- `rclone copy` and `s5cmd cp` copy a directory. They are started again in each turn. The time that
  they need for a single file is subtracted, so that the ratio compares continuous work. They keep
  no ledger.
- django-queued-storage 0.8 runs with Django 3.2, Celery 4.4, and Redis, on Python 3.10.
- All have started their threads and sessions before the measurement, upload the same bytes to the
  same server, and take turns. Each gets enough files to be busy for about one and a half seconds.
- The file of 1 GB has just been written, as after a save, and is on the disk.

## How steps are compared

- Each picture of four megapixels passes three steps: one computes a hash, `CleanImage` writes the
  picture anew, and one decodes it once more. The other side calls the same steps, one after the
  other in one thread, and saves their results with `FileSystemStorage`.

"""
# More of it, each for a run that has rows with this prefix
MORE_METHODS: dict[str, str] = {
    "workers.processor": """\
## How processor time is compared

- The ratio of uploads, also of 1 GB and of several processes, is the median of the ratios of all
  rounds, since the speed of a machine changes from round to round.
- The processor time of a side is that of all its processes and threads, without servers: not that
  of the S3 server, of PostgreSQL, and of the proxy. From that of `rclone` and `s5cmd`, the time for
  a single file is subtracted. That of the worker is counted from the moment at which the files
  become due, so it contains the claims and what the ledger needs, but not the saves.

""",
    "reading.open": """\
## How reading is compared

- Each side reads 1 GB in a new process, and in turns. The ratio is the median of the ratios of all
  rounds. `open()` reads all of the file in pieces, and `local_path()` and `download_file()` write
  it to the disk. The deletion of a temporary file isn't measured.

""",
    "serving": """\
## How serving is compared

- One gunicorn process with four threads serves both views, with a database connection that stays
  open. A client asks over four connections, which stay open, too. Of ten requests, two ask for a
  range, and two send `If-Modified-Since`. Django's view doesn't know ranges, and sends the whole
  file.
- Behind nginx, the view answers with the header of `SENDFILE`. nginx alone serves the same files
  without a question to anybody.

""",
    "growth": """\
## How growth is compared

- Two ledgers exist at the same time, one with ten times as many files as the other. A thousand
  files of each are due, and the others are transferred. The turns alternate between them.

""",
}
ENDING = """\
## What made a difference

"""


def main() -> None:
    from .plots import draw

    found = json.loads(ROWS.read_text())
    PAGE.write_text(page(found))
    COMPARISON.write_text(compared(COMPARISON.read_text(), found))
    draw({row["key"]: row for row in found["rows"]}, DOCS / "_static")


def page(found: Mapping[str, Any]) -> str:
    rows = [Row(**row) for row in found["rows"]]
    return "".join(
        [
            INTRODUCTION,
            _circumstances(found["run"]),
            "| what | result | goal | |\n|---|---|---|---|\n",
            *map(_line, rows),
            "\n",
            *_reasons(rows),
            *_plots(rows),
            METHOD,
            *_more_methods(rows),
            ENDING,
            NOTES.read_text(),
        ]
    )


def compared(text: str, found: Mapping[str, Any]) -> str:
    """Return the text with the results of this run in the rows of its tables."""
    for row in (Row(**row) for row in found["rows"]):
        shown = f"| {row.what} | "
        text = "".join(
            f"{shown}{_result(row)} |\n" if line.startswith(shown) else line
            for line in text.splitlines(keepends=True)
        )
    return text


def _circumstances(run: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    note = f" {run['note']}" if run.get("note") else ""
    return f"This run was on {run['date']}, with {run['cores']} cores: {versions}.{note}\n\n"


def _line(row: Row) -> str:
    bound = "at most" if row.is_at_most else "at least"
    verdict = "" if row.ratio is None else "met" if row.is_met else "**missed**"
    return f"| {row.what} | {_result(row)} | {bound} {row.goal:,g} {row.unit} | {verdict} |\n"


def _more_methods(rows: list[Row]) -> Iterator[str]:
    for prefix, text in MORE_METHODS.items():
        if any(f"{row.key}.".startswith(f"{prefix}.") for row in rows):
            yield text


def _result(row: Row) -> str:
    return "not measured" if row.ratio is None else f"{row.ratio:,g} {row.unit}"


def _reasons(rows: list[Row]) -> Iterator[str]:
    told = [row for row in rows if not row.is_met]
    if not told:
        return
    yield "## Missed goals\n\n"
    for row in told:
        yield f"{row.what}\n: {row.reason or known_reason(row.key)}\n\n"


def _plots(rows: list[Row]) -> Iterator[str]:
    keys = {row.key: row for row in rows}
    yield "## Plots\n\n"
    for name, (title, needs) in PLOTS.items():
        if all(key in keys and keys[key].ratio is not None for key in needs):
            yield f"![{title}](_static/benchmark-{name}.svg)\n\n"


# The name of the file, its title, and the rows whose details it shows
PLOTS = {
    "saves": ("Duration of save() by file size", ("saves.large",)),
    "looks": ("Duration of url() of one file", ("looks.local",)),
    "page": ("Duration of the URLs of a page with 100 files", ("looks.page.none",)),
    "files": ("Files uploaded to S3 per second, by number of threads", ("workers.boto3.32",)),
    "bytes": ("Bytes uploaded to S3 per second, by number of threads", ("workers.boto3.32",)),
    "memory": ("Memory growth for 1 GB", ("reading.memory", "workers.large.memory")),
    "growth": ("Duration of sweep and status by number of files", ("passes.sweep.SQLite",)),
    "pending": ("Duration of sweep and status by number of due files", ("passes.sweep.SQLite",)),
}


if __name__ == "__main__":
    sys.exit(main())
