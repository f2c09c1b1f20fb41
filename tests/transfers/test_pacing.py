"""How fast a process uploads, whatever library sends the bytes."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.ledger.states import State
from queued_storage.runtime.rates import BURST, RateLimit
from queued_storage.transfers import pacing
from queued_storage.transfers.executor import Executor
from queued_storage.uploaders.s3 import small
from tests.support.command import run
from tests.support.scripted import file, make, on_disk, row
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

LARGE = 9 << 20  # bytes; more than one part on S3


class Counting(RateLimit):
    """A limit on a clock that moves on only while threads wait."""

    def __init__(self, rate: float) -> None:
        self.now = 0.0
        self.paid = 0
        super().__init__(rate, clock=lambda: self.now, sleep=self._wait)

    def _wait(self, seconds: float) -> None:
        self.now += seconds

    def pay(self, count: int, on_wait: Callable[[], object]) -> None:
        super().pay(count, on_wait)
        self.paid += count


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting(1 << 20)
    monkeypatch.setattr("queued_storage.transfers.proxies.upload_limit", lambda: found)
    return found


def require_paid(limit: Counting, size: int, at_most: int) -> None:
    assert size <= limit.paid <= at_most
    assert limit.now >= limit.paid / limit.rate - BURST


def test_any_storage_is_limited(limit: Counting) -> None:
    storage = make()
    storage.save("a.txt", file(b"x" * LARGE))
    assert storage.queue.deliver() == {}
    require_paid(limit, LARGE, LARGE)


@pytest.mark.parametrize("threads", [True, False])
def test_large_files_on_s3_are_limited(
    limit: Counting, s3_options: dict[str, Any], threads: bool
) -> None:
    """boto3 reads a local file by itself, from its path, unless it is limited."""
    storage = make(remote=S3Storage(**s3_options))
    storage.remote.transfer_config.use_threads = threads
    name = storage.save("a.bin", file(b"x" * LARGE))
    assert storage.queue.deliver() == {}
    assert row(storage, name).verified in {"checksum", "size"}
    require_paid(limit, LARGE, LARGE + small.LIMIT + 1)  # it is read to see whether it is small


def test_small_files_on_s3_are_limited(limit: Counting, s3_options: dict[str, Any]) -> None:
    """boto3 sends the first one, and obstore the others, from memory."""
    storage = make(remote=S3Storage(**s3_options))
    for _number in range(3):
        storage.save("a.txt", file(b"x" * 300_000))
    assert storage.queue.deliver() == {}
    require_paid(limit, 900_000, 900_000)


def test_bytes_are_not_sent_before_they_are_paid(
    limit: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(count: int, on_wait: object) -> None:
        raise TimeoutError("not paid")

    monkeypatch.setattr(limit, "pay", refuse)
    storage = make()
    name = storage.save("a.txt", file(b"secret"))
    assert [str(error) for error in storage.queue.deliver().values()] == ["not paid"]
    assert row(storage, name).state == State.PENDING
    assert storage.remote.size(name) == 0  # the file is created before its first byte is read


def test_the_rate_is_that_of_the_setting_or_of_the_worker(settings: Settings) -> None:
    assert pacing.upload_limit() is None
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"MAX_RATE": "1M"}
    shared = pacing.upload_limit()
    assert shared is not None
    assert shared.rate == 1 << 20
    assert pacing.upload_limit() is shared
    with pacing.limited_to(5):
        own = pacing.upload_limit()
        assert own is not None
        assert own.rate == 5
    with pacing.limited_to(None):
        again = pacing.upload_limit()
        assert again is not None
        assert again.rate == 1 << 20


def test_worker_keeps_leases_while_it_waits(settings: Settings) -> None:
    """The upload takes longer than a lease, and than the time after which it would be a stall."""
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LEASE": 1, "STALL_TIMEOUT": 2}
    storage = make()
    names = [storage.save(f"{number}.txt", file(b"x" * 150_000)) for number in range(2)]
    started = time.monotonic()
    run("worker", "--until-empty", "--poll", "0.05", "--max-rate", "50K")
    assert time.monotonic() - started >= 300_000 / 51_200 - BURST
    for name in names:
        found = row(storage, name)
        assert (found.state, found.attempts) == (State.TRANSFERRED, 1)
    assert pacing.upload_limit() is None


def test_stopped_threads_do_not_wait_for_the_rate() -> None:
    storage = make()
    name = storage.save("a.txt", file(b"x" * 1_000_000))
    with pacing.limited_to(1000):
        executor = Executor(1, 0.05, lambda: [storage.alias])
        executor.start()
        until(lambda: on_disk("far"))
        assert not executor.stop(0.5)
        executor.let_go()
        assert executor.stop(30)
    found = row(storage, name)
    assert (found.state, found.attempts) == (State.PENDING, 0)
    assert storage.remote.size(name) == 0  # the file is created before its first byte is read
