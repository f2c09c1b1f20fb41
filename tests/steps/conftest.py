from collections.abc import Iterator

import pytest

from tests.support.clamd import Clamd


@pytest.fixture(scope="package")
def running_clamd() -> Iterator[Clamd]:
    with Clamd(max_bytes=1_000_000) as clamd:
        yield clamd


@pytest.fixture
def clamd(running_clamd: Clamd) -> Clamd:
    """A scanner that runs; a test may stop it."""
    if running_clamd.process is None:
        running_clamd.start()
    return running_clamd
