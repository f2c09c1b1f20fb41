"""Whose fault an HTTP status is, and when the server asks to come back."""

import math
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from .fault_kinds import Case, Fault, Rules, broken_off, timed_out

RETRY_AFTER_MAX = 3600.0  # seconds; a server that asks for more may have a wrong clock

_FAULTS = {
    HTTPStatus.UNAUTHORIZED: Fault.REFUSED,
    HTTPStatus.PAYMENT_REQUIRED: Fault.REFUSED,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: Fault.REFUSED,
    HTTPStatus.REQUEST_TIMEOUT: Fault.AWAY,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Fault.FILE,
    HTTPStatus.REQUEST_URI_TOO_LONG: Fault.FILE,
    HTTPStatus.TOO_MANY_REQUESTS: Fault.AWAY,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: Fault.FILE,
    HTTPStatus.NOT_IMPLEMENTED: Fault.UNCLEAR,  # a header or a method that the server doesn't know
    HTTPStatus.INSUFFICIENT_STORAGE: Fault.REFUSED,
}


class Answer(NamedTuple):
    """The server's answer, as an error carries it."""

    status: int
    headers: Mapping[str, str]  # with lowercase names


def answer_in(error: BaseException) -> Answer | None:
    """Return the HTTP answer that is the reason of an error of any library."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, Mapping):  # of botocore
        found = response.get("ResponseMetadata") or {}
        return _answer(found.get("HTTPStatusCode"), found.get("HTTPHeaders"))
    for holder in (response, error):
        for attribute in ("status_code", "status", "code"):
            if answer := _answer(getattr(holder, attribute, None), _headers_of(response, error)):
                return answer
    return None


def _answer(status: object, headers: object) -> Answer | None:
    if not isinstance(status, int) or not 300 <= status <= 599:
        return None
    items = headers.items() if hasattr(headers, "items") else ()
    return Answer(int(status), {str(name).lower(): str(value) for name, value in items})


def _headers_of(*holders: object) -> object:
    found = (getattr(holder, "headers", None) for holder in holders)
    return next((headers for headers in found if headers), None)


def fault_of_status(status: int) -> Fault:
    """Return whose fault a status is, if the server gives no code for the reason."""
    if status in _FAULTS:
        return _FAULTS[HTTPStatus(status)]
    return Fault.AWAY if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Fault.UNCLEAR


def by_status(error: BaseException, case: Case) -> Fault | None:
    answer = answer_in(error)
    return fault_of_status(answer.status) if answer else None


def retry_after(error: BaseException) -> float | None:
    """Return after how many seconds the server asks to come back; None if it does not say so."""
    answer = answer_in(error)
    given = answer.headers.get("retry-after", "").strip() if answer else ""
    if not answer or not given:
        return None
    seconds = _seconds(given)
    if seconds is None:
        seconds = _seconds_between(answer.headers.get("date", ""), given)
    return None if seconds is None else min(max(seconds, 0.0), RETRY_AFTER_MAX)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _seconds_between(sent: str, until: str) -> float | None:
    """Return the seconds between two dates of the server, whose clock may differ from ours."""
    try:
        waited: timedelta = parsedate_to_datetime(until) - parsedate_to_datetime(sent)
    except (TypeError, ValueError):
        return None
    return waited.total_seconds()


RULES: Rules = {
    "http.client.HTTPException": Fault.AWAY,
    "requests.exceptions.ChunkedEncodingError": broken_off,
    "requests.exceptions.ConnectTimeout": Fault.AWAY,
    "requests.exceptions.ConnectionError": broken_off,
    "requests.exceptions.ProxyError": Fault.AWAY,
    "requests.exceptions.RetryError": Fault.AWAY,
    "requests.exceptions.SSLError": Fault.AWAY,
    "requests.exceptions.Timeout": timed_out,
    "urllib3.exceptions.ConnectTimeoutError": Fault.AWAY,
    "urllib3.exceptions.IncompleteRead": Fault.AWAY,
    "urllib3.exceptions.ProtocolError": broken_off,
    "urllib3.exceptions.ProxyError": Fault.AWAY,
    "urllib3.exceptions.SSLError": Fault.AWAY,
    "urllib3.exceptions.TimeoutError": timed_out,
    "httpx.ConnectTimeout": Fault.AWAY,
    "httpx.NetworkError": Fault.AWAY,
    "httpx.ProxyError": Fault.AWAY,
    "httpx.RemoteProtocolError": Fault.AWAY,
    "httpx.TimeoutException": timed_out,
    "aiohttp.client_exceptions.ClientConnectorError": Fault.AWAY,
    "aiohttp.client_exceptions.ClientOSError": Fault.AWAY,
    "aiohttp.client_exceptions.ClientPayloadError": Fault.AWAY,
    "aiohttp.client_exceptions.ServerDisconnectedError": Fault.AWAY,
}
