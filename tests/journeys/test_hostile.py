"""Remotes that refuse, hang, abort or report false success, and the VERIFY levels that find it.

A test compares ``LIES`` with the table in docs/verification.md.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from django.core.files.storage import InMemoryStorage
from django.db import connections
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.files import localfiles
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import Fault, FaultyStorage
from queued_storage.transfers import work
from queued_storage.uploaders.s3 import trust
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.lying_proxy import Lie, LyingProxy
from tests.support.scripted import file, make, make_due, on_disk, read, row
from tests.support.services import S3Server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

CONTENT = b"every byte of it"
DOCS = Path(__file__).parents[2] / "docs"
LEVELS = ["size", "checksum", "content"]

FOUND = "found"  # the file stays local, and a retry uploads it
MISSED = "**missed**"  # the file is marked as transferred


@dataclass(frozen=True)
class Row:
    """A fault of a remote that reports success, and the levels that find it."""

    what: str
    fault: Fault
    found: list[str]  # on any storage, where `fault` simulates it
    lie: Lie
    found_on_s3: list[str]

    def __str__(self) -> str:
        return self.lie


ALL = LEVELS
CONTENT_ONLY = ["content"]
LIES = [
    Row("stores nothing", Fault.LOSE, ALL, Lie.LOSE, ALL),
    Row("stores only a part", Fault.TRUNCATE, ALL, Lie.TRUNCATE, ALL),
    Row(
        "stores the file under another name without reporting it",
        *(Fault.MISPLACE, ALL),
        *(Lie.MISPLACE, ALL),
    ),
    Row("stores the file, but doesn't show it yet", Fault.HIDE, ALL, Lie.HIDE, ALL),
    Row("receives a flipped bit over the network", Fault.FLIP, CONTENT_ONLY, Lie.GARBLE, ALL),
    Row(
        "stores a flipped bit",
        *(Fault.FLIP, CONTENT_ONLY),
        *(Lie.FLIP, ["checksum", "content"]),
    ),
    Row(
        "stores a flipped bit, and has no checksum",
        *(Fault.FLIP, CONTENT_ONLY),
        *(Lie.FLIP_AND_FORGET, CONTENT_ONLY),
    ),
    Row(
        "stores a flipped bit, and returns the checksum that it received",
        *(Fault.FLIP, CONTENT_ONLY),
        *(Lie.FLIP_AND_ECHO, CONTENT_ONLY),
    ),
]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, settings: Settings) -> str:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": request.param}
    return str(request.param)


@pytest.fixture
def liar(s3_server: S3Server) -> Iterator[LyingProxy]:
    with LyingProxy(s3_server) as proxy:
        yield proxy


def transfer(storage: Any, stop: Callable[[], object], read_remote: Callable[[str], bytes]) -> str:
    """Transfer with the fault, and retry without it; return whether the fault was found."""
    name = storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    found = row(storage, name)
    if found.state == State.TRANSFERRED:
        stop()
        assert read_remote(found.remote_name) != CONTENT
        return MISSED
    assert (found.state, found.verified, found.is_local) == (State.PENDING, "", True)
    assert found.last_error or remotes().get().last_error
    assert read(storage, name) == CONTENT
    stop()
    assert work.run(make_due(storage, name)) is None
    found = row(storage, name)
    assert found.state == State.TRANSFERRED
    assert read_remote(found.remote_name) == CONTENT
    assert on_disk() == []
    return FOUND


def expected(found: list[str], level: str) -> str:
    return FOUND if level in found else MISSED


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_levels_find_faults_on_any_storage(lie: Row, level: str) -> None:
    remote = FaultyStorage(InMemoryStorage(), fault=lie.fault)
    storage = make(remote=remote, task=TransferAndDelete)

    def stop() -> None:
        remote.fault = None

    assert transfer(storage, stop, lambda name: read(remote, name)) == expected(lie.found, level)
    objects = remote.listdir("")[1]
    assert [name for name in objects if not name.endswith(".misplaced")] == ["a.txt"]


@pytest.mark.parametrize("asks_once", [False, True], ids=["asked each time", "asked once"])
@pytest.mark.parametrize("lie", LIES, ids=str)
def test_levels_find_faults_on_s3(
    lie: Row,
    asks_once: bool,
    level: str,
    liar: LyingProxy,
    s3_server: S3Server,
    s3_bucket: str,
    s3_client: BaseClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if asks_once:
        monkeypatch.setattr(trust, "PROBE_AFTER", 1)
    options = s3_server.options(s3_bucket, liar.endpoint_url)
    storage = make(remote=S3Storage(**options), task=TransferAndDelete)
    liar.lie = lie.lie

    def stop() -> None:
        liar.lie = None

    def read_remote(name: str) -> bytes:
        body: bytes = s3_client.get_object(Bucket=s3_bucket, Key=name)["Body"].read()
        return body

    assert transfer(storage, stop, read_remote) == expected(lie.found_on_s3, level)
    listing = s3_client.list_objects_v2(Bucket=s3_bucket)["Contents"]
    names = [each["Key"] for each in listing if not localfiles.is_unfinished(each["Key"])]
    assert [name for name in names if not name.endswith(".misplaced")] == ["a.txt"]


def table() -> str:
    """Return the table for the docs."""
    head = ["what the remote does"]
    head += [f"any storage, `{level}`" for level in LEVELS] + [f"S3, `{level}`" for level in LEVELS]
    lines = [head, ["---"] * len(head)]
    for lie in LIES:
        anywhere = [expected(lie.found, level) for level in LEVELS]
        lines.append([lie.what, *anywhere, *(expected(lie.found_on_s3, each) for each in LEVELS)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def test_docs_list_what_each_level_finds() -> None:
    assert table() in (DOCS / "verification.md").read_text()


# Errors that the remote reports


@pytest.mark.parametrize(
    "mode",
    [Mode.REFUSE, Mode.HANG, Mode.RESET_MID_BODY, Mode.STATUS_500, Mode.STATUS_503],
)
def test_failed_transfer_to_s3_is_retried(
    mode: Mode,
    level: str,
    s3_proxy: FaultProxy,
    s3_proxy_options: dict[str, Any],
    s3_server: S3Server,
    s3_bucket: str,
    s3_client: BaseClient,
) -> None:
    """Lost responses, and reads during an outage, are tested in test_recovery."""
    options = s3_proxy_options | {"client_config": s3_server.client_config(read_timeout=0.5)}
    storage = make(remote=S3Storage(**options), task=TransferAndDelete)
    s3_proxy.mode = mode

    def stop() -> None:
        s3_proxy.mode = Mode.OK

    def read_remote(name: str) -> bytes:
        body: bytes = s3_client.get_object(Bucket=s3_bucket, Key=name)["Body"].read()
        return body

    assert transfer(storage, stop, read_remote) == FOUND
    assert row(storage, "a.txt").verified == level


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.HALFWAY])
def test_failed_transfer_to_any_storage_is_retried(fault: Fault, level: str) -> None:
    remote = FaultyStorage(InMemoryStorage(), fault=fault)
    storage = make(remote=remote, task=TransferAndDelete)

    def stop() -> None:
        remote.fault = None

    assert transfer(storage, stop, lambda name: read(remote, name)) == FOUND
    assert remote.listdir("") == ([], ["a.txt"])


def test_slow_transfer_keeps_its_lease(
    settings: Settings,
    s3_proxy: FaultProxy,
    s3_proxy_options: dict[str, Any],
) -> None:
    """A transfer that takes longer than a lease is not claimed by another worker."""
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LEASE": 1.5}
    storage = make(remote=S3Storage(**s3_proxy_options))
    data = CONTENT * 20_000
    name = storage.save("a.txt", file(data))
    s3_proxy.mode = Mode.SLOW
    s3_proxy.delay = 0.15
    started = time.monotonic()
    others: list[Exception | None] = []
    is_over = threading.Event()

    def run_other_worker() -> None:
        while not is_over.wait(0.1):
            others.append(work.run(row(storage, name).pk))
        connections.close_all()

    other_worker = threading.Thread(target=run_other_worker)
    other_worker.start()
    errors = storage.queue.deliver()
    took = time.monotonic() - started
    is_over.set()
    other_worker.join()
    s3_proxy.mode = Mode.OK
    assert errors == {}
    assert took > 1.5
    assert (row(storage, name).state, row(storage, name).attempts) == (State.TRANSFERRED, 1)
    assert read(storage.remote, name) == data


def test_another_worker_takes_over_a_hanging_transfer(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LEASE": 0.4, "STALL_TIMEOUT": 0.4}
    remote = FaultyStorage(InMemoryStorage(), fault=Fault.HANG)
    storage = make(remote=remote)
    name = storage.save("a.txt", file(CONTENT))
    pk = row(storage, name).pk
    ended: list[Exception | None] = []

    def attempt() -> None:
        ended.append(work.run(pk))
        connections.close_all()

    stuck = threading.Thread(target=attempt)
    stuck.start()
    assert remote.hanging.wait(10)
    until(lambda: row(storage, name).state == State.PENDING)  # the stalled attempt has failed
    assert not ended
    make_due(storage, name)
    other = threading.Thread(target=attempt)
    other.start()  # it hangs as well, until the remote recovers
    until(lambda: row(storage, name).attempts == 2)
    remote.fault = None
    stuck.join(20)
    other.join(20)
    if row(storage, name).state == State.PENDING:  # both attempts exceeded STALL_TIMEOUT
        assert work.run(make_due(storage, name)) is None
    assert row(storage, name).state == State.TRANSFERRED
    assert remote.listdir("") == ([], ["a.txt"])
    assert read(remote, name) == CONTENT


# Objects of others


@pytest.mark.parametrize("theirs", [b"somebody else's", CONTENT[::-1]], ids=["other", "same size"])
def test_foreign_object_is_not_overwritten(theirs: bytes, level: str) -> None:
    """The tests of the uploaders do the same on S3."""
    remote = FaultyStorage(InMemoryStorage())
    remote.save("a.txt", file(theirs))
    storage = make(remote=remote, task=TransferAndDelete)
    name = storage.save("a.txt", file(CONTENT))
    assert storage.queue.deliver() == {}
    assert row(storage, name).remote_name != "a.txt"
    assert read(remote, "a.txt") == theirs
    assert read(storage, name) == CONTENT
    storage.delete(name)
    storage.queue.deliver()
    assert remote.listdir("") == ([], ["a.txt"])


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.HALFWAY, Fault.TRUNCATE, Fault.LOSE])
def test_retries_do_not_overwrite_a_foreign_object(fault: Fault) -> None:
    remote = FaultyStorage(InMemoryStorage())
    remote.save("a.txt", file(b"somebody else's"))
    storage = make(remote=remote)
    name = storage.save("a.txt", file(CONTENT))
    remote.fault = fault
    storage.queue.deliver()
    work.run(make_due(storage, name))
    remote.fault = None
    assert work.run(make_due(storage, name)) is None
    assert read(remote, "a.txt") == b"somebody else's"
    assert sorted(remote.listdir("")[1]) == sorted(["a.txt", row(storage, name).remote_name])
    assert read(remote, row(storage, name).remote_name) == CONTENT


@pytest.mark.parametrize("fault", [Fault.RENAME, Fault.FLIP])
def test_delete_removes_objects_of_a_faulty_transfer(fault: Fault) -> None:
    remote = FaultyStorage(InMemoryStorage(), fault=fault)
    storage = make(remote=remote)
    name = storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    storage.delete(name)
    storage.queue.deliver()
    assert storage.queued_file(name) is None
    assert remote.listdir("") == ([], [])


def test_delete_is_retried_until_the_remote_accepts_it() -> None:
    remote = FaultyStorage(InMemoryStorage())
    storage = make(remote=remote)
    name = storage.save("a.txt", file(CONTENT))
    storage.queue.deliver()
    storage.delete(name)
    remote.fault = Fault.REFUSE
    storage.queue.deliver()
    for _time in range(10):  # more often than a transfer is retried
        assert isinstance(work.run(make_due(storage, name)), ConnectionError)
    assert not storage.exists(name)
    assert row(storage, name).state == State.DELETING
    remote.fault = None
    assert work.run(make_due(storage, name)) is None
    assert storage.queued_file(name) is None
    assert remote.listdir("") == ([], [])
