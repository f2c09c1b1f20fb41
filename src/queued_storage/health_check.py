"""The check for django-health-check."""

import dataclasses
import datetime

from .exceptions import MissingLibrary
from .health import TIMEOUT, Limits, check

try:
    from health_check.base import HealthCheck
    from health_check.exceptions import ServiceUnavailable, ServiceWarning
except ImportError as error:
    raise MissingLibrary("django-health-check", "health-check", "This check") from error


@dataclasses.dataclass
class QueuedFiles(HealthCheck):
    """The result of ``queued_storage.health.check()``; its limits are the arguments."""

    max_age: float | None = None
    max_overdue: float | None = None
    max_failed: int | None = None
    max_held: int | None = None
    max_stalled: int | None = None
    max_pending: int | None = None
    max_pending_bytes: int | None = None
    max_away: float | None = None
    max_full: float | None = None
    timeout: datetime.timedelta = dataclasses.field(
        default=datetime.timedelta(seconds=TIMEOUT), repr=False
    )

    def run(self) -> None:
        names = (field.name for field in dataclasses.fields(Limits))
        limits = Limits(**{name: getattr(self, name) for name in names})
        health = check(limits, self.timeout.total_seconds())
        if health.is_well:
            return
        kind = ServiceWarning if health.is_reachable else ServiceUnavailable
        raise kind(" ".join(health.problems))
