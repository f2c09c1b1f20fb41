"""Limits of the bytes per second that the threads of a process let through together."""

import threading
import time
from collections.abc import Callable

BURST = 1.0  # seconds, whose bytes may be sent at once after a pause
SLICE = 1.0  # seconds after which a thread that waits shows that it is alive


class RateLimit:
    """Lets the threads of a process read or send so many bytes per second, all together."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def __call__(self, count: int) -> None:
        """Wait until ``count`` more bytes may be read."""
        with self._lock:
            starts_at = max(self._free_at, self._clock())
            self._free_at = starts_at + count / self.rate
        if (pause := starts_at - self._clock()) > 0:
            self._sleep(pause)

    def pay(self, count: int, on_wait: Callable[[], object]) -> None:
        """Wait until ``count`` bytes, which are about to be sent, are allowed.

        ``on_wait`` is called at least once a second. What it raises ends the wait, and the bytes
        are not sent.
        """
        seconds = count / self.rate
        with self._lock:
            self._free_at = max(self._free_at, self._clock() - BURST) + seconds
            paid_at = self._free_at
        try:
            while (pause := paid_at - self._clock()) > 0:
                self._sleep(min(pause, SLICE))
                on_wait()
        except BaseException:
            with self._lock:
                self._free_at -= seconds
            raise
