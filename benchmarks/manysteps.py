"""The same as ``steps`` with ten thousand smaller pictures."""

from collections.abc import Iterator

from .rows import Options, Row
from .steps import measured

FILES = 10_000
SIZE = (1200, 900)  # pixels of a picture


def rows(options: Options) -> Iterator[Row]:
    yield from measured(options, "manysteps.throughput", FILES, SIZE)
