"""Whose fault the errors of Google's libraries are."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from .fault_kinds import Case, Fault, Rules, timed_out
from .faults_http import by_status

# The most common reasons of a 403 are "forbidden" and "insufficientPermissions", which may be about
# one object.
REASONS = {
    "rateLimitExceeded": Fault.AWAY,
    "userRateLimitExceeded": Fault.AWAY,
    "accountDisabled": Fault.REFUSED,
    "billingNotEnabled": Fault.REFUSED,
    "countryBlocked": Fault.REFUSED,
    "quotaExceeded": Fault.REFUSED,
    "userProjectAccountProblem": Fault.REFUSED,
    "uploadTooLarge": Fault.FILE,
}


def _by_reason(error: Any, case: Case) -> Fault | None:
    found = (REASONS[reason] for reason in _reasons(error) if reason in REASONS)
    return next(found, None) or by_status(error, case)


def _reasons(error: Any) -> Iterator[str]:
    """Yield the reasons in an answer. An error of an upload has them in the response only."""
    details = list(getattr(error, "errors", ()))
    with suppress(Exception):  # the response has another form
        details += error.response.json()["error"]["errors"]
    for detail in details:
        if isinstance(detail, Mapping):
            yield str(detail.get("reason", ""))


def _by_refresh(error: Any, case: Case) -> Fault:
    return Fault.AWAY if getattr(error, "retryable", False) else Fault.REFUSED


RULES: Rules = {
    "google.api_core.exceptions.GoogleAPICallError": _by_reason,
    "google.api_core.exceptions.TransferStalledError": timed_out,
    "google.auth.exceptions.DefaultCredentialsError": Fault.REFUSED,
    "google.auth.exceptions.RefreshError": _by_refresh,
    "google.auth.exceptions.ResponseError": Fault.AWAY,
    "google.auth.exceptions.TimeoutError": Fault.AWAY,
    "google.auth.exceptions.TransportError": Fault.AWAY,
    "google.resumable_media.common.InvalidResponse": _by_reason,
    "google.cloud.storage.exceptions.InvalidResponse": _by_reason,
}
