"""Detection of network requests in code that should make none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CALLS = frozenset({"connect", "connect_ex", "getaddrinfo", "send", "sendall", "write"})
_MODULES = frozenset({"_socket", "socket", "ssl", "_ssl"})


@contextmanager
def watched_sockets() -> Iterator[list[str]]:
    """A list to which the names of the socket calls of this thread are added."""
    calls: list[str] = []

    def profile(frame: Any, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in _CALLS:
            return
        owner = getattr(function, "__self__", None)
        module = getattr(owner, "__module__", None) or getattr(owner, "__name__", None)
        if module in _MODULES:
            calls.append(function.__name__)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)
