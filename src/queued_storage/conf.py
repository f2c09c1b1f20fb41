"""The setting ``QUEUED_STORAGE``, which is read when it is first used."""

import difflib
import socket
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .runtime.forks import ForkSafeLock
from .runtime.quantities import bytes_in, seconds_in
from .runtime.rules import (
    BACKEND,
    CALLABLE,
    COUNT,
    DEPLOYMENT,
    DURATION,
    FLAG,
    HOST,
    RATE,
    READ_CACHE,
    SECONDS,
    SECONDS_OR_ZERO,
    SENDFILE,
    STRING,
    URLS,
    Rule,
    one_of,
    or_none,
)

VERIFY_LEVELS = ("size", "checksum", "content")
OTHER_HOST_WAYS = ("error", "wait", "fetch")


class Option(NamedTuple):
    """One key of the setting: its default, its rule, and its flat names in earlier versions."""

    default: Any
    rule: Rule
    flat_names: tuple[str, ...] = ()


OPTIONS: dict[str, Option] = {
    "QUEUE": Option("queued_storage.queues.threads.ThreadQueue", BACKEND),
    "RETRIES": Option(5, COUNT, ("QUEUED_STORAGE_RETRIES",)),
    "RETRY_DELAY": Option(60, SECONDS_OR_ZERO, ("QUEUED_STORAGE_RETRY_DELAY",)),
    "RETRY_MAX_DELAY": Option(3600, SECONDS),
    "LEASE": Option(60, SECONDS),
    "STALL_TIMEOUT": Option(600, SECONDS),
    "VERIFY": Option("checksum", one_of(VERIFY_LEVELS)),
    "FSYNC": Option(False, FLAG),
    "CACHE": Option("default", or_none(STRING)),
    "CACHE_PREFIX": Option(
        "queued_storage",
        STRING,
        ("QUEUED_STORAGE_CACHE_PREFIX", "QUEUED_STORAGE_CACHE_KEY"),
    ),
    "CACHE_TIMEOUT": Option(3600, SECONDS),
    "DATABASE": Option(None, or_none(STRING)),
    "LOCAL_PER_HOST": Option(False, FLAG),
    "HOST": Option(None, or_none(HOST)),
    "OTHER_HOST": Option("error", one_of(OTHER_HOST_WAYS)),
    "OTHER_HOST_TIMEOUT": Option(10, SECONDS),
    "HOST_URLS": Option({}, URLS),
    "PROBE_EVERY": Option(30, SECONDS),
    "MAX_WAIT": Option(3600, DURATION),
    "MAX_RATE": Option(None, or_none(RATE)),
    "DEPLOYMENT": Option(None, or_none(DEPLOYMENT)),
    "URL_MAX_AGE": Option(3600, SECONDS),
    "PERMISSION": Option(None, or_none(CALLABLE)),
    "SENDFILE": Option(None, or_none(SENDFILE)),
    "READ_CACHE": Option(None, or_none(READ_CACHE)),
}


Value = TypeVar("Value")


class setting(Generic[Value]):  # a decorator, as cached_property is
    """A property that is computed on its first access, and again after a change of the setting."""

    def __init__(self, compute: Callable[["Settings"], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: "Settings", owner: type | None = None) -> Value:
        while True:
            changes = instance.changes
            value = self._compute(instance)
            # Otherwise a thread of an earlier test could keep that test's value for all later ones.
            if instance.keep(self._name, value, changes):
                return value


class Settings:
    """The values of the setting ``QUEUED_STORAGE``, one attribute per key.

    A key that isn't set has the value of its flat name in earlier versions, or its default. An
    unknown key or an invalid value raises ``ImproperlyConfigured`` on the first access.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._kept: set[str] = set()
        self._lock = ForkSafeLock()

    def keep(self, name: str, value: object, changes: int) -> bool:
        """Keep a value as a plain attribute, unless there were more changes since it was read."""
        with self._lock:
            if is_current := changes == self.changes:
                vars(self)[name] = value
                self._kept.add(name)
            return is_current

    def reset(self) -> None:
        """Read the setting again on the next access."""
        with self._lock:
            self.changes += 1
            while self._kept:
                vars(self).pop(self._kept.pop(), None)

    @setting
    def values(self) -> Mapping[str, Any]:
        """All values by their keys."""
        return _read()

    def __getattr__(self, name: str) -> Any:
        """Return a flat name, which version 0.8 had as an attribute."""
        for key, option in OPTIONS.items():
            if name in option.flat_names:
                return self.values[key]
        raise AttributeError(name)

    def given(self, key: str) -> bool:
        """Whether the project sets ``key`` itself."""
        return key in getattr(django_settings, "QUEUED_STORAGE", {})

    @setting
    def queue(self) -> Any:
        """The queue of storages without their own: a path, a dict, a class, or an instance."""
        return self.values["QUEUE"]

    @setting
    def retries(self) -> int:
        """How often a failed transfer is retried before the file is marked as failed."""
        return int(self.values["RETRIES"])

    @setting
    def retry_delay(self) -> float:
        """Seconds before the first retry; the delay doubles with each retry."""
        return float(self.values["RETRY_DELAY"])

    @setting
    def retry_max_delay(self) -> float:
        """The maximum delay between retries, in seconds."""
        return float(self.values["RETRY_MAX_DELAY"])

    @setting
    def lease(self) -> float:
        """Seconds that a worker's lease on a file lasts if it isn't renewed."""
        return float(self.values["LEASE"])

    @setting
    def stall_timeout(self) -> float:
        """Seconds that a transfer may go without reading any bytes before it is aborted."""
        return float(self.values["STALL_TIMEOUT"])

    @setting
    def verify(self) -> str:
        """How the remote copy is verified: one of ``VERIFY_LEVELS``."""
        return str(self.values["VERIFY"])

    @setting
    def fsync(self) -> bool:
        """Whether a save waits until the local copy is flushed to disk."""
        return bool(self.values["FSYNC"])

    @setting
    def cache(self) -> str | None:
        """The alias in ``CACHES`` of the cache for transferred files; None for no cache."""
        alias: str | None = self.values["CACHE"]
        return alias

    @setting
    def cache_prefix(self) -> str:
        """The prefix of the cache keys."""
        return str(self.values["CACHE_PREFIX"])

    @setting
    def cache_timeout(self) -> float:
        """Seconds that the cache remembers a transferred file."""
        return float(self.values["CACHE_TIMEOUT"])

    @setting
    def database(self) -> str | None:
        """The alias in ``DATABASES`` of the ledger's database; None for the database routers."""
        alias: str | None = self.values["DATABASE"]
        return alias

    @setting
    def local_per_host(self) -> bool:
        """Whether each host has its own local storage."""
        return bool(self.values["LOCAL_PER_HOST"])

    @setting
    def host(self) -> str:
        """The name of this host in the ledger, by default the host name of the machine."""
        return str(self.values["HOST"] or socket.gethostname())

    @setting
    def other_host(self) -> str:
        """What reading a file does whose only copy is on another host: one of
        ``OTHER_HOST_WAYS``."""
        return str(self.values["OTHER_HOST"])

    @setting
    def other_host_timeout(self) -> float:
        """Seconds to wait for the transfer, or for each response of the other host."""
        return float(self.values["OTHER_HOST_TIMEOUT"])

    @setting
    def host_urls(self) -> Mapping[str, str]:
        """For each host name, the URL under which that host serves ``queued_storage.urls``."""
        urls: Mapping[str, str] = self.values["HOST_URLS"]
        return urls

    @setting
    def probe_every(self) -> float:
        """The maximum number of seconds between two probes of a remote that is away."""
        return float(self.values["PROBE_EVERY"])

    @setting
    def max_wait(self) -> float:
        """Seconds after which a due file goes before files of a higher priority."""
        return seconds_in(self.values["MAX_WAIT"])

    @setting
    def max_rate(self) -> float | None:
        """Bytes per second that a process uploads at most; None for no limit."""
        rate = self.values["MAX_RATE"]
        return None if rate is None else bytes_in(rate)

    @setting
    def deployment(self) -> str | None:
        """The name of this deployment, such as "production"; it tells a copy of the database from
        the original. None if there is only one."""
        name: str | None = self.values["DEPLOYMENT"]
        return name

    @setting
    def url_max_age(self) -> float:
        """Seconds that a signed URL of a local file is valid, if the remote doesn't define it."""
        return float(self.values["URL_MAX_AGE"])

    @setting
    def permission(self) -> Any:
        """A callable ``(request, queued_file) -> bool`` that authorizes each download, or its
        dotted path; None to skip the check."""
        return self.values["PERMISSION"]

    @setting
    def sendfile(self) -> Mapping[str, str] | None:
        """How the web server is told to send local files: ``HEADER`` and ``ROOT``; None to send
        them from Django."""
        way: Mapping[str, str] | None = self.values["SENDFILE"]
        return way

    @setting
    def read_cache(self) -> Mapping[str, Any] | None:
        """Where copies of remote files are kept: ``LOCATION``, a path, and ``MAX_BYTES``; None to
        keep none."""
        place: Mapping[str, Any] | None = self.values["READ_CACHE"]
        return place


def _read() -> dict[str, Any]:
    given = getattr(django_settings, "QUEUED_STORAGE", {})
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ImproperlyConfigured(f"QUEUED_STORAGE must be a dictionary, not {kind}.")
    for key in given:
        if key not in OPTIONS:
            raise ImproperlyConfigured(
                f"QUEUED_STORAGE has an unknown key {key!r}. Did you mean {_nearest(key)!r}?"
            )
    values = {}
    for key, option in OPTIONS.items():
        name, values[key] = _name_and_value(key, option, given)
        if not option.rule.allows(values[key]):
            raise ImproperlyConfigured(
                f"{name} must be {option.rule.expected}, not {values[key]!r}."
            )
    return values


def _name_and_value(key: str, option: Option, given: Mapping[str, Any]) -> tuple[str, Any]:
    """The value of a key, after the name under which the project has set it."""
    name = f"QUEUED_STORAGE[{key!r}]"
    if key in given:
        return name, given[key]
    for flat_name in option.flat_names:
        if hasattr(django_settings, flat_name):
            return flat_name, getattr(django_settings, flat_name)
    return name, option.default


def _nearest(key: object) -> str:
    return str(difflib.get_close_matches(str(key).upper(), list(OPTIONS), n=1, cutoff=0)[0])


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith("QUEUED_STORAGE"):
        settings.reset()


settings = Settings()
setting_changed.connect(_on_setting_changed)
