"""Workers that are killed while they run steps; nothing leaks, and another worker finishes."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from pytest_django import Settings

from queued_storage.exceptions import NotPublished
from queued_storage.ledger.preparations import preparations
from queued_storage.ledger.states import State
from queued_storage.queues.base import run_message
from queued_storage.testing import drain
from tests.support.failpoints import FailPoint
from tests.support.forks import ended, forks
from tests.support.scripted import file, on_disk, read, row
from tests.support.stepping import EICAR, hurry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

STEPS = ["tests.support.stepping.Cleaning", "tests.support.stepping.Scanning"]
TRIES = int(os.environ.get("QUEUED_STORAGE_TEST_LEAK_TRIES", "16"))

RUN = ["step claimed", "step run", "second step run"]
REPLACED = ["bytes written", "bytes recorded", "old bytes removed"]
PUBLISHED = ["publishing", "published", "put in its place"]
REJECTED = ["rejecting", "rejected"]
WITHDRAWN = ["rejecting", "rejected", "put away", "settled"]


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Callable[..., Any]]:
    with forks(child_environment, settings) as found:
        yield found.start


@pytest.fixture
def fail_point(tmp_path: Path) -> Callable[[str], FailPoint]:
    return lambda name: FailPoint(name, tmp_path / f"reached {random.random()}")


@pytest.fixture
def make(settings: Settings) -> Callable[[str], Any]:
    """Return a function that gives the default storage steps, and returns it."""

    def configured(publish: str) -> Any:
        default = settings.STORAGES["default"]
        options = default["OPTIONS"] | {"steps": STEPS, "publish": publish, "url_mode": "stable"}
        settings.STORAGES = settings.STORAGES | {"default": default | {"OPTIONS": options}}
        from django.core.files.storage import storages

        return storages["default"]

    return configured


def work(*pks: int) -> None:
    call_command("queued_storage", "worker", poll=0.05, threads=2)


def process_message(pk: int) -> None:
    """Do what the task of every adapter does."""
    run_message([pk])


@pytest.fixture
def kill_worker(
    fork: Callable[..., Any], fail_point: Callable[[str], FailPoint]
) -> Callable[[str], None]:
    def kill(name: str) -> None:
        assert ended(fork(work, point=fail_point(name))) == -signal.SIGKILL

    return kill


def finish(storage: Any) -> None:
    hurry(storage)
    assert drain(storage) == {}
    assert not preparations().waiting().exists()


def hidden() -> list[str]:
    return [name for name in on_disk() if ".queued-" in name]


@pytest.mark.parametrize("publish", ["at_once", "after_steps"])
@pytest.mark.parametrize("point", [*RUN, *PUBLISHED])
def test_another_worker_publishes_the_file(
    make: Callable[[str], Any], kill_worker: Callable[[str], None], point: str, publish: str
) -> None:
    if publish == "at_once" and point in ("publishing", "put in its place"):
        pytest.skip("It is published already.")
    storage = make(publish)
    name = storage.save("a.txt", file(b"good"))
    kill_worker(point)
    finish(storage)
    assert read(storage, name) == b"good"
    assert row(storage, name).state == State.TRANSFERRED
    assert on_disk() == on_disk("far") == [name]


@pytest.mark.parametrize("publish", ["at_once", "after_steps"])
@pytest.mark.parametrize("point", [*REPLACED, "bytes replaced"])
def test_another_worker_replaces_the_bytes(
    make: Callable[[str], Any], kill_worker: Callable[[str], None], point: str, publish: str
) -> None:
    if (point == "bytes replaced") != (publish == "at_once") and point != "bytes written":
        pytest.skip("of the other way to publish")
    storage = make(publish)
    name = storage.save("a.txt", file(b"dirty"))
    kill_worker(point)
    finish(storage)
    assert read(storage, name) == b"clean"
    with storage.remote.open(name) as opened:
        assert opened.read() == b"clean"
    assert name in on_disk()
    assert len(hidden()) <= 1  # what was written, but not recorded


@pytest.mark.parametrize(
    ("publish", "point"),
    [*(("after_steps", point) for point in REJECTED), *(("at_once", point) for point in WITHDRAWN)],
)
def test_another_worker_rejects_the_file(
    make: Callable[[str], Any], kill_worker: Callable[[str], None], point: str, publish: str
) -> None:
    storage = make(publish)
    name = storage.save("a.txt", file(EICAR))
    kill_worker(point)
    finish(storage)
    assert row(storage, name).state == State.REJECTED
    assert not storage.is_published(name)
    assert on_disk() == hidden()
    assert len(hidden()) == 1
    assert on_disk("far") == []
    with storage.unpublished(name) as opened:
        assert opened.read() == EICAR


@pytest.mark.parametrize("publish", ["at_once", "after_steps"])
@pytest.mark.parametrize("data", [b"good", EICAR])
@pytest.mark.parametrize("point", ["discarding", "hidden removed"])
def test_another_worker_finishes_a_delete(
    make: Callable[[str], Any],
    fork: Callable[..., Any],
    fail_point: Callable[[str], FailPoint],
    point: str,
    data: bytes,
    publish: str,
) -> None:
    storage = make(publish)
    name = storage.save("a.txt", file(data))
    if data == EICAR:
        drain(storage)
    if point == "hidden removed" and (publish, data) == ("at_once", b"good"):
        pytest.skip("Nothing is hidden.")
    assert ended(fork(delete, name, point=fail_point(point))) == -signal.SIGKILL
    finish(storage)
    assert storage.queued_file(name) is None
    assert on_disk() == []


def delete(name: str) -> None:
    from django.core.files.storage import default_storage

    default_storage.delete(name)


def save(name: str, data: bytes) -> None:
    from django.core.files.storage import default_storage

    default_storage.save(name, file(data))


def test_a_save_that_is_killed_leaves_no_file(
    make: Callable[[str], Any], fork: Callable[..., Any], fail_point: Callable[[str], FailPoint]
) -> None:
    storage = make("after_steps")
    child = fork(save, "a.txt", b"good", point=fail_point("gate recorded"))
    assert ended(child) == -signal.SIGKILL
    assert not storage.exists("a.txt")
    assert not preparations().exists()
    assert storage.save("a.txt", file(b"other")) == "a.txt"
    finish(storage)
    assert read(storage, "a.txt") == b"other"


POINTS = [*RUN, *REPLACED, *REJECTED]
WAYS = list(product(POINTS, [work, process_message]))


def test_nothing_leaks_while_workers_are_killed(
    make: Callable[[str], Any],
    fork: Callable[..., Any],
    fail_point: Callable[[str], FailPoint],
    client: Any,
) -> None:
    """QUEUED_STORAGE_TEST_LEAK_TRIES=1000 tries as often as that."""
    storage = make("after_steps")
    leaks: set[Path] = set()
    is_over = threading.Event()
    base = Path(django_settings.DIRECTORY)

    def watch() -> None:
        while not is_over.is_set():
            for side in ("disk", "far"):
                leaks.update((base / side).glob("bad*"))
            is_over.wait(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number, (point, way) in enumerate(islice(cycle(WAYS), TRIES)):
            name = storage.save(f"bad{number}.txt", file(b"dirty " + EICAR))
            urls = [storage.url(name), storage.stable_url(name, expire=600)]
            child = fork(way, row(storage, name).pk, point=fail_point(point))
            assert ended(child) == -signal.SIGKILL
            hurry(storage)
            urls += [storage.url(name), storage.stable_url(name, expire=600)]
            assert [client.get(url).status_code for url in urls] == [404] * 4
            for door in (storage.open, storage.path, storage.size):
                with pytest.raises(NotPublished):
                    door(name)
            assert not storage.is_published(name)
    finally:
        finish(storage)
        is_over.set()
        watcher.join()
    assert leaks == set()
    assert on_disk() == hidden()
    assert on_disk("far") == []
    assert preparations().stopped().count() == TRIES
