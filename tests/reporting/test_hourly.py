import pytest

from queued_storage.reporting import hourly
from queued_storage.reporting.hourly import EVERY, Hourly


class Clock:
    now = 5.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hourly, "time", clock)
    return clock


def test_each_key_is_logged_once_an_hour(clock: Clock) -> None:
    counts = Hourly()
    assert [counts.count("a"), counts.count("a"), counts.count("b")] == [0, None, 0]
    clock.now += EVERY - 1
    assert counts.count("a") is None
    clock.now += 1
    assert [counts.count("a"), counts.count("b")] == [2, 0]
    assert counts.count("a") is None


def test_few_keys_are_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hourly, "KEYS_MAX", 2)
    counts = Hourly()
    for key in "abc":
        assert counts.count(key) == 0
    assert [counts.count("c"), counts.count("a")] == [None, 0]
