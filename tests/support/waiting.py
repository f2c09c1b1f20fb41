"""Wait for another thread or process, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

SOON = 5  # seconds on a busy machine, and less than the default timeout of a client

Answer = TypeVar("Answer")


def until(ask: Callable[[], Answer], timeout: float = 30) -> Answer:
    """Call `ask` until its result is true. Raise AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {timeout} seconds"
        time.sleep(0.02)
    return answer
