"""How many files workers upload per second, and what each costs, compared with other tools."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from . import carriers
from .carriers import Place, Upload
from .peers import AncestorMissing, S3Server, bucket, far, program, why_missing
from .project import configure, databases
from .rows import Options, Row, Turn, ratio_of

SMALL = 10_000  # bytes
LARGE = 1_000_000  # close to the maximum for a single request
WIDTHS = (1, 2, 4, 8, 16, 32)
DISTANCES = (0, 30)  # milliseconds
SECONDS = 1.5  # approximate duration of each turn
ROUNDS = 5  # of the widths that have goals, in both orders


class Speed(NamedTuple):
    """What was measured in each round."""

    rates: list[float]  # files per second
    costs: list[float]  # microseconds of the processors per file

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def cost(self) -> float:
        return statistics.median(self.costs)


Speeds = dict[str, Speed]

CARRIERS: dict[str, Callable[[Place, int], AbstractContextManager[Upload]]] = {
    "plain": partial(carriers.worker, way=carriers.PLAIN),
    "fast": partial(carriers.worker, way=carriers.FAST),
    "generic": partial(carriers.worker, way=carriers.GENERIC),
    "postgres": partial(carriers.worker, way=carriers.FAST, database="postgres"),
    "put_object": carriers.put_object,
    "save and size": carriers.save_and_size,
    "rclone": partial(carriers.copying, tool="rclone"),
    "s5cmd": partial(carriers.copying, tool="s5cmd"),
    "ancestor": carriers.ancestor,
}
CONTESTS = (  # each line is measured in turns
    ("plain", "fast", "postgres", "put_object", "ancestor", "rclone", "s5cmd"),
    ("generic", "save and size"),
)
DRAWN = ("plain", "put_object", "fast", "rclone", "s5cmd")


@dataclass(frozen=True)
class Goal:
    key: str
    ours: str
    theirs: str
    what: str
    ratio: float | dict[int, float]  # by the distance

    def at(self, distance: int) -> float:
        return self.ratio[distance] if isinstance(self.ratio, dict) else self.ratio


GOALS = (
    Goal("boto3", "fast", "put_object", "compared with boto3's put_object", 1.2),
    Goal("plain", "plain", "put_object", "without obstore, compared with boto3's put_object", 0.9),
    Goal("ancestor", "fast", "ancestor", "compared with django-queued-storage 0.8", 20),
    Goal("rclone", "fast", "rclone", "compared with rclone copy", 1.2),
    Goal("s5cmd", "fast", "s5cmd", "compared with s5cmd cp", {0: 0.85, 30: 1.2}),
    Goal(
        "postgres",
        "postgres",
        "s5cmd",
        "the ledger in PostgreSQL, compared with s5cmd cp",
        {0: 0.7, 30: 1.2},
    ),
    Goal(
        "generic",
        "generic",
        "save and size",
        "generic uploader, compared with save() and size()",
        0.95,
    ),
)
GOAL_WIDTHS = (8, 32)


def rows(options: Options) -> Iterator[Row]:
    if missing := why_missing("s3"):
        for distance in DISTANCES:
            for width in GOAL_WIDTHS:
                yield from _rows(width, distance, {}, dict.fromkeys(CARRIERS, missing), {})
        yield from _costs({}, dict.fromkeys(CARRIERS, missing))
        return
    configure(options.directory, postgres=not why_missing("postgres"))
    with databases(), S3Server() as server:
        yield from Workers(server, options).rows()


class Workers:
    def __init__(self, server: S3Server, options: Options) -> None:
        self._server = server
        self._options = options
        self._reasons = _reasons(options)
        self._series: dict[str, dict[int, dict[str, float]]] = {"files/s": {}, "MB/s": {}}

    def rows(self) -> Iterator[Row]:
        for width in (8,) if self._options.quick else WIDTHS:
            has_goal = width in GOAL_WIDTHS
            small, large = self._rates(width, 0, tuple(CARRIERS) if has_goal else DRAWN)
            self._series["files/s"][width] = _rounded(small)
            self._series["MB/s"][width] = _rounded(large, LARGE / 1e6)
            if has_goal:
                is_last = width == max(WIDTHS)
                yield from _rows(width, 0, small, self._reasons, self._series if is_last else {})
                if is_last or self._options.quick:
                    yield from _costs(small, self._reasons)
        if not self._options.quick:
            for width in GOAL_WIDTHS:
                small, _none = self._rates(width, 30, tuple(CARRIERS))
                yield from _rows(width, 30, small, self._reasons, {})

    def _rates(self, width: int, distance: int, names: Sequence[str]) -> tuple[Speeds, Speeds]:
        small: Speeds = {}
        large: Speeds = {}
        here = [name for name in names if name not in self._reasons]
        with far(self._server, distance) as address, bucket(self._server) as bucket_name:
            place = Place(self._server, address, bucket_name, self._options.directory)
            for contest in CONTESTS:
                with ExitStack() as stack:
                    ready = {
                        name: stack.enter_context(CARRIERS[name](place, width))
                        for name in contest
                        if name in here
                    }
                    small |= self._by_turns(ready, width, SMALL)
                    if not distance:
                        drawn = {name: upload for name, upload in ready.items() if name in DRAWN}
                        large |= self._by_turns(drawn, width, LARGE)
        return small, large

    def _by_turns(self, ready: dict[str, Upload], width: int, size: int) -> Speeds:
        """Return what was measured of each."""
        quick = self._options.quick
        few = max(20, width)
        files = {
            name: few if quick else _enough(few, upload, size) for name, upload in ready.items()
        }
        found: dict[str, list[Turn]] = {name: [] for name in ready}
        turns = list(ready.items())
        for _round in range(ROUNDS if size == SMALL and width in GOAL_WIDTHS and not quick else 1):
            for name, upload in turns:
                found[name].append(upload(files[name], size))
            turns.reverse()
        return {name: _speed(files[name], each) for name, each in found.items()}


def _speed(files: int, turns: list[Turn]) -> Speed:
    return Speed(
        [files / turn.seconds for turn in turns],
        [turn.processor / files * 1e6 for turn in turns],
    )


def _enough(few: int, upload: Upload, size: int) -> int:
    """Return a number of files that take SECONDS, or `few` if that is more."""
    files = few
    while (seconds := upload(files, size).seconds) < SECONDS / 5:
        files *= 4
    return max(few, int(files * SECONDS / seconds))


def _reasons(options: Options) -> dict[str, str]:
    """Return why some cannot be measured."""
    found = {tool: f"{tool} is not installed" for tool in ("rclone", "s5cmd") if not program(tool)}
    if not find_spec("obstore"):
        found["fast"] = found["postgres"] = "obstore is not installed"
    if missing := why_missing("postgres"):
        found["postgres"] = missing
    try:
        carriers.prepare_ancestor(may_install=not options.quick)
    except AncestorMissing as missing:
        found["ancestor"] = str(missing)
    return found


def _rows(
    width: int, distance: int, speeds: Speeds, reasons: dict[str, str], series: dict[str, Any]
) -> Iterator[Row]:
    details = {
        "files/s": _rounded(speeds),
        "processor time per file, µs": _micros(speeds),
        **({"by concurrency": series} if series else {}),
    }
    for goal in GOALS:
        away = f", {distance} ms latency" if distance else ""
        ours, theirs = speeds.get(goal.ours), speeds.get(goal.theirs)
        rounds = {
            f"files/s of {name} by round": [round(rate, 1) for rate in speeds[name].rates]
            for name in (goal.ours, goal.theirs)
            if name in speeds
        }
        yield Row(
            key=f"workers.{goal.key}.{width}" + (f".{distance}ms" if distance else ""),
            what=f"worker, 10 KB, {width} threads{away}, {goal.what}",
            goal=goal.at(distance),
            is_at_most=False,
            ratio=ratio_of(ours.rates, theirs.rates) if ours and theirs else None,
            details=details | rounds,
            reason=reasons.get(goal.ours) or reasons.get(goal.theirs, ""),
        )


def _costs(speeds: Speeds, reasons: dict[str, str]) -> Iterator[Row]:
    """Yield the rows with the processor time of the worker."""
    costs = _micros(speeds)
    width = max(GOAL_WIDTHS)
    for name, database in (("fast", "SQLite"), ("postgres", "PostgreSQL")):
        yield Row(
            key=f"workers.processor.{database}.{width}",
            what=f"processor time of the worker per file of 10 KB, {width} threads, {database}",
            goal=450,
            is_at_most=True,
            ratio=costs.get(name),
            unit="µs",
            details={"of": "the processes of each side, without servers", "µs": costs},
            reason=reasons.get(name, ""),
        )
    ours, theirs = speeds.get("fast"), speeds.get("rclone")
    yield Row(
        key=f"workers.processor.rclone.{width}",
        what=f"processor time of the worker per file of 10 KB, {width} threads, compared with "
        "rclone copy",
        goal=0.8,
        is_at_most=True,
        ratio=ratio_of(ours.costs, theirs.costs) if ours and theirs else None,
        details={"of": "the processes of each side, without servers", "µs": costs},
        reason=reasons.get("fast") or reasons.get("rclone", ""),
    )


def _rounded(speeds: Speeds, factor: float = 1) -> dict[str, float]:
    return {name: round(speed.rate * factor, 1) for name, speed in speeds.items()}


def _micros(speeds: Speeds) -> dict[str, float]:
    return {name: round(speed.cost, 1) for name, speed in speeds.items()}
