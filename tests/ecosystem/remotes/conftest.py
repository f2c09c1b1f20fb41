from collections.abc import Iterator
from typing import Any

import pytest

from tests.ecosystem.remotes.servers import SERVERS, Make


def pytest_configure(config: pytest.Config) -> None:
    # The backends of django-storages leave it to the collector to close their connections.
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module", params=SERVERS)
def remote(request: pytest.FixtureRequest) -> Iterator[tuple[str, Make]]:
    """Each remote in turn: its name, and what makes a storage of it."""
    with SERVERS[request.param]() as make:
        yield request.param, make


@pytest.fixture(autouse=True)
def _ledger(transactional_db: Any) -> None:
    """Threads and queues see what the test has committed."""
