import socket
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.queues.contracts")


@pytest.fixture(params=["closed", "silent"])
def dead_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that refuses connections, or one that accepts them and never responds."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen(50)
        yield server.getsockname()[1]
