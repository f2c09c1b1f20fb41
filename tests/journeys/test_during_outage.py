"""What a site and its workers do while a remote is closed: nothing that calls it, but probes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from django.core.management.base import CommandError
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from queued_storage.exceptions import TransferTimeout
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.operations import errands
from queued_storage.queues.immediate import ImmediateQueue
from queued_storage.queues.threads import ThreadQueue
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import drain
from queued_storage.transfers import probing, watching
from queued_storage.transfers.gates import gates
from tests.journeys.test_no_remote_calls import OPERATIONS
from tests.support.command import run
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.outages import ERROR, close
from tests.support.scripted import file, make, make_due, read, row
from tests.support.waiting import SOON, until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

ONE_PROBE = {"exists": 1, "delete": 1}  # of a ScriptedStorage that refuses everything


def shut(storage: Any, state: str = RemoteState.AWAY) -> None:
    storage.remote.refuses = True
    close(storage, state)
    gates.forget()  # what this process knows may be a second old
    storage.remote.calls.clear()


def reopen(storage: Any) -> None:
    storage.remote.refuses = False
    assert probing.probe_now(storage.alias)


def saved(storage: Any, *names: str) -> None:
    for name in names:
        assert storage.save(name, file()) == name


def transferred(storage: Any, *names: str) -> None:
    saved(storage, *names)
    assert storage.queue.deliver() == {}
    assert {row(storage, name).state for name in names} == {State.TRANSFERRED}


# What waits


def test_deletes_wait() -> None:
    storage = make()
    transferred(storage, "a.txt")
    shut(storage)
    storage.delete("a.txt")
    assert not storage.exists("a.txt")
    assert storage.queue.deliver() == {}
    assert storage.remote.calls == {}
    [tombstone] = ledger().all()
    assert (tombstone.state, tombstone.attempts, tombstone.last_error) == (State.DELETING, 0, "")
    reopen(storage)
    assert storage.remote.exists("a.txt")
    assert storage.queue.deliver() == {}
    assert not storage.remote.exists("a.txt")
    assert not ledger().exists()


def test_delete_of_a_waiting_file() -> None:
    storage = make()
    saved(storage, "a.txt")
    shut(storage)
    storage.delete("a.txt")
    reopen(storage)
    assert storage.queue.deliver() == {}
    assert not storage.remote.exists("a.txt")
    assert not ledger().exists()


def test_evictions_of_workers_wait() -> None:
    storage = make()
    transferred(storage, "a.txt")
    assert ledger().claim_settled(row(storage, "a.txt").pk, evicts=True)  # and its worker dies
    pk = make_due(storage, "a.txt")
    shut(storage)
    storage.queue.enqueue([pk])
    assert storage.queue.deliver() == {}
    assert storage.remote.calls == {}
    assert storage.local.exists("a.txt")
    reopen(storage)
    assert storage.queue.deliver() == {}
    assert not storage.local.exists("a.txt")
    assert read(storage, "a.txt") == b"bytes"


def test_evictions_of_an_operator_wait() -> None:
    storage = make()
    transferred(storage, "a.txt", "b.txt")
    shut(storage)
    reasons = []
    assert errands.evict(ledger().all(), lambda step: reasons.append(step.error)) == 0
    assert storage.remote.calls == {}
    assert storage.local.exists("a.txt")
    assert len(reasons) == 2
    assert "is closed, so the copy there cannot be verified" in reasons[0]
    assert row(storage, "a.txt").last_error == ""
    reopen(storage)
    assert errands.evict(ledger().all()) == 2


def test_transfer_and_delete_keeps_the_local_copy() -> None:
    storage = make(task=TransferAndDelete)
    shut(storage)
    saved(storage, "a.txt")
    assert storage.queue.deliver() == {}
    assert read(storage, "a.txt") == b"bytes"
    reopen(storage)
    assert storage.queue.deliver() == {}
    assert not storage.local.exists("a.txt")
    assert read(storage, "a.txt") == b"bytes"


# What ends


def test_wait_ends_in_time() -> None:
    storage = make()
    saved(storage, "a.txt")
    shut(storage)
    with pytest.raises(TransferTimeout, match=ERROR[:-1]):
        storage.wait(timeout=0.1)
    assert storage.remote.calls == {}


def test_worker_until_empty_ends() -> None:
    storage = make()
    saved(storage, "a.txt", "b.txt")
    shut(storage)
    run("worker", "--until-empty", "--poll", "0.02")
    assert storage.remote.calls == ONE_PROBE
    assert [(each.state, each.attempts) for each in ledger().all()] == [(State.PENDING, 0)] * 2
    storage.remote.refuses = False
    run("worker", "--until-empty", "--poll", "0.02")  # which probes, since somebody waits
    assert {each.state for each in ledger().all()} == {State.TRANSFERRED}


def test_drain_ends() -> None:
    storage = make()
    saved(storage, "a.txt", "b.txt")
    shut(storage)
    assert drain(storage) == {}
    assert storage.remote.calls == ONE_PROBE
    assert {each.state for each in ledger().all()} == {State.PENDING}


def test_flush_ends_and_says_why() -> None:
    storage = make()
    saved(storage, "a.txt")
    shut(storage)
    assert "1 file is being transferred" in run("flush", "--storage", storage.alias)
    with pytest.raises(CommandError, match=ERROR[:-1]):
        run("flush", "--storage", storage.alias, "--wait", "--timeout", "0s")
    assert storage.remote.calls == {}


def test_command_transfer_says_why() -> None:
    storage = make()
    saved(storage, "a.txt")
    shut(storage)
    with pytest.raises(CommandError, match="ConnectionError: The remote is away"):
        run("transfer", "a.txt", "--storage", storage.alias)
    assert storage.remote.calls == ONE_PROBE
    storage.remote.refuses = False
    assert "is transferred" in run("transfer", "a.txt", "--storage", storage.alias)


@pytest.mark.parametrize("state", [RemoteState.AWAY, RemoteState.PAUSED])
def test_sweeps_leave_the_remote_alone(state: str) -> None:
    storage = make()
    saved(storage, "a.txt")
    shut(storage, state)
    run("sweep", "--storage", storage.alias)
    assert storage.queue.deliver() == {}
    assert storage.remote.calls == {}


# Requests


def test_immediate_queue_pays_no_timeout() -> None:
    storage = make(queue=ImmediateQueue())
    shut(storage)
    saved(storage, *(f"{number}.txt" for number in range(20)))
    assert storage.remote.calls == {}
    assert read(storage, "19.txt") == b"bytes"
    reopen(storage)  # sweeps
    assert {each.state for each in ledger().all()} == {State.TRANSFERRED}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operation_calls_no_remote(operation: Callable[[Any, str], Any], tmp_path: Path) -> None:
    """It makes as many queries as with an open remote."""
    counts = []
    for place, prepare in {"open": lambda storage: None, "closed": shut}.items():
        storage = make(local=FileSystemStorage(tmp_path / place, "/media/"))
        saved(storage, "docs/a.txt")
        prepare(storage)
        storage.remote.refuses = True
        with CaptureQueriesContext(connections["default"]) as queries:
            operation(storage, "docs/a.txt")
        assert storage.remote.calls == {}
        counts.append(len(queries))
    assert counts[0] == counts[1]


# TestCase


@pytest.mark.django_db(transaction=False)
def test_test_case_starts_no_threads(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    before = threading.enumerate()
    threads, at_once = make(queue=ThreadQueue()), make(queue=ImmediateQueue())
    for name, storage in {"a.txt": threads, "b.txt": at_once}.items():
        shut(storage)
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            saved(storage, name)
        assert drain(storage) == {}
        assert storage.remote.calls == ONE_PROBE
        with pytest.raises(TransferTimeout):
            storage.result.get(timeout=0)
    assert set(threading.enumerate()) <= set(before)
    reopen(at_once)
    assert drain() == {}
    assert row(at_once, "b.txt").state == State.TRANSFERRED


# Processes


# Python 3.12 warns about the fork, rightly: the child is what this tests.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_process_probes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, is_asleep = make(), threading.Event()
    saved(storage, "a.txt")
    shut(storage)
    # Without a connection to SQLite, which would not survive a fork.
    monkeypatch.setattr(watching.Watch, "_look", lambda watch: is_asleep.set() or 60)
    watching.watch()
    assert is_asleep.wait(60)
    monkeypatch.undo()
    remotes().request_probe()
    connections.close_all()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        with contextlib.suppress(BaseException):
            probe_in_child(storage)
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not remotes().closed().exists()


def probe_in_child(storage: Any) -> None:
    assert [each for each in threading.enumerate() if "watch" in each.name] == []
    storage.remote.refuses = False
    watching.watch()
    until(lambda: not remotes().closed().exists(), SOON)


GEVENT = [sys.executable, "-m", "tests.support.gevent_site"]


def test_greenlets_go_on_during_an_outage(
    settings: Settings,
    s3_proxy: FaultProxy,
    s3_proxy_options: dict[str, Any],
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
) -> None:
    """Threads, locks and sockets are those of gevent."""
    options = s3_proxy_options | {"client_config": None, "addressing_style": "path"}
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    env = child_settings(
        QUEUED_STORAGE={
            "PROBE_EVERY": 0.2,
            "QUEUE": {
                "BACKEND": "queued_storage.queues.threads.ThreadQueue",
                "OPTIONS": {"threads": 2, "poll": 0.1},
            },
        },
        STORAGES=settings.STORAGES | {"far": far},
    )
    s3_proxy.mode = Mode.REFUSE
    site = spawn(GEVENT, env=env | {"AWS_MAX_ATTEMPTS": "1"})  # as all clients of the tests
    until(lambda: remotes().closed().filter(probes__gt=1).exists())
    assert set(ledger().values_list("state", "attempts")) <= {(State.PENDING, 0)}
    s3_proxy.mode = Mode.OK
    assert site.wait(SOON * 4) == 0
    assert set(ledger().values_list("state", "attempts")) == {(State.TRANSFERRED, 1)}
