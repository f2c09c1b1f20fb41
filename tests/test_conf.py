import socket
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pytest_django import Settings

from queued_storage import conf
from queued_storage.conf import OPTIONS, settings

pytestmark = pytest.mark.one_database

BASE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}

# Each key with a valid value that is not the default
GOOD = {
    "QUEUE": ["queued_storage.queues.immediate.ImmediateQueue", {"BACKEND": "x"}, object()],
    "RETRIES": [0, 9],
    "RETRY_DELAY": [1, 0.5, 0, 0.0],
    "RETRY_MAX_DELAY": [7, 0.1],
    "LEASE": [5, 0.25],
    "STALL_TIMEOUT": [30, 1.5],
    "VERIFY": ["size", "content"],
    "FSYNC": [True],
    "CACHE": ["other", None],
    "CACHE_PREFIX": ["mine"],
    "CACHE_TIMEOUT": [1, 2.5],
    "DATABASE": ["other"],
    "LOCAL_PER_HOST": [True],
    "HOST": ["web-1", "x" * 255],
    "OTHER_HOST": ["wait", "fetch"],
    "OTHER_HOST_TIMEOUT": [1, 2.5],
    "HOST_URLS": [{"web-1": "http://10.0.0.1:8000/queued/"}, {"a": "https://a.example/"}],
    "PROBE_EVERY": [5, 0.5],
    "MAX_WAIT": [5, 0.5],
    "MAX_RATE": [5, 0.5],
    "DEPLOYMENT": ["production"],
    "URL_MAX_AGE": [60, 0.5],
    "PERMISSION": ["site.may_have", callable],
    "SENDFILE": [
        {"HEADER": "X-Sendfile"},
        {"HEADER": "X-Accel-Redirect", "ROOT": "/protected/"},
        {"HEADER": "X-Accel-Redirect", "ROOT": "/protected/{alias}/"},
        {"HEADER": "X-Accel-Redirect", "ROOT": "/"},
    ],
    "READ_CACHE": [
        {"LOCATION": "/var/cache/files", "MAX_BYTES": 0},
        {"LOCATION": Path("/var/cache/files"), "MAX_BYTES": 10**10},
    ],
}
SECONDS = [0, -1, "60", None, True, float("nan"), float("inf")]
BAD = {
    "QUEUE": ["", None],
    "RETRIES": [-1, 1.5, "5", None, True],
    "RETRY_DELAY": [bad for bad in SECONDS if bad != 0],
    "RETRY_MAX_DELAY": SECONDS,
    "LEASE": SECONDS,
    "STALL_TIMEOUT": SECONDS,
    "VERIFY": ["sizes", "", None, 1, []],
    "FSYNC": [1, "yes", None],
    "CACHE": ["", 1],
    "CACHE_PREFIX": ["", None, 1],
    "CACHE_TIMEOUT": SECONDS,
    "DATABASE": ["", 1],
    "LOCAL_PER_HOST": [1, "yes", None],
    "HOST": ["", 1, "x" * 256],
    "OTHER_HOST": ["look", "", None],
    "OTHER_HOST_TIMEOUT": SECONDS,
    "HOST_URLS": [
        None,
        [],
        {"web-1": "web-1:8000/"},
        {"web-1": "http://web-1:8000"},
        {"web-1": "http://web-1:8000/queued"},
        {"web-1": "file:///etc/"},
        {1: "http://web-1/"},
        {"web-1": None},
    ],
    "PROBE_EVERY": SECONDS,
    "MAX_WAIT": [*SECONDS, "", "5", "0s", "inf"],
    "MAX_RATE": [0, -1, True, "", "0", "fast", float("inf")],
    "DEPLOYMENT": ["", "x" * 65, 1],
    "URL_MAX_AGE": SECONDS,
    "PERMISSION": ["", "hook", 1, True],
    "SENDFILE": [
        "X-Sendfile",
        {},
        {"HEADER": "X-Other"},
        {"HEADER": "X-Sendfile", "ROOT": "/"},
        {"HEADER": "X-Accel-Redirect"},
        {"HEADER": "X-Accel-Redirect", "ROOT": "protected/"},
        {"HEADER": "X-Accel-Redirect", "ROOT": "/protected"},
        {"HEADER": "X-Accel-Redirect", "ROOT": "/protected\r\nA: b/"},
        {"HEADER": "X-Sendfile", "OTHER": 1},
    ],
    "READ_CACHE": [
        "/var/cache/files",
        {},
        {"LOCATION": "/var/cache/files"},
        {"LOCATION": "cache", "MAX_BYTES": 1},
        {"LOCATION": None, "MAX_BYTES": 1},
        {"LOCATION": "/var/cache/files", "MAX_BYTES": -1},
        {"LOCATION": "/var/cache/files", "MAX_BYTES": "1"},
        {"LOCATION": "/var/cache/files", "MAX_BYTES": 1, "AGE": 1},
    ],
}
FLAT = {
    "QUEUED_STORAGE_RETRIES": ("RETRIES", 9, -1),
    "QUEUED_STORAGE_RETRY_DELAY": ("RETRY_DELAY", 0, "9"),
    "QUEUED_STORAGE_CACHE_PREFIX": ("CACHE_PREFIX", "flat", ""),
    "QUEUED_STORAGE_CACHE_KEY": ("CACHE_PREFIX", "flat", 9),
}


def pairs(values: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(key, value) for key in values for value in values[key]]


def read(key: str) -> Any:
    return getattr(settings, key.lower())


def default(key: str) -> Any:
    return socket.gethostname() if key == "HOST" else OPTIONS[key].default


def test_every_key_is_tested() -> None:
    assert set(GOOD) == set(BAD) == set(OPTIONS)
    assert set(FLAT) == {name for option in OPTIONS.values() for name in option.flat_names}


@pytest.mark.parametrize("key", OPTIONS)
def test_default(key: str) -> None:
    with override_settings(QUEUED_STORAGE={}):
        assert read(key) == default(key)
        assert OPTIONS[key].rule.allows(read(key))
        assert not settings.given(key)


@pytest.mark.parametrize("key", OPTIONS)
def test_default_without_the_setting(key: str, settings: Settings) -> None:
    del settings.QUEUED_STORAGE
    assert read(key) == default(key)


def test_times_and_sizes_as_texts() -> None:
    with override_settings(QUEUED_STORAGE=BASE | {"MAX_WAIT": "2h", "MAX_RATE": "10M"}):
        assert (settings.max_wait, settings.max_rate) == (7200, 10 << 20)


@pytest.mark.parametrize(("key", "value"), pairs(GOOD))
def test_valid_value(key: str, value: Any) -> None:
    assert value != OPTIONS[key].default
    with override_settings(QUEUED_STORAGE=BASE | {key: value}):
        assert read(key) == value
        assert settings.given(key)


@pytest.mark.parametrize(("key", "value"), pairs(BAD))
def test_invalid_value_raises_with_the_rule(key: str, value: Any) -> None:
    with (
        override_settings(QUEUED_STORAGE=BASE | {key: value}),
        pytest.raises(ImproperlyConfigured, match=rf"QUEUED_STORAGE\['{key}'\] must be .*, not "),
    ):
        read(key)


def test_any_access_reports_an_invalid_value() -> None:
    with (
        override_settings(QUEUED_STORAGE={"LEASE": -1}),
        pytest.raises(ImproperlyConfigured, match="LEASE"),
    ):
        _ = settings.retries


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("RETRY", "RETRIES"),
        ("LEASES", "LEASE"),
        ("retries", "RETRIES"),
        ("RETRYDELAY", "RETRY_DELAY"),
        ("MAX_RETRY_DELAY", "RETRY_DELAY"),
        ("CACHE_KEY", "CACHE"),
        ("VERIFICATION", "VERIFY"),
        ("QUEUES", "QUEUE"),
    ],
)
def test_unknown_key_suggests_the_nearest(key: str, nearest: str) -> None:
    with (
        override_settings(QUEUED_STORAGE={key: 1}),
        pytest.raises(ImproperlyConfigured, match=f"unknown key '{key}'. Did you mean '{nearest}'"),
    ):
        _ = settings.retries


@pytest.mark.parametrize("key", ["", 5, None, "%%%"])
def test_unusual_unknown_keys(key: Any) -> None:
    with (
        override_settings(QUEUED_STORAGE={key: 1}),
        pytest.raises(ImproperlyConfigured, match="unknown key"),
    ):
        _ = settings.retries


@pytest.mark.parametrize("value", [None, [], "threads", 1])
def test_setting_must_be_a_dictionary(value: Any) -> None:
    with (
        override_settings(QUEUED_STORAGE=value),
        pytest.raises(ImproperlyConfigured, match="QUEUED_STORAGE must be a dictionary, not "),
    ):
        _ = settings.retries


def test_override_settings() -> None:
    before = settings.retries
    with override_settings(QUEUED_STORAGE=BASE | {"RETRIES": before + 1}):
        assert settings.retries == before + 1
        with override_settings(QUEUED_STORAGE=BASE | {"RETRIES": before + 2}):
            assert settings.retries == before + 2
        assert settings.retries == before + 1
    assert settings.retries == before


def test_values_are_read_once() -> None:
    with override_settings(QUEUED_STORAGE=BASE):
        assert settings.values is settings.values


@pytest.mark.parametrize("name", FLAT)
def test_flat_name(name: str) -> None:
    key, value, _bad = FLAT[name]
    with override_settings(**{"QUEUED_STORAGE": BASE, name: value}):
        assert read(key) == value
    with override_settings(QUEUED_STORAGE=BASE):
        assert read(key) == default(key)


@pytest.mark.parametrize("name", FLAT)
def test_dictionary_takes_precedence_over_a_flat_name(name: str) -> None:
    key, value, _bad = FLAT[name]
    other = GOOD[key][0]
    with override_settings(**{"QUEUED_STORAGE": BASE | {key: other}, name: value}):
        assert read(key) == other


@pytest.mark.parametrize("name", FLAT)
def test_invalid_value_of_a_flat_name(name: str) -> None:
    _key, _good, bad = FLAT[name]
    with (
        override_settings(**{"QUEUED_STORAGE": BASE, name: bad}),
        pytest.raises(ImproperlyConfigured, match=f"^{name} must be .*, not {bad!r}\\.$"),
    ):
        _ = settings.retries


def test_cache_prefix_takes_precedence_over_cache_key(settings: Settings) -> None:
    settings.QUEUED_STORAGE_CACHE_KEY = "old"
    settings.QUEUED_STORAGE_CACHE_PREFIX = "newer"
    assert read("CACHE_PREFIX") == "newer"


def test_flat_names_are_attributes() -> None:
    with override_settings(QUEUED_STORAGE={"RETRIES": 2}, QUEUED_STORAGE_RETRY_DELAY=7):
        assert settings.QUEUED_STORAGE_RETRIES == 2
        assert settings.QUEUED_STORAGE_RETRY_DELAY == 7
        assert settings.QUEUED_STORAGE_CACHE_PREFIX == "queued_storage"
        assert not hasattr(settings, "QUEUED_STORAGE_LEASE")


def test_change_during_a_read_takes_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that read settings may outlive the test that changed them."""
    override = override_settings(QUEUED_STORAGE=BASE | {"LEASE": 5})
    override.enable()
    read_all = conf._read

    def read_slowly() -> dict[str, Any]:
        monkeypatch.undo()
        values = read_all()
        override.disable()
        return values

    monkeypatch.setattr(conf, "_read", read_slowly)
    _ = settings.lease
    assert settings.lease == 60
