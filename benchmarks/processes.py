"""How many files several processes of a worker upload per second, compared with one."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack

from . import carriers
from .carriers import Place, Upload
from .peers import S3Server, bucket, far, why_missing
from .project import configure, databases
from .rows import Options, Row, ratio_of

SIZE = 10_000  # bytes
THREADS = 8  # of each process
DISTANCE = 30  # milliseconds
GOALS = {2: 1.8, 4: 3.0}  # by the number of processes
FILES = 400  # for each process, which take about two seconds
ROUNDS = 5

Rates = dict[int, list[float]]


def rows(options: Options) -> Iterator[Row]:
    if missing := why_missing("s3"):
        yield from _rows({}, missing)
        return
    configure(options.directory)
    with databases(), S3Server() as server:
        yield from _rows(_rates(server, options), "")


def _rates(server: S3Server, options: Options) -> Rates:
    """Return the files per second of each round, by the number of processes."""
    files = 20 if options.quick else FILES
    seconds: dict[int, list[float]] = {processes: [] for processes in (1, *GOALS)}
    with ExitStack() as stack:
        address = stack.enter_context(far(server, DISTANCE))
        bucket_name = stack.enter_context(bucket(server))
        place = Place(server, address, bucket_name, options.directory)
        ready: list[tuple[int, Upload]] = [
            (count, stack.enter_context(carriers.worker(place, THREADS, carriers.FAST, count)))
            for count in seconds
        ]
        for _round in range(1 if options.quick else ROUNDS):
            for count, upload in ready:
                seconds[count].append(upload(files * count, SIZE).seconds)
            ready.reverse()
    return {count: [files * count / each for each in found] for count, found in seconds.items()}


def _rows(rates: Rates, reason: str) -> Iterator[Row]:
    medians = {str(count): round(statistics.median(each), 1) for count, each in rates.items()}
    rounds = {str(count): [round(rate, 1) for rate in each] for count, each in rates.items()}
    for count, goal in GOALS.items():
        yield Row(
            key=f"processes.{count}",
            what=f"worker, 10 KB, {DISTANCE} ms latency, {count} processes of {THREADS} threads, "
            "compared with one",
            goal=goal,
            is_at_most=False,
            ratio=ratio_of(rates[count], rates[1]) if rates else None,
            details={"files/s": medians, "files/s by round": rounds},
            reason=reason,
        )
