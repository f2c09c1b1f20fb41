"""Says for how long what has failed is left alone."""

import random

from ..conf import settings

OPERATOR_DELAY = 3600.0  # seconds until a file that waits for an operator is looked at again


def backoff(attempts: int) -> float:
    """Return the seconds until the next attempt; they double each time, plus or minus 20%."""
    step = settings.retry_delay * 2.0 ** min(max(attempts - 1, 0), 30)
    return min(step, settings.retry_max_delay) * random.uniform(0.8, 1.2)
