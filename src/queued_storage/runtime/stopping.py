"""Signals that ask a process to stop."""

import signal
import threading
from collections.abc import Callable
from typing import Any


class Signals:
    """Receives the signals to stop while it is entered; a second one ends the process.

    ``stop`` is called at the first one, in a signal handler. So its own thread may be inside of any
    other call. Of the primitives of ``queue`` and ``threading``, only ``SimpleQueue.put()`` is safe
    then.

    Afterwards, the signals have their previous handlers again.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._is_stopping = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self.NUMBERS:
                self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *args: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _handle(self, number: int, frame: Any) -> None:
        if self._is_stopping:
            raise SystemExit(128 + number)
        self._is_stopping = True
        self._stop()
