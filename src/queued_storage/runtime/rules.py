"""What the values of settings must be."""

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .quantities import bytes_in, seconds_in

HOST_MAX_LENGTH = 255  # of the ledger's column
DEPLOYMENT_MAX_LENGTH = 64  # two of them are in one column of the ledger


class Rule(NamedTuple):
    """What a value must be: in words, as in "LEASE must be …", and as a test."""

    expected: str
    allows: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any, number_in: Callable[[Any], float]) -> bool:
    try:
        return (isinstance(value, str) or _is_number(value)) and 0 < number_in(value) < math.inf
    except ValueError:
        return False


def _is_string(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_host(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= HOST_MAX_LENGTH


def _is_deployment(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= DEPLOYMENT_MAX_LENGTH


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_urls(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(host, str) for host in value):
        return False
    return all(re.match(r"https?://[^/]+.*/$", str(url)) for url in value.values())


def _is_callable(value: Any) -> bool:
    return callable(value) or (isinstance(value, str) and "." in value)


def _is_sendfile(value: Any) -> bool:
    if not isinstance(value, Mapping) or not set(value) <= {"HEADER", "ROOT"}:
        return False
    header, root = value.get("HEADER"), value.get("ROOT")
    if header == "X-Sendfile":
        return root is None
    is_location = isinstance(root, str) and re.fullmatch(r"/(?:[!-~]*/)?", root)
    return header == "X-Accel-Redirect" and bool(is_location)


def _is_read_cache(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"LOCATION", "MAX_BYTES"}:
        return False
    return os.path.isabs(str(value["LOCATION"])) and _is_count(value["MAX_BYTES"])


def one_of(choices: tuple[str, ...]) -> Rule:
    """One of a few texts."""
    return Rule("one of " + ", ".join(map(repr, choices)), lambda value: value in choices)


def or_none(rule: Rule) -> Rule:
    """None, or what another rule allows."""
    return Rule(f"None or {rule.expected}", lambda value: value is None or rule.allows(value))


SECONDS = Rule(
    "a positive number of seconds", lambda value: _is_number(value) and 0 < value < math.inf
)
SECONDS_OR_ZERO = Rule(
    "0 or a positive number of seconds",
    lambda value: _is_number(value) and 0 <= value < math.inf,
)
DURATION = Rule(
    "a positive number of seconds, or a text such as '90s', '15m' or '2h'",
    lambda value: _is_positive(value, seconds_in),
)
RATE = Rule(
    "a positive number of bytes per second, or a text such as '500K' or '10M'",
    lambda value: _is_positive(value, bytes_in),
)
COUNT = Rule("a non-negative integer", _is_count)
STRING = Rule("a non-empty string", _is_string)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
BACKEND = Rule("a dotted path, a dictionary with 'BACKEND', a class, or an instance", bool)
CALLABLE = Rule("a callable or its dotted path", _is_callable)
HOST = Rule(f"a string of 1 to {HOST_MAX_LENGTH} characters", _is_host)
DEPLOYMENT = Rule(f"a string of 1 to {DEPLOYMENT_MAX_LENGTH} characters", _is_deployment)
URLS = Rule(
    "a dictionary that maps each host name to an http or https URL that ends with '/'", _are_urls
)
SENDFILE = Rule(
    "a dictionary: {'HEADER': 'X-Sendfile'}, or {'HEADER': 'X-Accel-Redirect', 'ROOT': '/…/'} with "
    "the path of an internal location that starts and ends with '/'",
    _is_sendfile,
)
READ_CACHE = Rule(
    "a dictionary with 'LOCATION', an absolute path, and 'MAX_BYTES', a non-negative integer",
    _is_read_cache,
)
