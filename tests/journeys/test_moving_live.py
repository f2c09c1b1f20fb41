"""A site that is moved between two real S3 servers, and back, while it is in use.

QUEUED_STORAGE_TEST_MOVED_FILES is the number of small files, QUEUED_STORAGE_TEST_MOVED_LARGE that
of large files, and QUEUED_STORAGE_TEST_MOVED_MEGABYTES the size of each of these.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.transfers.surplus import dispose_due
from tests.support import live as sites
from tests.support.failpoints import FailPoint
from tests.support.forks import Forks, ended
from tests.support.live import content_of, differing, fill, keys, large_pieces, run, write
from tests.support.scripted import LONG_AGO
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

FILES = int(os.environ.get("QUEUED_STORAGE_TEST_MOVED_FILES", "60"))
LARGE = int(os.environ.get("QUEUED_STORAGE_TEST_MOVED_LARGE", "0"))
MEGABYTES = int(os.environ.get("QUEUED_STORAGE_TEST_MOVED_MEGABYTES", "1024"))
PATIENCE = 120 + FILES / 20 + LARGE * MEGABYTES / 16
RETRIES = 50
SITES = 8 if FILES > 1000 else 2  # processes that use the files
SECONDS = 2 + FILES / 400  # between two events
LIFE = 1 + FILES / 5000  # of a mover, about
OFF = 1 + FILES / 10_000  # seconds in which a server is off


@pytest.fixture
def servers(two_servers: list[S3Server]) -> dict[str, S3Server]:
    old, new = two_servers
    return {"old": old, "new": new}


def configured(remote: str, *previous: str) -> Any:
    return sites.configured(remote, previous=list(previous))


# The processes


def use(number: int, remotes: list[str], stop: Path, off: Path) -> None:
    """Save, overwrite, delete and read files, each process its own, until a file says to stop."""
    storage = configured(*remotes)
    chance = random.Random(number)
    its = ledger().filter(alias="default", name__startswith=f"{number}/")
    mine = list(its.exclude(state=State.DELETING).values_list("name", flat=True))
    serial = len(remotes[0]) * 1000 + int(time.time())
    while not stop.exists():
        serial += 1
        act, was_off = chance.random(), off.exists()
        if act < 0.3 or not mine:
            name = storage.save(f"{number}/{serial}.txt", ContentFile(b"draft"))
            write(storage, name)
            mine.append(name)
        elif act < 0.5:
            write(storage, chance.choice(mine))
        elif act < 0.6:
            storage.delete(mine.pop(chance.randrange(len(mine))))
        elif act < 0.7:
            run("evict", chance.choice(mine))
        else:
            try:
                require_own_bytes(storage, chance.choice(mine))
            except AssertionError:
                raise
            except Exception:  # of a server that is off
                if not (was_off or off.exists()):
                    raise


def require_own_bytes(storage: Any, name: str) -> None:
    if name.startswith("large/"):
        return
    with storage.open(name) as file:
        found = file.read()
    assert found in (content_of(name), b"draft"), f"{name} has {found[:60]!r}"


def work(remotes: list[str]) -> None:
    configured(*remotes)
    run("worker", poll=0.1, threads=4)


def move(remotes: list[str], seconds_to_live: float) -> None:
    """Move files again and again, and die in the middle of it."""
    configured(*remotes)
    signal.signal(signal.SIGALRM, lambda *_args: os.kill(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, seconds_to_live)
    while True:
        run("move", storage="default", threads=4)
        time.sleep(0.1)


# The site


class Site:
    """The processes of one configuration."""

    def __init__(self, fork: Forks, directory: Path, remotes: list[str]) -> None:
        mark = f"{'-'.join(remotes)}-{time.monotonic_ns()}"
        self._stop, self._off = directory / f"stop-{mark}", directory / f"off-{mark}"
        self._remotes = remotes
        self._fork = fork
        self._users = [
            fork.start(use, number, remotes, self._stop, self._off) for number in range(SITES)
        ]
        self._worker = fork.start(work, remotes)
        self._movers: list[BaseProcess] = []
        self.kills = 0
        self._chance = random.Random(7)

    def sample(self, storage: Any, seconds: float) -> None:
        """Check names at random, as visitors would ask for them, while movers and workers die."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not any(mover.is_alive() for mover in self._movers):
                lives = [self._chance.uniform(LIFE / 2, LIFE * 2) for _each in range(2)]
                self._movers = [self._fork.start(move, self._remotes, life) for life in lives]
                self.kills += 2
                self._kill_worker()
            for name in self._names(10):
                try:
                    require_own_bytes(storage, name)
                except FileNotFoundError:
                    living = ledger().filter(alias="default", name=name)
                    assert not living.exclude(state=State.DELETING).exists(), f"{name} is dead"

    def _names(self, count: int) -> list[str]:
        living = ledger().filter(alias="default").exclude(state=State.DELETING).order_by("pk")
        first, last = living.first(), living.last()
        assert first
        assert last
        pks = [self._chance.randint(first.pk, last.pk) for _each in range(count)]
        return list(living.filter(pk__in=pks).values_list("name", flat=True))

    def _kill_worker(self) -> None:
        if self._worker.is_alive() and self._chance.random() < 0.5:
            self._worker.kill()
            self._worker.join()
            self._worker = self._fork.start(work, self._remotes)
            self.kills += 1

    def turn_off(self, server: S3Server) -> None:
        self._off.touch()
        server.kill()
        time.sleep(OFF)
        server.start()
        self._off.unlink()

    def end(self) -> None:
        self._stop.touch()
        for user in self._users:
            user.join(60)
            assert user.exitcode == 0
        self._worker.terminate()
        self._worker.join(60)
        for mover in self._movers:
            mover.kill()
            mover.join()


@pytest.mark.timeout(0)
def test_a_site_in_use_is_moved_and_moved_back(
    live: Forks, servers: dict[str, S3Server], tmp_path: Path
) -> None:
    storage = configured("old")
    fill(storage, [f"kept/{number}.txt" for number in range(FILES)])
    save_large(storage, tmp_path / "large")
    before = Site(live, tmp_path, ["old"])
    until(lambda: ledger().filter(state=State.TRANSFERRED).count() > FILES + LARGE, PATIENCE)
    before.end()
    run("evict", all=True)

    storage = configured("new", "old")
    moving = Site(live, tmp_path, ["new", "old"])
    moving.sample(storage, SECONDS)
    moving.turn_off(servers["new"])
    moving.sample(storage, SECONDS)
    moving.end()

    storage = configured("old", "new")  # swapped back in the middle
    back = Site(live, tmp_path, ["old", "new"])
    back.sample(storage, SECONDS)
    back.turn_off(servers["old"])
    back.sample(storage, SECONDS)
    back.end()

    storage = configured("new", "old")
    finish()
    require_moved(storage, servers, kills=moving.kills + back.kills)


def move_once(remotes: list[str]) -> None:
    configured(*remotes)
    run("move", storage="default", threads=4)


@pytest.mark.parametrize("point", ["batch begun", "batch sent", "batch moved"])
def test_a_killed_batch_can_be_repeated(
    live: Forks, servers: dict[str, S3Server], tmp_path: Path, point: str
) -> None:
    """The names of a batch are reserved before anything is sent."""
    names = [f"{number}.txt" for number in range(25)]
    fill(configured("old"), names)
    remotes = ["new", "old"]
    killed = live.start(move_once, remotes, point=FailPoint(point, tmp_path / "reached"))
    assert ended(killed) == -signal.SIGKILL
    storage = configured(*remotes)
    assert ledger().exclude(lease_token="").count() > 0 or point == "batch moved"
    for name in names[::4]:
        require_own_bytes(storage, name)
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)
    run("worker", until_empty=True, poll=0.05)
    run("move", storage="default")
    assert {row.place for row in ledger()} == {storage.remote_place.digest}
    assert {row.remote_name for row in ledger()} == keys(servers["new"]) == set(names)
    assert differing(servers["new"], names, lambda name: [content_of(name)]) == []
    kept = {(copy.state, copy.unconfirmed) for copy in copies()}
    assert (kept, copies().count()) == ({(CopyState.TRANSFERRED, "")}, len(names))


def drop(remotes: list[str]) -> None:
    configured(*remotes)
    run("move", storage="default", threads=4, drop_old=True, yes=True)


@pytest.mark.parametrize("point", ["old copies claimed", "removed together", "old copies dropped"])
def test_a_killed_removal_can_be_repeated(
    live: Forks, servers: dict[str, S3Server], tmp_path: Path, point: str
) -> None:
    names = [f"{number}.txt" for number in range(25)]
    fill(configured("old"), names)
    remotes = ["new", "old"]
    storage = configured(*remotes)
    run("move", storage="default")
    killed = live.start(drop, remotes, point=FailPoint(point, tmp_path / "reached"))
    assert ended(killed) == -signal.SIGKILL
    assert keys(servers["new"]) == set(names)
    assert point == "old copies claimed" or len(keys(servers["old"])) < len(names)
    for name in names[::4]:
        require_own_bytes(storage, name)
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)
    copies().exclude(due_at=None).update(due_at=LONG_AGO)
    finish()
    assert keys(servers["old"]) == set()
    assert keys(servers["new"]) == set(names)


def save_large(storage: Any, draft: Path) -> None:
    for number in range(LARGE):
        name = f"large/{number}.bin"
        with draft.open("wb") as file:
            file.writelines(large_pieces(name, MEGABYTES))
        with draft.open("rb") as file:
            storage.save(name, File(file))
        draft.unlink()


def finish() -> None:
    """Let expired leases run out, upload what waits, and move the rest."""

    def is_done() -> bool:
        run("worker", until_empty=True, poll=0.05)
        run("move", storage="default", drop_old=True, yes=True)
        dispose_due(1000)
        unsettled = ledger().exclude(state=State.TRANSFERRED).exists()
        return not unsettled and not copies().exists()

    until(is_done, PATIENCE)


def require_moved(storage: Any, servers: dict[str, S3Server], kills: int) -> None:
    """Compare every object, byte by byte.

    If the process that sends a file is killed, and the file gets new content before the next
    attempt, nothing proves whose the object is: it is left to 'orphans'.
    """
    rows = dict(ledger().values_list("remote_name", "name"))
    assert len(rows) == ledger().count() > FILES + LARGE
    assert set(ledger().values_list("place", flat=True).order_by()) == {storage.remote_place.digest}
    found = keys(servers["new"])
    assert found >= set(rows)

    def pieces_of(key: str) -> Iterator[bytes]:
        name = rows[key]
        is_large = name.startswith("large/")
        return large_pieces(name, MEGABYTES) if is_large else iter([content_of(name)])

    assert differing(servers["new"], rows, pieces_of) == []
    orphans = [*keys(servers["old"]), *(found - set(rows))]
    assert len(orphans) <= kills
    if SITES > 2:
        print(f"{len(rows)} files, {kills} kills, {len(orphans)} orphans")
