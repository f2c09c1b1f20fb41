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
        yield f"{row.what}\n: {row.reason or REASONS.get(row.key, 'Not profiled yet.')}\n\n"


# What is known of rows that may miss their goal
REASONS: dict[str, str] = {
    "saves.large": "The checksum is the cause: zlib.crc32 takes 19 ms of processor time for the "
    "100 MB that FileSystemStorage.save() takes 34 for; the extra 'checksums' takes 2.",
    "saves.python": "No cause is left that stands out: the row's statement and Django's cursor "
    "take a fifth, the link to the file's own name and the draft's removal another one, the check "
    "whether the name is free a tenth. Other processes that use the same caches of the processor "
    "add up to a half.",
    "saves.s3.0": "The floor is near: FileSystemStorage.save() and a bare INSERT, without anything "
    "of ours, were 10 times as quick as S3Storage.save() on the machine of this run. To make a "
    "file takes more than half of that.",
    "saves.s3.30": "A save after 70 ms of waiting finds the processor's caches cold and takes 1.7 "
    "ms, the next ones 0.7. FileSystemStorage.save() alone takes 0.9 ms then, and 0.4 after.",
    "looks.transferred.domain.default": "The peer takes 6.5 µs. The 2 µs that we add are the one "
    "spelling of the name, the key that any name can have, which is longer than the peer's so that "
    "Django's cache looks at more characters, and the care for a cache that is away.",
    "saves.fsync": "The disk writes what other processes gave it, too, before it says that it has "
    "a file; beside a server of S3 that was 3 to 30 times.",
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
    "reading": ("Memory for reading 1 GB back", ("reading.memory",)),
    "growth": ("Passes by the number of files", ("passes.sweep.SQLite",)),
    "pending": ("Passes by the number of due files", ("passes.sweep.SQLite",)),
}


if __name__ == "__main__":
    sys.exit(main())
