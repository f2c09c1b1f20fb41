"""Leases: how claims are renewed, and what happens to those that are lost."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from pytest_django import Settings

from queued_storage.exceptions import LeaseLost, TransferStalled
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import statements
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.queues.base import run_all
from queued_storage.tasks import Transfer
from queued_storage.transfers import leases, work
from tests.support.scripted import (
    Step,
    file,
    is_due,
    make,
    make_due,
    on_disk,
    read,
    row,
    take_over,
)
from tests.support.waiting import until
from tests.transfers.workers import die_halfway, retry

pytestmark = pytest.mark.django_db(transaction=True)


def test_reading_the_local_copy_counts_as_progress() -> None:
    """The ledger has no checksum of a large upload, and the task stores the file by itself."""
    kept: list[leases.Lease] = []

    class Copy(Transfer):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            storage.remote.save(name, file(b"hello"))
            kept.append(remote._lease)
            return True

    storage = make(task=Copy())
    name = storage.save("a.txt", file(b"hello"))
    QueuedFile.objects.update(checksum="")
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED
    assert kept[0].sent == 5


def test_expired_lease_lets_another_worker_finish() -> None:
    """Ancestor 3 lost the transfer of a killed worker; ancestor 8 served half an object."""
    storage = make()
    name = storage.save("a.txt", file(b"the whole"))
    die_halfway(storage, name, b"the")

    assert work.run(row(storage, name).pk) is None
    assert row(storage, name).state == State.TRANSFERRING
    assert read(storage, name) == b"the whole"
    assert storage.using_local(name)

    assert retry(storage, name) is None
    assert row(storage, name).state == State.TRANSFERRED
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, name) == b"the whole"


def test_file_that_kills_every_worker_fails(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    storage = make()
    name = storage.save("a.txt", file())
    assert take_over(storage, name)  # beside other files, perhaps, so this death does not count
    for _death in range(2):
        make_due(storage, name)
        assert ledger().claim_suspect(ledger().suspects())
    assert retry(storage, name) is not None
    assert row(storage, name).state == State.FAILED
    assert storage.remote.calls["_save"] == 0


def taken_over(storage: Any) -> Callable[..., None]:
    """Return a step in which the lease expires and another worker transfers the file."""

    def step(name: str, local: Any, remote: Any) -> None:
        assert retry(storage, name) is None
        assert row(storage, name).state == State.TRANSFERRED
        storage.remote.calls.clear()

    return step


@pytest.mark.parametrize("is_first_attempt", [True, False])
def test_worker_without_lease_sends_nothing(is_first_attempt: bool) -> None:
    task = Step(lambda *args: None)
    storage = make(task=task)
    name = storage.save("a.txt", file())
    if not is_first_attempt:
        die_halfway(storage, name, b"by")
    task.first = taken_over(storage)
    work.run(make_due(storage, name))
    assert storage.remote.calls["_save"] == 0
    assert storage.remote.calls["delete"] == 0
    found = row(storage, name)
    assert (found.state, found.lease_token, found.last_error) == (State.TRANSFERRED, "", "")
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, name) == b"bytes"


def test_late_worker_does_not_overwrite_new_content() -> None:
    task = Step(lambda *args: None)
    storage = make(task=task)
    name = storage.save("a.txt", file(b"old"))
    die_halfway(storage, name, b"ol")

    class Late(Transfer):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            with local.open(name) as opened:
                data = opened.read()
                storage._options["task"] = Transfer()
                with storage.open(name, "wb") as newer:
                    newer.write(b"newer")
                assert retry(storage, name) is None
                newer_name = row(storage, name).remote_name
                assert read(storage.remote, newer_name) == b"newer"
                remote.save(name, file(data))
            return True

    storage._options["task"] = Late()
    work.run(make_due(storage, name))
    assert row(storage, name).state == State.TRANSFERRED
    assert read(storage.remote, row(storage, name).remote_name) == b"newer"


@pytest.mark.parametrize("method", ["_save", "size"])
@pytest.mark.parametrize("error", [None, ConnectionError("too late")])
def test_worker_without_lease_leaves_ledger_unchanged(method: str, error: Exception | None) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    claims = []

    def lose_the_lease(name: str) -> None:
        claims.append(take_over(storage, name))
        if error:
            raise error

    storage.remote.after[method] = lose_the_lease
    storage.queue.deliver()
    [theirs] = claims
    found = row(storage, name)
    for field in ("state", "lease_token", "attempts", "due_at", "last_error", "generation"):
        assert getattr(found, field) == getattr(theirs, field), field


def test_sender_thread_keeps_no_connection(settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LEASE": 0.001}
    storage = make()
    claimed = take_over(storage, storage.save("a.txt", file()))
    lease = leases.Lease(claimed)

    def send_a_part() -> Any:
        until(lambda: time.monotonic() - lease._renewed_at > 0.001)
        lease.progress(1)
        return connections[ledger().db].connection

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(send_a_part).result() is None
    assert ledger().filter(pk=claimed.pk, sent=1).exists()  # it renewed the lease


def test_sender_thread_closes_connection_after_failed_renewal(
    settings: Settings,
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LEASE": 0.001}
    storage = make()
    lease = leases.Lease(take_over(storage, storage.save("a.txt", file())))

    def send_a_part() -> Any:
        until(lambda: time.monotonic() - lease._renewed_at > 0.001)
        connection = connections[ledger().db]
        connection.ensure_connection()
        with connection.execute_wrapper(fail), pytest.raises(DatabaseError):
            lease.progress(1)
        return connection.connection

    def fail(*args: Any) -> None:
        raise DatabaseError

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(send_a_part).result() is None


def test_leases_are_renewed_after_invalid_setting(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_MAX", 0.05)
    storage = make()
    claimed = take_over(storage, storage.save("a.txt", file()))
    right = settings.QUEUED_STORAGE
    with leases.keep(claimed) as lease:
        settings.QUEUED_STORAGE = right | {"LEASE": "a minute"}
        until(lambda: "No lease could be renewed" in caplog.text)
        settings.QUEUED_STORAGE = right
        moment = time.monotonic()
        until(lambda: lease._renewed_at > moment)


def test_worker_without_lease_cannot_read_further() -> None:
    def lose_the_lease(name: str, local: Any, remote: Any) -> None:
        with local.open(name) as opened:
            assert take_over(storage, name)
            remote._lease.beat()  # as the heart does every few seconds
            with pytest.raises(LeaseLost):
                opened.read(1)
        with pytest.raises(LeaseLost):
            remote.save(name, file())

    storage = make(task=Step(lose_the_lease))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert on_disk("far") == []
    assert row(storage, name).state == State.TRANSFERRING  # the other worker's


class Hanging(Transfer):
    """A task that hangs at its first attempt."""

    def __init__(self) -> None:
        self.hangs, self.goes_on = threading.Event(), threading.Event()
        self.error: BaseException | None = None

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        if not self.hangs.is_set():
            self.hangs.set()
            assert self.goes_on.wait(60)
            try:
                remote._lease.require()
            except BaseException as error:
                self.error = error
                raise
        return super().transfer(name, local, remote, **kwargs)


@pytest.fixture
def impatient(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers stall soon."""
    monkeypatch.setattr(leases, "BEAT_MAX", 0.05)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "STALL_TIMEOUT": 0.3}


def test_stalled_attempt_is_recorded_while_it_hangs(
    impatient: None, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    task = Hanging()
    storage = make(task=task)
    name = storage.save("a.txt", file())
    pk = row(storage, name).pk

    def process() -> None:
        assert isinstance(work.run(pk), TransferStalled)
        connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(process)
        try:
            assert task.hangs.wait(60)
            until(lambda: row(storage, name).state == State.PENDING)
            found = row(storage, name)
            assert (found.attempts, found.lease_token) == (1, "")
            assert found.last_error == "TransferStalled: No byte moved for 0.3 seconds."
            [(_signal, sent)] = until(lambda: heard)
            assert isinstance(sent["error"], TransferStalled)
            assert pk not in leases.held()  # so that this process may try it again
            assert retry(storage, name) is None
            assert row(storage, name).state == State.TRANSFERRED
        finally:
            task.goes_on.set()
        hung.result(60)
    assert isinstance(task.error, TransferStalled)
    assert storage.remote.calls["_save"] == 1
    assert row(storage, name).last_error == ""


def test_stalled_attempts_end_as_failed(impatient: None, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    task = Hanging()
    storage = make(task=task)
    name = storage.save("a.txt", file())
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(lambda: (storage.queue.deliver(), connections.close_all()))
        try:
            until(lambda: row(storage, name).state == State.FAILED)
        finally:
            task.goes_on.set()
        hung.result(60)
    assert row(storage, name).state == State.FAILED


def test_file_that_waits_forever_loses_its_lease(impatient: None) -> None:
    storage = make()
    claimed = take_over(storage, storage.save("a.txt", file()))
    lease = leases.Lease(claimed)
    lease.waits = True
    until(lambda: not lease.is_current())
    assert not lease.stalled
    lease.begin()
    assert lease.is_current()


def test_locked_row_holds_up_no_other_lease(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's long transaction locks the row of a file that is being transferred."""
    if not connections["default"].features.has_select_for_update_skip_locked:
        pytest.skip("this database cannot skip locked rows")
    monkeypatch.setattr(leases, "BEAT_MAX", 0.05)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LEASE": 2}
    storage = make()
    locked, other = (take_over(storage, storage.save(name, file())) for name in ("a.txt", "b.txt"))
    has_lock, may_end = threading.Event(), threading.Event()

    def delete() -> None:
        with transaction.atomic():
            storage.delete("a.txt")
            has_lock.set()
            assert may_end.wait(60)
        connections.close_all()

    def renewed() -> Any:
        return row(storage, "b.txt").due_at

    with ThreadPoolExecutor(1) as pool:
        user = pool.submit(delete)
        assert has_lock.wait(60)
        with leases.keep(locked) as held_up, leases.keep(other) as lease:
            before = renewed()
            until(lambda: renewed() > before)
            started = time.monotonic()
            until(lambda: time.monotonic() - started > 2)  # longer than a lease
            held_up.progress(1)  # nobody else can have claimed it
            lease.progress(1)
            may_end.set()
            user.result(60)
            until(lambda: held_up.lost)
            assert not lease.lost


def test_process_does_not_claim_what_it_works_on() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    with leases.keep(take_over(storage, name)):
        make_due(storage, name)  # as if the database had been away for longer than the lease
        pk = row(storage, name).pk
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: (run_all([pk]), connections.close_all())).result()
    assert storage.remote.calls["_save"] == 0


def test_claim_is_renewed_while_held() -> None:
    def grow_old_and_beat(name: str, local: Any, remote: Any) -> None:
        make_due(storage, name)
        remote._lease.beat()
        assert not is_due(storage, name)

    storage = make(task=Step(grow_old_and_beat))
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


def claim(storage: Any, name: str) -> QueuedFile:
    claimed = ledger().claim(row(storage, storage.save(name, file())).pk)
    assert claimed
    return claimed


def test_promotion_during_renewal_spoils_no_other_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection takes long enough for another thread to promote the row."""
    storage = make()
    promoted, other = claim(storage, "a.txt"), claim(storage, "b.txt")
    connection = connections[ledger().db]
    connect = connection.ensure_connection

    def connect_slowly() -> None:
        connect()
        promoted.state = State.TRANSFERRED

    monkeypatch.setattr(statements, "_texts", {})
    with monkeypatch.context() as patches:
        patches.setattr(connection, "ensure_connection", connect_slowly)
        ledger().renew(promoted, 0)
    assert ledger().renew(other, 0) == 1
