"""Waits for what another thread or process does, with a deadline instead of luck."""

import time
from collections.abc import Callable
from typing import TypeVar

SOON = 5  # seconds, on a busy machine: less than a client waits that has not our time-out

Answer = TypeVar("Answer")


def until(ask: Callable[[], Answer], timeout: float = 30) -> Answer:
    """Ask again and again until the answer is true; an AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {timeout} seconds"
        time.sleep(0.02)
    return answer
