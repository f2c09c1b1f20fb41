"""Leases: how claims are renewed, and what happens to those that are lost."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DatabaseError, connections
from pytest_django import Settings

from queued_storage.exceptions import LeaseLost
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import statements
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
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
    for _death in range(2):
        assert take_over(storage, name)
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


def test_stalled_attempt_is_followed_by_another(settings: Settings) -> None:
    def stand_still(name: str, local: Any, remote: Any) -> None:
        settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "STALL_TIMEOUT": 1e-9}
        remote._lease.beat()
        settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "STALL_TIMEOUT": 600}
        assert remote._lease.lost

    storage = make(task=Step(stand_still))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    found = row(storage, name)
    assert found.state == State.TRANSFERRED or found.due_at is not None
    retry(storage, name)
    assert row(storage, name).state == State.TRANSFERRED


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
