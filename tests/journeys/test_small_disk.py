"""A site on a disk of a few megabytes: processes save and read, workers are killed, the remote is
gone for a while.

QUEUED_STORAGE_TEST_SMALL_DISK_SECONDS is how long this goes on.
"""

import contextlib
import hashlib
import io
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from pytest_django import Settings

from queued_storage.exceptions import NoRoom
from queued_storage.ledger.database import ledger
from queued_storage.ledger.localsides import local_bytes, local_sides, pending_bytes
from queued_storage.ledger.states import State
from queued_storage.transfers import evicting, probing
from tests.support.forks import Forks, ended, forks
from tests.support.services import S3Server
from tests.support.small_disks import bytes_in, small_disk
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

SECONDS = float(os.environ.get("QUEUED_STORAGE_TEST_SMALL_DISK_SECONDS", "20"))
SAVERS = 8
KILO = 1024
FILE = 48 * KILO  # of the largest file
LOCAL, PENDING, DISK = 1200 * KILO, 900 * KILO, 4096 * KILO
SHORT = {"RETRIES": 3, "RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "PROBE_EVERY": 0.5, "LEASE": 4}
ALIAS = "default"
AWAY = (OSError, BotoCoreError, ClientError)


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(Path(django_settings.DIRECTORY) / "small", DISK) as path:
        yield path


@pytest.fixture
def fork(
    disk: Path,
    s3_server: S3Server,
    s3_bucket: str,
    child_environment: dict[str, str],
    settings: Settings,
) -> Iterator[Forks]:
    settings.QUEUED_STORAGE = {**SHORT, "QUEUE": "queued_storage.queues.worker.WorkerQueue"}
    # The configuration of a client cannot be passed to other processes.
    options = s3_server.options(s3_bucket) | {"client_config": None, "addressing_style": "path"}
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    files = "django.core.files.storage.FileSystemStorage"
    small = {"BACKEND": files, "OPTIONS": {"location": str(disk)}}
    settings.STORAGES = settings.STORAGES | {"far": far, "small": small}
    with forks(child_environment, settings) as found:
        yield found


def configured() -> Any:
    options = {
        "local": "small",
        "remote": "far",
        "keep_local": {"max_bytes": LOCAL},
        "max_pending_bytes": PENDING,
    }
    default = {"BACKEND": "queued_storage.backends.QueuedStorage", "OPTIONS": options}
    override_settings(STORAGES=django_settings.STORAGES | {"default": default}).enable()
    return storages[ALIAS]


def content_of(name: str) -> bytes:
    digest = hashlib.sha256(name.encode())
    size = FILE // 3 + int.from_bytes(digest.digest()[:2]) % (FILE * 2 // 3)
    return (digest.hexdigest() * (size // 64 + 1)).encode()[:size]


# The processes


def save_and_read(number: int, report: Path) -> None:
    """Save files and read some of them again, until told to stop; report what happened."""
    storage, chance = configured(), random.Random(number)
    names: list[str] = []
    counts: Counter[str] = Counter()
    stop = report.with_name("stop")
    while not stop.exists():
        name = f"{number}/{len(names)}-{chance.randrange(10**6)}.txt"
        content = content_of(name)
        before = pending_bytes(ALIAS)
        try:
            saved = storage.save(name, ContentFile(content))
        except NoRoom:
            counts["refused"] += 1
            # Others may have saved, and workers may have transferred, in the same moment.
            if max(before, pending_bytes(ALIAS)) < PENDING / 2:
                counts["refused without need"] += 1
            time.sleep(0.2)
            continue
        assert saved == name
        names.append(name)
        time.sleep(chance.uniform(0, 0.2))
        for old in chance.sample(names, min(len(names), 2)):
            with contextlib.suppress(*AWAY):  # it was evicted, and the remote is away
                with storage.open(old) as opened:
                    found = opened.read()
                counts["read"] += 1
                counts["wrong"] += found != content_of(old)
    lines = [*(f"{key}={value}" for key, value in counts.items()), "", *names]
    report.write_text("\n".join(lines))


def work() -> None:
    configured()
    call_command("queued_storage", "worker", poll=0.1, threads=2, stdout=io.StringIO())


def test_neither_limit_is_exceeded(
    fork: Forks, disk: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    storage = configured()
    workers = [fork.start(work) for _worker in range(2)]
    storage.save("first.txt", ContentFile(content_of("first.txt")))
    transferred = ledger().filter(state=State.TRANSFERRED)
    until(transferred.exists, 60)  # a busy machine takes long to start them
    reports = [tmp_path / f"{number}.txt" for number in range(SAVERS)]
    savers = [fork.start(save_and_read, number, path) for number, path in enumerate(reports)]
    until(lambda: ledger().count() > SAVERS, 60)
    highest: Counter[str] = Counter()
    started, chance = time.monotonic(), random.Random(1)
    kills, next_kill, away_since = 0, 15, 0.0
    while (elapsed := time.monotonic() - started) < SECONDS or _is_idle(kills, elapsed):
        highest["pending"] = max(highest["pending"], pending_bytes(ALIAS))
        key = "disk, in an outage" if away_since else "disk"
        highest[key] = max(highest[key], bytes_in(disk))
        done = transferred.count()
        if done >= next_kill:  # so that workers get on, however slow the machine is
            next_kill, kills = done + chance.randrange(30, 90), kills + 1
            victim = workers.pop(0)
            os.kill(victim.pid or 0, signal.SIGKILL)
            victim.join(30)
            workers.append(fork.start(work))
        if not away_since and elapsed > SECONDS * 0.6:
            s3_server.kill()
            away_since = elapsed
        elif away_since and s3_server.process is None and elapsed > away_since + SECONDS * 0.2:
            s3_server.start()
        time.sleep(0.02)
    (tmp_path / "stop").touch()
    assert [ended(saver, 60) for saver in savers] == [0] * SAVERS
    counts, names = _read_reports(reports)
    print(dict(highest), dict(counts), f"{len(names)} files, {kills} workers killed")
    names.append("first.txt")
    _settle(workers, names)

    assert highest["pending"] <= PENDING + SAVERS * FILE
    assert highest["disk"] <= LOCAL + 2 * SAVERS * FILE
    assert highest["disk, in an outage"] <= LOCAL + PENDING + SAVERS * FILE
    assert counts["wrong"] == counts["refused without need"] == 0
    assert counts["read"] > 0
    assert kills
    for name in names:  # those that were evicted are read from the remote
        with storage.open(name) as opened:
            assert opened.read() == content_of(name)
    assert local_bytes(ALIAS) <= LOCAL
    assert bytes_in(disk) <= LOCAL + 2 * FILE
    assert ledger().filter(is_local=False).count() > 0
    connection.close()


def _is_idle(kills: int, elapsed: float) -> bool:
    """Whether a busy machine needs more time before a file was evicted and a worker killed."""
    is_done = kills and ledger().filter(is_local=False).exists()
    return not is_done and elapsed < 60 + SECONDS


def _read_reports(reports: list[Path]) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    names: list[str] = []
    for report in reports:
        head, _empty, tail = report.read_text().partition("\n\n")
        for line in head.splitlines():
            key, _sign, value = line.partition("=")
            counts[key] += int(value)
        names += tail.split()
    return counts, names


def _settle(workers: list[BaseProcess], names: list[str]) -> None:
    """Wait until all is transferred and within the limits, then stop the workers."""
    probing.probe_closed([ALIAS])
    unsettled = ledger().exclude(state=State.TRANSFERRED)
    until(lambda: not unsettled.exists(), 60)
    until(lambda: local_bytes(ALIAS) <= LOCAL, 60)
    until(lambda: local_sides().filter(alias=ALIAS, full_since=None).exists(), 60)
    assert ledger().count() == len(names)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        assert ended(worker, 60) == 0
    until(lambda: evicting.keep_within_limits(storages[ALIAS]), 30)
