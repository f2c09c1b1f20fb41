from collections.abc import Iterator
from typing import Any

import pytest

from queued_storage.signals import file_deleted, file_evicted, file_transferred, transfer_failed


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """The signals that were sent, each with its arguments."""
    found: list[tuple[Any, dict[str, Any]]] = []

    def listen(signal: Any, **kwargs: Any) -> None:
        found.append((signal, kwargs))

    signals = (file_transferred, transfer_failed, file_evicted, file_deleted)
    for signal in signals:
        signal.connect(listen)
    yield found
    for signal in signals:
        signal.disconnect(listen)
