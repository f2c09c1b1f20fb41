"""The settings: one dict, ``QUEUED_STORAGE``, read when it is needed."""

import difflib
import math
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

VERIFY_LEVELS = ("size", "checksum", "content")
OTHER_HOST_WAYS = ("error", "wait", "fetch")
HOST_MAX_LENGTH = 255  # as the ledger's column


def _positive(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if is_number and 0 < value < math.inf else "a number of seconds above 0"


def _pause(value: Any) -> str:
    is_zero = value == 0 and isinstance(value, int | float) and not isinstance(value, bool)
    return "" if is_zero else _positive(value) and "0 or seconds above it"


def _count(value: Any) -> str:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return "" if is_count else "a whole number, 0 or more"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a text that is not empty"


def _text_or_none(value: Any) -> str:
    return "" if value is None else _text(value) and "a text that is not empty, or None"


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def problem(value: Any) -> str:
        return "" if value in choices else "one of " + ", ".join(map(repr, choices))

    return problem


def _host(value: Any) -> str:
    if value is None or (isinstance(value, str) and 0 < len(value) <= HOST_MAX_LENGTH):
        return ""
    return f"a text of 1 to {HOST_MAX_LENGTH} characters, or None"


def _urls(value: Any) -> str:
    is_dict = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if is_dict and all(re.match(r"https?://[^/]+.*/$", str(url)) for url in value.values()):
        return ""
    return "a dict of host names, each with the http or https address, ending in '/', of its URLs"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "True or False"


def _sendfile(value: Any) -> str:
    if value is None:
        return ""
    is_dict = isinstance(value, Mapping) and set(value) <= {"HEADER", "ROOT"}
    header, root = (value.get("HEADER"), value.get("ROOT")) if is_dict else (None, None)
    if header == "X-Sendfile" and root is None:
        return ""
    is_place = isinstance(root, str) and re.fullmatch(r"/(?:[!-~]*/)?", root)
    if header == "X-Accel-Redirect" and is_place:
        return ""
    return (
        "None, {'HEADER': 'X-Sendfile'}, or {'HEADER': 'X-Accel-Redirect', 'ROOT': …} with the "
        "path of an internal location, from '/' to '/'"
    )


def _callable(value: Any) -> str:
    is_path = isinstance(value, str) and "." in value
    return "" if value is None or is_path or callable(value) else "a dotted path, or None"


def _read_cache(value: Any) -> str:
    if value is None:
        return ""
    is_dict = isinstance(value, Mapping) and set(value) == {"LOCATION", "MAX_BYTES"}
    if is_dict and os.path.isabs(str(value["LOCATION"])) and not _count(value["MAX_BYTES"]):
        return ""
    return "None, or a dict with LOCATION, an absolute path, and MAX_BYTES, a whole number"


def _anything(value: Any) -> str:
    return "" if value else "a dotted path, a dict with BACKEND, a class or an object"


@dataclass(frozen=True)
class Option:
    """One key of the dict: its default, its rule, and the ancestor's flat names for it."""

    default: Any
    problem: Callable[[Any], str]  # what it should be, or "" if it is that
    flat_names: tuple[str, ...] = ()


OPTIONS: dict[str, Option] = {
    "QUEUE": Option("queued_storage.queues.threads.ThreadQueue", _anything),
    "RETRIES": Option(5, _count, ("QUEUED_STORAGE_RETRIES",)),
    "RETRY_DELAY": Option(60, _pause, ("QUEUED_STORAGE_RETRY_DELAY",)),
    "RETRY_MAX_DELAY": Option(3600, _positive),
    "LEASE": Option(60, _positive),
    "STALL_TIMEOUT": Option(600, _positive),
    "VERIFY": Option("checksum", _one_of(VERIFY_LEVELS)),
    "FSYNC": Option(False, _flag),
    "CACHE": Option("default", _text_or_none),
    "CACHE_PREFIX": Option(
        "queued_storage",
        _text,
        ("QUEUED_STORAGE_CACHE_PREFIX", "QUEUED_STORAGE_CACHE_KEY"),
    ),
    "CACHE_TIMEOUT": Option(3600, _positive),
    "DATABASE": Option(None, _text_or_none),
    "LOCAL_PER_HOST": Option(False, _flag),
    "HOST": Option(None, _host),
    "OTHER_HOST": Option("error", _one_of(OTHER_HOST_WAYS)),
    "OTHER_HOST_TIMEOUT": Option(10, _positive),
    "HOST_URLS": Option({}, _urls),
    "URL_MAX_AGE": Option(3600, _positive),
    "PERMISSION": Option(None, _callable),
    "SENDFILE": Option(None, _sendfile),
    "READ_CACHE": Option(None, _read_cache),
}


class Settings:
    """The values in force: the dict's, else the flat setting's of the ancestor, else the default.

    ``ImproperlyConfigured`` is raised on the first access if a key is unknown or a value is not
    what its rule asks for. Times are in seconds.
    """

    values: Mapping[str, Any]  # read at the first access after a change

    def __init__(self) -> None:
        self._changes = 0

    def reset(self) -> None:
        self._changes += 1
        vars(self).pop("values", None)

    def _read_and_keep(self) -> Mapping[str, Any]:
        """Read the values; again if they changed meanwhile, since a thread of an earlier test
        would otherwise keep that test's values for all later ones."""
        while True:
            changes = self._changes
            self.values = values = _read()
            if changes == self._changes:
                return values

    def __getattr__(self, name: str) -> Any:
        """Return ``values``, or a setting by its flat name, as code for 0.8 does."""
        if name == "values":
            return self._read_and_keep()
        for key, option in OPTIONS.items():
            if name in option.flat_names:
                return self.values[key]
        raise AttributeError(name)

    def given(self, key: str) -> bool:
        """Whether the project sets ``key`` itself."""
        return key in getattr(django_settings, "QUEUED_STORAGE", {})

    @property
    def queue(self) -> Any:
        return self.values["QUEUE"]

    @property
    def retries(self) -> int:
        return int(self.values["RETRIES"])

    @property
    def retry_delay(self) -> float:
        return float(self.values["RETRY_DELAY"])

    @property
    def retry_max_delay(self) -> float:
        return float(self.values["RETRY_MAX_DELAY"])

    @property
    def lease(self) -> float:
        return float(self.values["LEASE"])

    @property
    def stall_timeout(self) -> float:
        return float(self.values["STALL_TIMEOUT"])

    @property
    def verify(self) -> str:
        return str(self.values["VERIFY"])

    @property
    def fsync(self) -> bool:
        return bool(self.values["FSYNC"])

    @property
    def cache(self) -> str | None:
        alias: str | None = self.values["CACHE"]
        return alias

    @property
    def cache_prefix(self) -> str:
        return str(self.values["CACHE_PREFIX"])

    @property
    def cache_timeout(self) -> float:
        return float(self.values["CACHE_TIMEOUT"])

    @property
    def database(self) -> str | None:
        alias: str | None = self.values["DATABASE"]
        return alias

    @property
    def local_per_host(self) -> bool:
        return bool(self.values["LOCAL_PER_HOST"])

    @property
    def host(self) -> str:
        """The name of this host."""
        return str(self.values["HOST"] or socket.gethostname())

    @property
    def other_host(self) -> str:
        return str(self.values["OTHER_HOST"])

    @property
    def other_host_timeout(self) -> float:
        return float(self.values["OTHER_HOST_TIMEOUT"])

    @property
    def host_urls(self) -> Mapping[str, str]:
        urls: Mapping[str, str] = self.values["HOST_URLS"]
        return urls

    @property
    def url_max_age(self) -> float:
        return float(self.values["URL_MAX_AGE"])

    @property
    def permission(self) -> Any:
        return self.values["PERMISSION"]

    @property
    def sendfile(self) -> Mapping[str, str] | None:
        way: Mapping[str, str] | None = self.values["SENDFILE"]
        return way

    @property
    def read_cache(self) -> Mapping[str, Any] | None:
        place: Mapping[str, Any] | None = self.values["READ_CACHE"]
        return place


def _read() -> dict[str, Any]:
    given = getattr(django_settings, "QUEUED_STORAGE", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured("QUEUED_STORAGE must be a dict.")
    for key in given:
        if key not in OPTIONS:
            raise ImproperlyConfigured(f"QUEUED_STORAGE has an unknown key {key!r}. {_hint(key)}")
    values = {}
    for key, option in OPTIONS.items():
        name, values[key] = _name_and_value(key, option, given)
        if expected := option.problem(values[key]):
            raise ImproperlyConfigured(f"{name} is {values[key]!r}; it must be {expected}.")
    return values


def _name_and_value(key: str, option: Option, given: Mapping[str, Any]) -> tuple[str, Any]:
    name = f"QUEUED_STORAGE[{key!r}]"
    if key in given:
        return name, given[key]
    for flat_name in option.flat_names:
        if hasattr(django_settings, flat_name):
            return flat_name, getattr(django_settings, flat_name)
    return name, option.default


def _hint(key: object) -> str:
    nearest = difflib.get_close_matches(str(key).upper(), OPTIONS, n=1, cutoff=0)[0]
    return f"Did you mean {nearest!r}?"


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith("QUEUED_STORAGE"):
        settings.reset()


settings = Settings()
setting_changed.connect(_on_setting_changed)
