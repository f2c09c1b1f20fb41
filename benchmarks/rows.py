"""A row of the table, and how it is measured."""

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any, NamedTuple

# In the largest ledger. Ten million take minutes, and 10 GB on the disk, per database.
FILES = int(os.environ.get("BENCHMARK_FILES", "1_000_000"))


@dataclass(frozen=True)
class Row:
    """One result and its goal.

    It is usually a ratio of two medians, measured in turns, because the speed of the machine
    changes from minute to minute.
    """

    key: str
    what: str
    goal: float
    is_at_most: bool  # whether the goal is a maximum or a minimum
    ratio: float | None  # None: not measured
    unit: str = "x"  # or "ms", "µs", "MiB", "rows/s"
    details: dict[str, Any] = field(default_factory=dict)  # underlying values and plot data
    reason: str = ""  # why it misses its goal or was not measured

    @property
    def is_met(self) -> bool:
        if self.ratio is None:
            return False
        return self.ratio <= self.goal if self.is_at_most else self.ratio >= self.goal


@dataclass(frozen=True)
class Options:
    """How to run a group."""

    quick: bool  # few rounds and small sizes, only to check that it runs
    directory: Path  # for its own files, deleted afterwards

    def rounds(self, number: int) -> int:
        return min(number, 3) if self.quick else number


class Turn(NamedTuple):
    """What one turn of a side took."""

    seconds: float
    processor: float  # seconds of all of its processes


def by_turns(
    works: Mapping[str, Callable[[int], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each function, called in turns and in both orders."""
    times: dict[str, list[float]] = {name: [] for name in works}
    turns = list(works.items())
    for number in range(rounds):
        for name, work in turns:
            started = clock()
            work(number)
            times[name].append(clock() - started)
        turns.reverse()
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def ratio_of(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of all rounds.

    The speed of the machine changes from round to round by more than the sides differ.
    """
    return round(statistics.median(map(truediv, over, under)), 2)


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value * 1000, 4) for name, value in seconds.items()}


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    with contextlib.suppress(OSError):
        return peak_of("self")
    # On other systems, this may include the memory of the parent.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(process: int | str) -> float:
    """Return the peak memory of another process in MiB. This requires Linux."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def spent_by(group: int) -> float:
    """Return the processor time of a process group, and of its children that have ended.

    This requires Linux.
    """
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def spent_by_children() -> float:
    """Return the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
