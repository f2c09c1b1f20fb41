"""To be written."""

from collections.abc import Iterator

from .rows import Options, Row


def rows(options: Options) -> Iterator[Row]:
    yield from ()
