"""The same as ``steps`` with ten thousand files, which all wait in the ledger at first."""

from collections.abc import Iterator

from .rows import Options, Row
from .steps import measured

FILES = 10_000


def rows(options: Options) -> Iterator[Row]:
    yield from measured(options, "manysteps.throughput", FILES)
