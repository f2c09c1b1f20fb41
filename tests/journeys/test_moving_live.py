"""A site that is moved between two real S3 servers, and back, while it is in use.

QUEUED_STORAGE_TEST_MOVED_FILES is the number of small files, and QUEUED_STORAGE_TEST_MOVED_LARGE
that of files of 1 GB.
"""

import contextlib
import hashlib
import io
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.test import override_settings
from pytest_django import Settings

from queued_storage.ledger.copies import copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.transfers.disposal import dispose_due
from tests.support.forks import Forks, forks
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

FILES = int(os.environ.get("QUEUED_STORAGE_TEST_MOVED_FILES", "60"))
LARGE = int(os.environ.get("QUEUED_STORAGE_TEST_MOVED_LARGE", "0"))
PATIENCE = 120 + FILES / 20 + LARGE * 60
SITES = 2
SHORT = {"RETRIES": 50, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "PROBE_EVERY": 0.5, "LEASE": 4}
WORKER = "queued_storage.queues.worker.WorkerQueue"
QUEUED = "queued_storage.backends.QueuedStorage"
BUCKET = "moving"


@pytest.fixture(scope="module")
def second_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def servers(s3_server: S3Server, second_server: S3Server) -> Iterator[dict[str, S3Server]]:
    found = {"old": s3_server, "new": second_server}
    for server in found.values():
        with contextlib.closing(server.client()) as client:
            client.create_bucket(Bucket=BUCKET)
    yield found
    for server in found.values():
        if server.process is None:
            server.start()
        with contextlib.closing(server.client()) as client:
            client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def fork(
    servers: dict[str, S3Server], child_environment: dict[str, str], settings: Settings
) -> Iterator[Forks]:
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": WORKER}
    for name, server in servers.items():
        # The configuration of a client cannot be passed to other processes.
        options = server.options(BUCKET) | {"client_config": None, "addressing_style": "path"}
        backend = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | {name: backend}
    with forks(child_environment, settings) as found:
        yield found


def configured(remote: str, *previous: str) -> Any:
    from django.conf import settings

    options = {"local": "disk", "remote": remote, "previous": list(previous)}
    default = {"BACKEND": QUEUED, "OPTIONS": options}
    override_settings(STORAGES=settings.STORAGES | {"default": default}).enable()
    return storages["default"]


# The processes


def content_of(name: str) -> bytes:
    """The bytes of a file: those of its newest generation begin with its name."""
    return f"{name} {hashlib.sha256(name.encode()).hexdigest()}".encode() * 20


def use(number: int, remotes: list[str], stop: str) -> None:
    """Save, overwrite, delete and read files, each process its own, until a file says to stop."""
    storage = configured(*remotes)
    chance = random.Random(number)
    mine = [name for name in _living() if name.startswith(f"{number}/")]
    serial = len(remotes[0]) * 1000 + int(time.time())
    while not os.path.exists(stop):
        serial += 1
        act = chance.random()
        if act < 0.3 or not mine:
            name = storage.save(f"{number}/{serial}.txt", ContentFile(b"draft"))
            write(storage, name)
            mine.append(name)
        elif act < 0.5:
            write(storage, chance.choice(mine))
        elif act < 0.6:
            storage.delete(mine.pop(chance.randrange(len(mine))))
        elif act < 0.7:
            with contextlib.suppress(CommandError):
                call_command("queued_storage", "evict", chance.choice(mine), stdout=_nowhere())
        else:
            require_own_bytes(storage, chance.choice(mine))


def write(storage: Any, name: str) -> None:
    with storage.open(name, "wb") as file:
        file.write(content_of(name))


def require_own_bytes(storage: Any, name: str) -> None:
    with storage.open(name) as file:
        found = file.read()
    assert found in (content_of(name), b"draft"), f"{name} has {found[:60]!r}"


def work(remotes: list[str]) -> None:
    configured(*remotes)
    call_command("queued_storage", "worker", poll=0.1, threads=4, stdout=_nowhere())


def move(remotes: list[str], seconds_to_live: float) -> None:
    """Move files again and again, and die in the middle of it."""
    configured(*remotes)
    signal.signal(signal.SIGALRM, lambda *_args: os.kill(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, seconds_to_live)
    while True:
        with contextlib.suppress(CommandError):
            call_command(
                "queued_storage",
                "move",
                storage="default",
                threads=2,
                stdout=_nowhere(),
                stderr=_nowhere(),
            )
        time.sleep(0.1)


def _nowhere() -> Any:
    return io.StringIO()


def _living() -> list[str]:
    living = ledger().filter(alias="default").exclude(state=State.DELETING)
    return list(living.values_list("name", flat=True))


# The site


class Site:
    """The processes of one configuration."""

    def __init__(self, fork: Forks, directory: Any, remotes: list[str]) -> None:
        self._stop = str(directory / f"stop-{'-'.join(remotes)}-{time.monotonic_ns()}")
        self._remotes = remotes
        self._fork = fork
        self._users = [fork.start(use, number, remotes, self._stop) for number in range(SITES)]
        self._workers = [fork.start(work, remotes)]
        self._movers: list[BaseProcess] = []
        self.kills = 0
        self._chance = random.Random(7)

    def sample(self, storage: Any, seconds: float) -> None:
        """Check names at random, as visitors would ask for them, while movers live and die."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not any(mover.is_alive() for mover in self._movers):
                life = self._chance.uniform(0.5, 2.0)
                self._movers = [self._fork.start(move, self._remotes, life) for _each in range(2)]
                self.kills += 2
            names = _living()
            for name in self._chance.sample(names, min(len(names), 10)):
                try:
                    require_own_bytes(storage, name)
                except FileNotFoundError:
                    assert name not in _living(), f"{name} is a dead link"

    def end(self) -> None:
        open(self._stop, "w").close()
        for user in self._users:
            user.join(30)
            assert user.exitcode == 0
        for worker in self._workers:
            worker.terminate()
            worker.join(30)
        for mover in self._movers:
            mover.kill()
            mover.join()


@pytest.mark.timeout(0)
def test_a_site_in_use_is_moved_and_moved_back(
    fork: Forks, servers: dict[str, S3Server], tmp_path: Any
) -> None:
    storage = configured("old")
    for number in range(FILES):
        write(storage, storage.save(f"kept/{number}.txt", ContentFile(b"draft")))
    for number in range(LARGE):
        storage.save(f"large/{number}.bin", ContentFile(bytes(2**30)))
    before = Site(fork, tmp_path, ["old"])
    until(lambda: ledger().filter(state=State.TRANSFERRED).count() >= FILES + LARGE, PATIENCE)
    before.end()
    call_command("queued_storage", "evict", all=True, stdout=_nowhere())

    storage = configured("new", "old")
    moving = Site(fork, tmp_path, ["new", "old"])
    moving.sample(storage, 2)
    servers["new"].kill()
    time.sleep(1)
    servers["new"].start()
    moving.sample(storage, 2)
    moving.end()

    storage = configured("old", "new")  # swapped back in the middle
    back = Site(fork, tmp_path, ["old", "new"])
    back.sample(storage, 2)
    back.end()

    storage = configured("new", "old")
    finish()
    require_moved(storage, servers, kills=moving.kills + back.kills)


def finish() -> None:
    """Let expired leases run out, upload what waits, and move the rest."""

    def is_done() -> bool:
        with contextlib.suppress(CommandError):
            call_command("queued_storage", "worker", until_empty=True, poll=0.05, stdout=_nowhere())
            call_command(
                "queued_storage",
                "move",
                storage="default",
                drop_old=True,
                yes=True,
                stdout=_nowhere(),
                stderr=_nowhere(),
            )
        dispose_due(1000)
        unsettled = ledger().exclude(state=State.TRANSFERRED).exists()
        return not unsettled and not copies().exists()

    until(is_done, PATIENCE)


def require_moved(storage: Any, servers: dict[str, S3Server], kills: int) -> None:
    """Compare every object, byte by byte.

    If the process that sends a file is killed, and the file gets new content before the next
    attempt, nothing proves whose the object is: it is left to 'orphans'.
    """
    rows = {row.remote_name: row for row in ledger()}
    assert {row.place for row in rows.values()} == {storage.remote_place.digest}
    found = objects(servers["new"])
    assert set(found) >= set(rows)
    for name, row in rows.items():
        is_large = row.name.startswith("large/")
        assert found[name] == (bytes(2**30) if is_large else content_of(row.name))
    orphans = [*objects(servers["old"]), *(set(found) - set(rows))]
    assert len(orphans) <= kills


def objects(server: S3Server) -> dict[str, bytes]:
    with contextlib.closing(server.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        keys = [key for key in keys if not key.startswith(".queued-storage")]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
