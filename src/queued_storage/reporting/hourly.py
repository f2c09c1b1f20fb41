"""Logs what happens to many files for one reason once an hour."""

import time
from collections.abc import Hashable

EVERY = 3600.0  # seconds
KEYS_MAX = 1000  # reasons that are remembered; then all are logged anew


class Hourly:
    """Counts by a key, and says when to log the count."""

    def __init__(self) -> None:
        self._logged_at: dict[Hashable, float] = {}
        self._silent: dict[Hashable, int] = {}

    def count(self, key: Hashable) -> int | None:
        """Count one more; return None if it was logged less than an hour ago.

        Otherwise return how many were counted since, without this one.
        """
        now = time.monotonic()
        if now - self._logged_at.get(key, now - EVERY) < EVERY:
            self._silent[key] = self._silent.get(key, 0) + 1
            return None
        if len(self._logged_at) >= KEYS_MAX:
            self.forget()
        self._logged_at[key] = now
        return self._silent.pop(key, 0)

    def forget(self) -> None:
        """Log the next one at once."""
        self._logged_at.clear()
        self._silent.clear()
