"""A site with a mirror on a second real S3 server, which is gone for the whole run.

QUEUED_STORAGE_TEST_MIRRORED_FILES is the number of files.
"""

import os
import signal
from typing import Any

import pytest
from django.core.files.base import ContentFile

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.transfers import probing
from tests.support import live as sites
from tests.support.forks import Forks
from tests.support.live import content_of, differing, keys, make_bucket, write
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

FILES = int(os.environ.get("QUEUED_STORAGE_TEST_MIRRORED_FILES", "21"))
PATIENCE = 60 + FILES / 20
RETRIES = 3


@pytest.fixture
def servers(two_servers: list[S3Server]) -> dict[str, S3Server]:
    main, mirror = two_servers
    return {"main": main, "mirror": mirror}


def configured() -> Any:
    return sites.configured("main", mirrors=["mirror"])


def work() -> None:
    configured()
    sites.run("worker", poll=0.1, threads=2)


def test_a_mirror_that_is_lost_is_filled_again(live: Forks, servers: dict[str, S3Server]) -> None:
    storage = configured()
    first = [save(storage, f"first/{number}.txt") for number in range(FILES // 3)]
    worker = live.start(work)
    until(lambda: copies().filter(state=CopyState.TRANSFERRED).count() == len(first), PATIENCE)

    servers["mirror"].kill()  # for the whole run
    names = first + [save(storage, f"then/{number}.txt") for number in range(FILES)]
    transferred = ledger().filter(state=State.TRANSFERRED)
    until(lambda: transferred.count() == len(names), PATIENCE)
    until(lambda: remotes().filter(state=RemoteState.AWAY).count() == 1, PATIENCE)
    overwritten = names[::7]
    for name in overwritten:
        write(storage, name, b"new " + content_of(name))
    for name in names[1::7]:
        storage.delete(name)
    names = [name for name in names if name not in names[1::7]]
    until(lambda: transferred.filter(generation__gt=1).count() == len(overwritten), PATIENCE)
    assert not copies().filter(state=CopyState.FAILED).exists()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0

    servers["mirror"].wipe()  # its disk is lost, and a new one is put in its place
    servers["mirror"].start()
    make_bucket(servers["mirror"])
    killed = live.start(work)  # which dies while it makes copies
    probing.probe_closed(["default"])
    until(lambda: copies().filter(state=CopyState.PENDING).exclude(lease_token="").exists(), 20)
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join(30)
    sites.run("reconcile", repair=["missing-mirror"])
    live.start(work)
    until(lambda: is_done(names), PATIENCE)

    def pieces_of(name: str) -> list[bytes]:
        return [b"new " if name in overwritten else b"", content_of(name)]

    for server in servers.values():
        assert keys(server) == set(names)
        assert differing(server, names, pieces_of) == []


def save(storage: Any, name: str) -> str:
    found: str = storage.save(name, ContentFile(content_of(name)))
    return found


def is_done(names: list[str]) -> bool:
    made = copies().filter(state=CopyState.TRANSFERRED).count()
    return made == len(names) == ledger().count() == copies().count()
