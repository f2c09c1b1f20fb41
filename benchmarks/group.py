"""``python -m benchmarks.group NAME``: run one group, and print one row per line."""

import argparse
import dataclasses
import importlib
import json
import sys
import tempfile
from pathlib import Path

from . import GROUPS, SLOW
from .rows import Options, Row


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.group", description=__doc__)
    parser.add_argument("name", choices=(*GROUPS, *SLOW))
    parser.add_argument("--quick", action="store_true", help="only see whether it runs")
    parser.add_argument("--json", action="store_true", help="each row as JSON")
    given = parser.parse_args()
    rows = importlib.import_module(f"benchmarks.{given.name}").rows
    with tempfile.TemporaryDirectory(prefix="queued-storage-bench-") as directory:
        for row in rows(Options(given.quick, Path(directory))):
            print(json.dumps(dataclasses.asdict(row)) if given.json else line(row), flush=True)


def line(row: Row) -> str:
    """Return the row as text for the terminal."""
    bound = "at most" if row.is_at_most else "at least"
    found = "not measured" if row.ratio is None else f"{row.ratio:,.2f} {row.unit}"
    verdict = "met" if row.is_met else "MISSED" if row.ratio is not None else ""
    text = f"{row.what:<72} {found:>16}  {bound} {row.goal:g}  {verdict}"
    return f"{text}\n    {row.reason}" if row.reason else text.rstrip()


if __name__ == "__main__":
    sys.exit(main())
