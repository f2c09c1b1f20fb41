from collections.abc import Iterator
from typing import Any

import pytest

from tests.ecosystem.remotes.servers import SERVERS, Make


@pytest.fixture(scope="module", params=SERVERS)
def remote(request: pytest.FixtureRequest) -> Iterator[tuple[str, Make]]:
    """Each remote in turn: its name, and a function that creates a storage of it."""
    with SERVERS[request.param]() as make:
        yield request.param, make


@pytest.fixture(autouse=True)
def _ledger(transactional_db: Any) -> None:
    """Commit for real, so that threads and queues see the rows of the test."""
