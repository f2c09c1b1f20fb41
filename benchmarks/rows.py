"""A row of the table, and how it comes to its figure."""

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure with its goal; mostly a ratio of medians of one run, ours and another's by
    turns, since the machine's own speed changes from minute to minute."""

    key: str
    what: str
    goal: float
    is_at_most: bool  # whether the goal is a limit, or to be reached
    ratio: float | None  # None: not measured
    unit: str = "x"  # or "ms", "µs", "MiB", "rows/s"
    details: dict[str, Any] = field(default_factory=dict)  # what it comes from, and what is drawn
    reason: str = ""  # why it misses its goal, or was not measured

    @property
    def is_met(self) -> bool:
        if self.ratio is None:
            return False
        return self.ratio <= self.goal if self.is_at_most else self.ratio >= self.goal


@dataclass(frozen=True)
class Options:
    """How to run a group."""

    quick: bool  # few rounds and small sizes, which only show that it runs
    directory: Path  # for files of its own, removed afterwards

    def rounds(self, number: int) -> int:
        return min(number, 3) if self.quick else number


def by_turns(
    works: Mapping[str, Callable[[int], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median seconds of each piece of work, done by turns, in both orders."""
    times: dict[str, list[float]] = {name: [] for name in works}
    turns = list(works.items())
    for number in range(rounds):
        for name, work in turns:
            started = clock()
            work(number)
            times[name].append(clock() - started)
        turns.reverse()
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value * 1000, 4) for name, value in seconds.items()}


def peak() -> float:
    """The most memory that this process had, in MiB."""
    with contextlib.suppress(OSError):
        return peak_of("self")
    # Elsewhere this may be what the parent had.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(process: int | str) -> float:
    """The same of another process, on Linux."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
