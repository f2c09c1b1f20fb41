"""How fast this process may upload, whatever the remotes are."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..conf import settings
from ..runtime.forks import ForkSafeLock, after_fork
from ..runtime.rates import RateLimit

_lock = ForkSafeLock()
_limit: RateLimit | None = None  # of the last upload
_own_rate: float | None = None  # of this process, in place of that of the settings


def _after_fork() -> None:
    global _limit
    _limit = None  # a thread of the parent may have held its lock


after_fork(_after_fork)


def upload_limit() -> RateLimit | None:
    """Return the limit that all threads of this process share; None if there is none."""
    global _limit
    rate = settings.max_rate if _own_rate is None else _own_rate
    with _lock:
        if rate is None:
            _limit = None
        elif _limit is None or _limit.rate != rate:
            _limit = RateLimit(rate)
        return _limit


@contextmanager
def limited_to(rate: float | None) -> Iterator[None]:
    """Limit the uploads of this process until the block ends; None leaves it to the settings."""
    global _own_rate
    before, _own_rate = _own_rate, rate
    try:
        yield
    finally:
        _own_rate = before
