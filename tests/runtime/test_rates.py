"""Rates on a clock that only sleeping moves on."""

import threading
import time

import pytest

from queued_storage.runtime.rates import BURST, SLICE, RateLimit

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def limit_on(clock: Clock, rate: float = 10) -> RateLimit:
    return RateLimit(rate, clock=clock, sleep=clock.sleep)


def test_rate_limit_delays_what_is_too_fast() -> None:
    now, slept = [100.0], []
    limit = RateLimit(10, clock=lambda: now[0], sleep=slept.append)
    limit(50)  # may be read at once
    limit(20)
    limit(1)
    now[0] += 60
    limit(1)
    assert slept == [5.0, 7.0]


def test_bytes_are_paid_before_they_are_sent() -> None:
    clock = Clock()
    limit = limit_on(clock)
    clock.now += 1000  # a pause allows no more than a burst
    waits: list[float] = []
    limit.pay(50, lambda: waits.append(clock.now))
    assert clock.now == 1100 + 5 - BURST
    assert max(clock.slept) <= SLICE
    assert len(waits) == len(clock.slept)


def test_a_burst_is_sent_at_once() -> None:
    clock = Clock()
    limit = limit_on(clock)
    clock.now += 5
    for _number in range(10):
        limit.pay(1, lambda: None)
    assert clock.slept == []
    limit.pay(1, lambda: None)
    assert clock.slept == [pytest.approx(0.1)]


def test_bytes_of_a_wait_that_ended_are_not_paid() -> None:
    clock = Clock()
    limit = limit_on(clock)

    def lose() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        limit.pay(10_000, lose)
    before = clock.now
    limit.pay(10, lambda: None)
    assert clock.now - before <= 1


def test_threads_share_the_rate() -> None:
    paid: list[int] = []
    limit = RateLimit(4000)

    def pay() -> None:
        for _number in range(10):
            limit.pay(100, lambda: None)
            paid.append(100)

    threads = [threading.Thread(target=pay) for _number in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Twice as many as a second allows, of which a burst is free
    assert sum(paid) == 8000
    assert time.monotonic() - started >= 8000 / 4000 - BURST
