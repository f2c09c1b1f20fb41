"""The life of one file after it was saved, stepped through. "Ancestor 4" and the like name the
failures that were seen in django-queued-storage 0.3 to 0.8."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db import DatabaseError, connections, transaction
from dramatiq.middleware import TimeLimitExceeded
from gevent import Timeout
from pytest_django import Settings

from queued_storage.exceptions import (
    InvalidResult,
    LeaseLost,
    LocalFileChanged,
    LocalFileMissing,
    TimeLimitReached,
    TransferError,
    UnknownAlias,
    VerificationError,
)
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql import statements
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.signals import file_deleted, file_evicted, file_transferred, transfer_failed
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.testing import Fault, FaultyStorage
from queued_storage.transfers import copies, leases, work
from tests.support.scripted import (
    RenamingStorage,
    ScriptedStorage,
    Sniff,
    Step,
    disk,
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

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """What signals were sent, each with its arguments."""
    found: list[tuple[Any, dict[str, Any]]] = []

    def listen(signal: Any, **kwargs: Any) -> None:
        found.append((signal, kwargs))

    signals = (file_transferred, transfer_failed, file_evicted, file_deleted)
    for signal in signals:
        signal.connect(listen)
    yield found
    for signal in signals:
        signal.disconnect(listen)


@contextlib.contextmanager
def on_signal(signal: Any, receiver: Callable[..., None]) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


class Evict(Step, TransferAndDelete):
    """A Step that asks for eviction."""


def retry(storage: Any, name: str) -> Exception | None:
    return work.run(make_due(storage, name))


# An attempt


def test_a_saved_file_is_carried_to_the_remote() -> None:
    storage = make()
    storage.save("docs/a.txt", file(b"hello"))
    assert on_disk("far") == []

    assert storage.queue.deliver() == {}

    found = row(storage, "docs/a.txt")
    assert (found.state, found.is_local, found.remote_name) == ("transferred", True, "docs/a.txt")
    assert (found.attempts, found.lease_token, found.due_at) == (1, "", None)
    assert found.transferred_at is not None
    assert read(storage.remote, "docs/a.txt") == b"hello"
    assert read(storage.local, "docs/a.txt") == b"hello"


def test_ancestor_4_the_same_message_twice_makes_one_remote_object() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    pks = [pk for message in storage.queue.messages for pk in message]
    storage.queue.deliver()
    for pk in pks * 3:
        assert work.run(pk) is None
    assert on_disk("far") == ["a.txt"]
    assert storage.remote.calls["_save"] == 1
    assert row(storage, name).attempts == 1


def test_a_second_worker_gets_nothing_while_the_first_one_works() -> None:
    def meet_a_second_worker(name: str, local: Any, remote: Any) -> None:
        assert work.run(row(storage, name).pk) is None
        assert storage.remote.calls["_save"] == 0

    storage = make(task=Step(meet_a_second_worker))
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


def test_an_id_without_a_row_is_nothing() -> None:
    assert work.run(987_654_321) is None


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 70_000, b"\xff\r\n" * 50_001])
def test_every_byte_arrives(data: bytes) -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.bin", file(data))
    storage.queue.deliver()
    assert on_disk() == []
    assert read(storage, name) == data
    assert storage.size(name) == len(data)


def test_a_receiver_that_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def receiver(**kwargs: Any) -> None:
        raise RuntimeError("receiver")

    storage = make()
    storage.save("a.txt", file())
    with on_signal(file_transferred, receiver):
        assert storage.queue.deliver() == {}
    assert row(storage, "a.txt").state == State.TRANSFERRED
    assert "receiver" in caplog.text


def test_a_signal_tells_what_became_of_which_file(heard: list[tuple[Any, dict[str, Any]]]) -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    storage.queue.deliver()
    assert [signal for signal, _kwargs in heard] == [file_transferred, file_evicted, file_deleted]
    for _signal, kwargs in heard:
        assert kwargs["sender"] is type(storage)
        assert (kwargs["name"], kwargs["queued_file"].name) == ("a.txt", "a.txt")
        assert kwargs["local"] is storage.local
        assert kwargs["remote"] is storage.remote


# Failing and trying again


def test_a_failed_attempt_is_tried_again_later() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.refuses = True

    [error] = storage.queue.deliver().values()

    assert isinstance(error, ConnectionError)
    found = row(storage, name)
    assert (found.state, found.attempts, found.lease_token) == (State.PENDING, 1, "")
    assert found.last_error == "ConnectionError: The remote is away."
    assert work.run(found.pk) is None  # not yet
    assert row(storage, name).attempts == 1

    storage.remote.refuses = False
    assert retry(storage, name) is None
    found = row(storage, name)
    assert (found.state, found.attempts, found.last_error) == (State.TRANSFERRED, 2, "")


def test_the_next_try_is_due_after_the_delay(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRY_DELAY": 1000}
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.refuses = True
    before = row(storage, name).due_at
    storage.queue.deliver()
    after = row(storage, name).due_at
    assert before is not None
    assert after is not None
    assert 800 <= (after - before).total_seconds() <= 1300


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 60), (1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600)]
)
def test_the_delay_doubles_up_to_a_most(attempts: int, seconds: int) -> None:
    delays = [work.backoff(attempts) for _try in range(200)]
    assert (
        0.8 * seconds <= min(delays) < max(delays) <= 1.2 * seconds
    )  # and two never march in step


def test_the_delay_of_the_millionth_attempt_is_a_number() -> None:
    assert work.backoff(1_000_000) <= 3600 * 1.2


def test_ancestor_11_a_file_whose_retries_are_used_up_says_why(
    settings: Settings, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 2}
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"kept"))
    storage.remote.refuses = True
    for _attempt in range(3):
        retry(storage, name)

    found = row(storage, name)
    assert (found.state, found.attempts, found.due_at) == (State.FAILED, 3, None)
    assert "The remote is away" in found.last_error
    assert [kwargs["will_retry"] for _signal, kwargs in heard] == [True, True, False]
    assert isinstance(heard[-1][1]["error"], ConnectionError)
    assert read(storage, name) == b"kept"
    assert work.run(found.pk) is None


def test_a_failed_file_is_put_back_by_transfer(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.refuses = True
    storage.queue.deliver()
    assert row(storage, name).state == State.FAILED

    result = storage.transfer(name)
    assert (row(storage, name).state, row(storage, name).attempts) == (State.PENDING, 0)
    storage.remote.refuses = False
    storage.queue.deliver()
    assert result.get(timeout=0) is True


def test_transfer_does_not_wait_for_the_next_try() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.refuses = True
    storage.queue.deliver()
    storage.remote.refuses = False
    assert not is_due(storage, name)
    storage.transfer(name)
    storage.queue.deliver()
    assert row(storage, name).state == State.TRANSFERRED


class Answers(Transfer):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> Any:
        return self.answer


def test_false_means_try_again() -> None:
    storage = make(task=Answers(False))
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, TransferError)
    assert row(storage, name).state == State.PENDING
    assert row(storage, name).last_error


@pytest.mark.parametrize("answer", [None, 1, 0, "yes", "a.txt", []])
def test_any_other_answer_is_a_value_error_and_parks_the_file(answer: Any) -> None:
    storage = make(task=Answers(answer))
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, InvalidResult)
    assert isinstance(error, ValueError)
    assert row(storage, name).state == State.FAILED
    assert repr(answer) in row(storage, name).last_error


def test_true_without_an_upload_is_not_believed() -> None:
    """Moodle's objectfs logged failed uploads as done."""
    storage = make(task=Answers(True))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).state == State.PENDING


def test_a_long_look_at_the_local_copy_is_no_stall() -> None:
    """Of a large upload the ledger has no checksum, and a hook may have brought it by itself."""
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


def test_true_is_not_believed_where_a_foreign_object_of_the_same_size_is_found() -> None:
    storage = make(task=Answers(True))
    name = storage.save("a.txt", file(b"ours"))
    storage.remote.save("a.txt", file(b"them"))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, VerificationError)
    assert not row(storage, name).is_remote
    assert read(storage, name) == b"ours"


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_worker_that_is_told_to_end_gives_the_file_back(end: type[BaseException]) -> None:
    def told_to_end(*args: Any) -> None:
        raise end

    storage = make(task=Step(told_to_end))
    name = storage.save("a.txt", file())
    with pytest.raises(end):
        storage.queue.deliver()
    assert (row(storage, name).state, row(storage, name).attempts) == (State.PENDING, 0)
    assert is_due(storage, name)


@pytest.mark.parametrize("limit", [TimeLimitReached, TimeLimitExceeded, Timeout])
def test_a_time_limit_costs_one_attempt_and_leaves_the_rest_of_a_message_alone(
    limit: type[BaseException],
) -> None:
    """Ours, Dramatiq's, and gevent's."""

    def take_too_long(*args: Any) -> None:
        raise limit(1)

    storage = make(task=Step(take_too_long))
    names = [storage.save(name, file()) for name in ("a.txt", "b.txt")]
    with pytest.raises(limit):
        storage.queue.deliver()
    first, second = (row(storage, name) for name in names)
    assert (first.state, first.attempts, first.lease_token) == (State.PENDING, 1, "")
    assert first.last_error.startswith(limit.__name__)
    assert not is_due(storage, names[0])
    assert (second.state, second.attempts) == (State.PENDING, 0)
    assert is_due(storage, names[1])


def test_a_time_limit_in_void_work_begins_nothing_new() -> None:
    def lose(*args: Any) -> None:
        storage.delete("a.txt")
        raise TimeLimitReached("Too long.")

    storage = make(task=Step(lose))
    name = storage.save("a.txt", file())
    with pytest.raises(TimeLimitReached):
        storage.queue.deliver()
    assert row(storage, name).state == State.DELETING
    assert is_due(storage, name)


def test_an_error_text_that_postgresql_would_not_take_is_kept() -> None:
    def fail(*args: Any) -> None:
        raise ValueError("a\0b" + "€" * 5000)

    storage = make(task=Step(fail))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).last_error.startswith("ValueError: a")
    assert row(storage, name).state == State.PENDING


# Deaths and leases


def die_halfway(storage: Any, name: str, data: bytes) -> QueuedFile:
    """A worker claims the file, reserves its name, writes some bytes, and is never heard of."""
    claimed = ledger().claim(row(storage, name).pk)
    assert claimed
    assert ledger().reserve_remote_name(claimed, name)
    storage.remote.save(name, file(data))
    return claimed


def test_another_worker_finishes_after_the_lease_and_overwrites_the_remains() -> None:
    """Ancestor 3: the transfer of a killed worker was lost; 8: half an object was served."""
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


def test_a_file_that_kills_every_worker_is_parked(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    storage = make()
    name = storage.save("a.txt", file())
    for _death in range(2):
        assert take_over(storage, name)
    assert retry(storage, name) is not None
    assert row(storage, name).state == State.FAILED
    assert storage.remote.calls["_save"] == 0


def taken_over(storage: Any) -> Callable[..., None]:
    """The lease ends unnoticed, and another worker does all the work."""

    def step(name: str, local: Any, remote: Any) -> None:
        assert retry(storage, name) is None
        assert row(storage, name).state == State.TRANSFERRED
        storage.remote.calls.clear()

    return step


@pytest.mark.parametrize("is_first_attempt", [True, False])
def test_a_worker_that_lost_its_lease_sends_nothing(is_first_attempt: bool) -> None:
    task = Step(lambda *args: None)
    storage = make(task=task)
    name = storage.save("a.txt", file())
    if not is_first_attempt:
        die_halfway(storage, name, b"remains")
    task.first = taken_over(storage)
    work.run(make_due(storage, name))
    assert storage.remote.calls["_save"] == 0
    assert storage.remote.calls["delete"] == 0
    found = row(storage, name)
    assert (found.state, found.lease_token, found.last_error) == (State.TRANSFERRED, "", "")
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, name) == b"bytes"


def test_a_late_worker_does_not_put_old_bytes_over_new_ones() -> None:
    task = Step(lambda *args: None)
    storage = make(task=task)
    name = storage.save("a.txt", file(b"old"))
    die_halfway(storage, name, b"remains")

    class Late(Transfer):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            with local.open(name) as opened:
                data = opened.read()
                storage._options["task"] = Transfer()
                with storage.open(name, "wb") as newer:
                    newer.write(b"newer")
                assert retry(storage, name) is None
                assert read(storage.remote, name) == b"newer"
                remote.save(name, file(data))
            return True

    storage._options["task"] = Late()
    work.run(make_due(storage, name))
    assert row(storage, name).state == State.TRANSFERRED
    assert read(storage.remote, name) == b"newer"


@pytest.mark.parametrize("method", ["_save", "size"])
@pytest.mark.parametrize("error", [None, ConnectionError("too late")])
def test_a_worker_that_lost_its_lease_changes_nothing_in_the_ledger(
    method: str, error: Exception | None
) -> None:
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


def test_a_thread_of_the_sender_keeps_no_connection(settings: Settings) -> None:
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
    assert ledger().filter(pk=claimed.pk, sent=1).exists()  # it did ask


def test_a_thread_of_the_sender_keeps_no_connection_whose_renewal_failed(
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


def test_leases_are_renewed_after_a_setting_was_wrong_for_a_moment(
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


def test_a_worker_without_its_lease_can_read_no_further() -> None:
    def lose_the_lease(name: str, local: Any, remote: Any) -> None:
        with local.open(name) as opened:
            assert take_over(storage, name)
            remote._lease.beat()  # what the heart does every now and then
            with pytest.raises(LeaseLost):
                opened.read(1)
        with pytest.raises(LeaseLost):
            remote.save(name, file())

    storage = make(task=Step(lose_the_lease))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert on_disk("far") == []
    assert row(storage, name).state == State.TRANSFERRING  # the other worker's


def test_an_attempt_that_stood_still_is_followed_by_another_one(settings: Settings) -> None:
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


def test_a_claim_is_renewed_while_it_is_held() -> None:
    def grow_old_and_beat(name: str, local: Any, remote: Any) -> None:
        make_due(storage, name)
        remote._lease.beat()
        assert not is_due(storage, name)

    storage = make(task=Step(grow_old_and_beat))
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


# The local copy


def test_a_missing_local_copy_parks_the_file() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    disk().delete(name)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, LocalFileMissing)
    assert row(storage, name).state == State.FAILED
    assert "a.txt" in row(storage, name).last_error


def test_a_local_copy_that_only_another_host_may_have_is_waited_for(settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 1}
    storage = make()
    name = storage.save("a.txt", file(b"mine"))
    QueuedFile.objects.update(host="elsewhere")
    disk().delete(name)
    storage.queue.deliver()
    assert row(storage, name).state == State.PENDING
    assert "elsewhere" in row(storage, name).last_error
    make_due(storage, name)
    work.run(row(storage, name).pk)
    assert row(storage, name).state == State.FAILED


@pytest.mark.parametrize("data", [b"short", b"other!"])
def test_a_local_copy_that_is_not_what_was_saved_is_not_sent_on(data: bytes) -> None:
    storage = make()
    name = storage.save("a.txt", file(b"saved!"))
    disk().delete(name)
    disk().save(name, file(data))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, LocalFileChanged)
    assert not row(storage, name).is_remote
    assert row(storage, name).state == State.FAILED


def test_a_file_that_was_put_back_is_transferred() -> None:
    storage = make()
    name = storage.save("a.txt", file(b"saved"))
    disk().delete(name)
    storage.queue.deliver()
    disk().save(name, file(b"saved"))
    storage.transfer(name)
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


# Verification


@pytest.mark.parametrize(
    ("fault", "level"),
    [
        (Fault.LOSE, "size"),
        (Fault.TRUNCATE, "size"),
        (Fault.HALFWAY, "size"),
        (Fault.LOSE, "content"),
        (Fault.TRUNCATE, "content"),
        (Fault.FLIP, "content"),
    ],
)
def test_the_local_copy_stays_until_the_remote_one_is_proved(
    settings: Settings, fault: Fault, level: str
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": level}
    storage = make(remote=FaultyStorage(ScriptedStorage(), fault=fault), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"every byte of it"))
    assert len(storage.queue.deliver()) == 1
    found = row(storage, name)
    assert (found.state, found.is_local, found.verified) == (State.PENDING, True, "")
    assert read(storage, name) == b"every byte of it"

    storage.remote.fault = None
    assert retry(storage, name) is None
    assert row(storage, name).verified == level
    assert on_disk("far") == ["a.txt"]
    assert on_disk() == []
    assert read(storage, name) == b"every byte of it"


def test_the_generic_uploader_says_that_it_proved_no_more_than_the_size() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).verified == "size"


# Eviction


def test_ancestor_7_the_local_copy_goes_after_the_ledger_turned_reads_to_the_remote() -> None:
    local = ScriptedStorage("disk")
    storage = make(local=local, task=TransferAndDelete)
    name = storage.save("a.txt", file())
    seen = []

    def look(name: str) -> None:
        seen.append((row(storage, name).is_remote, storage.url(name), read(storage, name)))

    def arm(**kwargs: Any) -> None:
        local.before["delete"] = look

    with on_signal(file_transferred, arm):
        storage.queue.deliver()
    assert seen == [(True, "https://far.example/a.txt", b"bytes")]
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, False)
    assert found.evicted_at is not None
    assert on_disk() == []
    assert read(storage, name) == b"bytes"


def test_an_eviction_that_fails_is_tried_again() -> None:
    def fail(name: str) -> None:
        raise PermissionError("not yours")

    local = ScriptedStorage("disk")
    storage = make(local=local, task=TransferAndDelete)
    name = storage.save("a.txt", file())

    def arm(**kwargs: Any) -> None:
        local.before["delete"] = fail

    with on_signal(file_transferred, arm):
        [error] = storage.queue.deliver().values()
    assert isinstance(error, PermissionError)
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert found.due_at is not None
    assert retry(storage, name) is None
    assert (row(storage, name).is_local, row(storage, name).due_at) == (False, None)
    assert on_disk() == []
    assert storage.remote.calls["_save"] == 1


def test_the_worker_dies_between_promotion_and_eviction() -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file())

    def die(**kwargs: Any) -> None:
        raise SystemExit

    with on_signal(file_transferred, die), pytest.raises(SystemExit):
        storage.queue.deliver()
    assert row(storage, name).is_remote
    assert on_disk() == ["a.txt"]
    assert retry(storage, name) is None
    assert on_disk() == []
    assert row(storage, name).evicted_at is not None
    assert storage.remote.calls["_save"] == 1


def test_new_content_is_not_evicted_for_the_old() -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"old"))

    def overwrite(**kwargs: Any) -> None:
        file_transferred.disconnect(overwrite)
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    with on_signal(file_transferred, overwrite):
        storage.queue.deliver()
    assert read(storage, name) == b"newer"
    storage.queue.deliver()
    assert (row(storage, name).generation, row(storage, name).is_local) == (2, False)
    assert read(storage, name) == b"newer"


# Names on the remote


def test_ancestor_6_a_foreign_object_is_neither_overwritten_nor_served() -> None:
    storage = make(task=TransferAndDelete)
    storage.remote.save("docs/a.txt", file(b"theirs"))
    name = storage.save("docs/a.txt", file(b"our own"))
    storage.queue.deliver()

    mapped = row(storage, name).remote_name
    assert mapped != name
    assert mapped.startswith("docs/a_")
    assert mapped.endswith(".txt")
    assert read(storage.remote, name) == b"theirs"
    assert read(storage, name) == b"our own"
    assert storage.size(name) == 7
    assert storage.url(name) == f"https://far.example/{mapped}"
    assert storage.urls([name]) == {name: storage.url(name)}
    assert storage.listdir("docs") == ([], ["a.txt"])
    with storage.local_path(name) as path, open(path, "rb") as opened:
        assert opened.read() == b"our own"

    storage.delete(name)
    storage.queue.deliver()
    assert on_disk("far") == ["docs/a.txt"]
    assert read(storage.remote, name) == b"theirs"


@pytest.mark.parametrize("theirs", [b"", b"our", b"OUR OWN", b"our owner"])
def test_a_retry_overwrites_its_own_object_and_never_the_foreign_one(theirs: bytes) -> None:
    storage = make()
    storage.remote.save("a.txt", file(theirs))
    name = storage.save("a.txt", file(b"our own"))

    def fail(name: str) -> None:
        raise ConnectionError("after the upload")

    storage.remote.after["_save"] = fail
    storage.queue.deliver()
    mapped = row(storage, name).remote_name
    assert mapped != name
    assert retry(storage, name) is None
    assert row(storage, name).remote_name == mapped
    assert on_disk("far") == sorted(["a.txt", mapped])
    assert read(storage.remote, "a.txt") == theirs


def test_an_object_with_our_very_bytes_is_taken_as_ours() -> None:
    storage = make()
    storage.remote.save("a.txt", file(b"the same"))
    storage.remote.calls.clear()
    name = storage.save("a.txt", file(b"the same"))
    storage.queue.deliver()
    assert (row(storage, name).state, row(storage, name).remote_name) == ("transferred", "a.txt")
    assert storage.remote.calls["_save"] == 0


def mapped_file(storage: Any) -> str:
    """Saves "a.txt" where the remote has a foreign one; returns the name it got there."""
    storage.remote.save("a.txt", file(b"theirs"))
    storage.save("a.txt", file(b"our own"))
    storage.queue.deliver()
    mapped: str = row(storage, "a.txt").remote_name
    assert mapped != "a.txt"
    return mapped


def test_two_files_never_share_an_object() -> None:
    storage = make(task=TransferAndDelete)
    mapped = mapped_file(storage)
    name = storage.save(mapped, file(b"our own"))
    assert name == mapped
    storage.queue.deliver()
    assert row(storage, name).state == State.TRANSFERRED

    storage.delete(name)
    storage.queue.deliver()
    assert read(storage, "a.txt") == b"our own"


def test_two_storages_on_one_remote_never_share_an_object() -> None:
    remote = ScriptedStorage()
    one = make(remote=remote, local=ScriptedStorage("disk/one"), task=TransferAndDelete)
    two = make(remote=remote, local=ScriptedStorage("disk/two"), task=TransferAndDelete)
    for storage in (one, two):
        storage.save("logo.png", file(b"the same logo"))
        storage.queue.deliver()
    one.delete("logo.png")
    one.queue.deliver()
    assert read(two, "logo.png") == b"the same logo"


def test_deleting_a_name_without_a_row_leaves_what_another_file_is_called_on_the_remote() -> None:
    storage = make(task=TransferAndDelete)
    mapped = mapped_file(storage)
    storage.delete(mapped)
    storage.queue.deliver()
    assert read(storage, "a.txt") == b"our own"


def test_ancestor_6_the_name_that_the_remote_chose_is_kept() -> None:
    storage = make(remote=RenamingStorage(), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"our own"))
    storage.queue.deliver()
    [chosen] = on_disk("far")
    assert chosen != "a.txt"
    assert row(storage, name).remote_name == chosen
    storage.remote.save_as = None
    assert read(storage, name) == b"our own"
    storage.delete(name)
    storage.queue.deliver()
    assert on_disk("far") == []


def test_a_remote_that_renames_keeps_no_remains_of_a_failed_attempt() -> None:
    storage = make(remote=RenamingStorage())
    name = storage.save("a.txt", file())

    def fail(name: str) -> None:
        raise ConnectionError("while it is verified")

    storage.remote.before["size"] = fail
    assert storage.queue.deliver()
    assert len(on_disk("far")) == 1
    assert retry(storage, name) is None
    assert on_disk("far") == [row(storage, name).remote_name]


def test_a_remote_that_renames_keeps_nothing_of_a_file_that_was_deleted_meanwhile() -> None:
    storage = make(remote=RenamingStorage())
    name = storage.save("a.txt", file())
    storage.remote.after["_save"] = storage_deletes(storage, name)
    storage.queue.deliver()
    assert on_disk("far") == []
    assert storage.queued_file(name) is None


def test_a_remote_that_renames_keeps_nothing_of_old_content() -> None:
    storage = make(remote=RenamingStorage())
    name = storage.save("a.txt", file(b"old"))

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    storage.remote.after["_save"] = overwrite
    storage.queue.deliver()
    assert row(storage, name).state == State.TRANSFERRED
    assert on_disk("far") == [row(storage, name).remote_name]
    assert read(storage.remote, row(storage, name).remote_name) == b"newer"


def storage_deletes(storage: Any, name: str) -> Callable[[str], None]:
    return lambda _name: storage.delete(name)


# Deletes win


class At:
    """A moment of a transfer: before or after a call of one of the two storages."""

    def __init__(self, side: str, when: str, method: str) -> None:
        self.place = (side, when, method)

    def __repr__(self) -> str:
        return "-".join(self.place)

    def arm(self, storage: Any, act: Callable[[], object]) -> None:
        side, when, method = self.place
        getattr(getattr(storage, side), when)[method] = lambda _name: act()


MOMENTS = [
    At("local", "before", "exists"),
    At("local", "after", "exists"),
    At("local", "after", "size"),
    At("local", "before", "_open"),
    At("local", "after", "_open"),
    At("remote", "before", "exists"),
    At("remote", "after", "exists"),
    At("remote", "before", "_save"),
    At("remote", "after", "_save"),
    At("remote", "before", "size"),
    At("remote", "after", "size"),
]
RETRY_MOMENTS = [  # a retry does not look for foreign objects
    *(moment for moment in MOMENTS if moment.place[::2] != ("remote", "exists")),
    At("remote", "before", "delete"),
    At("remote", "after", "delete"),
]
TASKS = pytest.mark.parametrize("task", [Transfer, TransferAndDelete])


@TASKS
@pytest.mark.parametrize("moment", MOMENTS, ids=repr)
def test_a_delete_wins_at_every_moment_of_a_transfer(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file())
    happened = []

    def delete() -> None:
        happened.append(moment)
        storage.delete(name)
        assert not storage.exists(name)
        assert row(storage, name).state == State.DELETING  # a worker may still write: not free yet

    moment.arm(storage, delete)
    storage.queue.deliver()
    assert happened
    assert storage.queued_file(name) is None
    assert on_disk() == []
    assert on_disk("far") == []
    assert not storage.exists(name)
    assert storage.queue.deliver() == {}
    assert on_disk("far") == []


@TASKS
@pytest.mark.parametrize("moment", RETRY_MOMENTS, ids=repr)
def test_a_delete_wins_at_every_moment_of_a_retry(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file(b"whole"))
    die_halfway(storage, name, b"who")
    storage.remote.calls.clear()
    moment.arm(storage, lambda: storage.delete(name))
    retry(storage, name)
    assert storage.queued_file(name) is None
    assert on_disk() == []
    assert on_disk("far") == []


@TASKS
def test_a_delete_wins_right_after_the_promotion(task: type[Transfer]) -> None:
    storage = make(task=task)
    name = storage.save("a.txt", file())
    with on_signal(file_transferred, lambda **kwargs: storage.delete(name)):
        storage.queue.deliver()
    storage.queue.deliver()
    assert storage.queued_file(name) is None
    assert on_disk() == []
    assert on_disk("far") == []


@TASKS
@pytest.mark.parametrize("moment", MOMENTS, ids=repr)
def test_a_delete_that_is_rolled_back_stops_nothing(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file())

    def delete_and_roll_back() -> None:
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            storage.delete(name)
            raise ZeroDivisionError

    moment.arm(storage, delete_and_roll_back)
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED
    assert read(storage, name) == b"bytes"


def test_the_purge_waits_for_a_worker_until_its_lease_has_ended_for_certain() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    claimed = die_halfway(storage, name, b"by")
    storage.delete(name)
    assert on_disk() == []
    assert work.run(claimed.pk) is None
    tombstone = row(storage, name)
    assert tombstone.state == State.DELETING
    assert claimed.due_at is not None
    assert tombstone.due_at is not None
    assert tombstone.due_at > claimed.due_at
    assert storage.save(name, file()) != name

    assert retry(storage, name) is None
    assert storage.queued_file(name) is None
    assert "a.txt" not in on_disk("far")


def test_the_purge_does_not_wait_for_a_worker_whose_lease_has_ended() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    die_halfway(storage, name, b"by")
    make_due(storage, name)
    storage.delete(name)
    storage.queue.deliver()
    assert storage.queued_file(name) is None
    assert on_disk("far") == []


def test_ancestor_9_a_delete_removes_both_copies() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    assert on_disk() == []
    assert on_disk("far") == ["a.txt"]
    storage.queue.deliver()
    assert on_disk("far") == []
    assert storage.queued_file(name) is None
    assert not storage.exists(name)


def test_ancestor_9_a_delete_before_the_transfer_leaves_nothing_to_retry() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None
    assert storage.remote.calls == {}


def test_a_delete_is_tried_until_it_succeeds(settings: Settings) -> None:
    """Active Storage removed the row first, so a failed delete was never tried again."""
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 1}
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    storage.remote.refuses = True
    for _try in range(5):
        assert isinstance(retry(storage, name), ConnectionError)
        found = row(storage, name)
        assert (found.state, found.lease_token) == (State.DELETING, "")
        assert found.last_error
        assert not is_due(storage, name)
        assert found.due_at is not None
    assert not storage.exists(name)
    assert storage.save(name, file()) != name

    storage.remote.refuses = False
    assert retry(storage, name) is None
    assert storage.queued_file(name) is None


def test_deleting_what_is_gone_already_succeeds() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    disk().delete(name)
    FileSystemStorage.delete(storage.remote, name)
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None


def test_a_late_removal_of_the_local_copy_spares_the_next_file_of_that_name() -> None:
    storage = make()
    name = storage.save("a.txt", file(b"old"))
    with transaction.atomic():
        storage.delete(name)
        late = row(storage, name).pk
    storage.queue.deliver()
    assert storage.save(name, file(b"new")) == name
    copies.drop_local(storage, late, name)
    assert read(storage, name) == b"new"


class StrictStorage(ScriptedStorage):
    """Cannot delete what is not there, and says so in its own way, as Dropbox's."""

    def delete(self, name: str) -> None:
        if not self.exists(name):
            raise LookupError(name)
        super().delete(name)


def test_a_remote_that_cannot_delete_what_is_not_there() -> None:
    storage = make(remote=StrictStorage())
    first, second = (storage.save(name, file()) for name in ("a.txt", "b.txt"))
    for name in (first, second):
        storage.remote.before["_save"] = raise_connection_error
        assert isinstance(retry(storage, name), ConnectionError)
        assert row(storage, name).remote_name == name

    assert retry(storage, first) is None
    assert read(storage.remote, first) == b"bytes"
    storage.delete(second)
    storage.queue.deliver()
    assert storage.queued_file(second) is None

    storage.delete(first)
    storage.remote.before["delete"] = raise_connection_error
    storage.queue.deliver()
    assert storage.queued_file(first) is not None  # it is there still
    assert retry(storage, first) is None
    assert on_disk("far") == []


def raise_connection_error(name: str) -> None:
    raise ConnectionError("The remote is away.")


def test_an_error_of_the_local_delete_is_raised_and_made_up_for() -> None:
    def fail(name: str) -> None:
        raise PermissionError("not yours")

    storage = make(local=ScriptedStorage("disk"))
    name = storage.save("a.txt", file())
    storage.local.before["delete"] = fail
    with pytest.raises(PermissionError):
        storage.delete(name)
    assert not storage.exists(name)
    storage.queue.deliver()
    assert on_disk() == []
    assert storage.queued_file(name) is None


def test_inside_a_transaction_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> None:
        raise PermissionError("not yours")

    storage = make(local=ScriptedStorage("disk"))
    name = storage.save("a.txt", file())
    storage.local.before["delete"] = fail
    with transaction.atomic():
        storage.delete(name)
    assert "not yours" in caplog.text
    storage.queue.deliver()
    assert on_disk() == []


# New content


@TASKS
@pytest.mark.parametrize("moment", MOMENTS, ids=repr)
def test_new_content_wins_at_every_moment_of_a_transfer(moment: At, task: type[Transfer]) -> None:
    storage = make(local=ScriptedStorage("disk"), task=task)
    name = storage.save("a.txt", file(b"old"))

    def overwrite() -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")
        assert read(storage, name) == b"newer"
        assert storage.using_local(name)

    moment.arm(storage, overwrite)
    storage.queue.deliver()
    found = row(storage, name)
    assert (found.generation, found.state, found.size) == (2, State.TRANSFERRED, 5)
    assert on_disk("far") == ["a.txt"]
    assert read(storage.remote, name) == b"newer"
    assert read(storage, name) == b"newer"
    assert on_disk() == ([] if task is TransferAndDelete else ["a.txt"])


def test_new_content_of_a_transferred_file_is_served_at_once_and_transferred() -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    assert storage.using_remote(name)
    with storage.open(name, "wb") as opened:
        opened.write(b"newer")
    assert storage.using_local(name)
    assert storage.url(name) == "/media/a.txt"
    storage.queue.deliver()
    assert storage.url(name) == "https://far.example/a.txt"
    assert read(storage.remote, name) == b"newer"
    assert on_disk("far") == ["a.txt"]


# Rows that this process cannot work on


def test_a_row_whose_alias_nobody_has_is_reported_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """rclone #7364: a changed option abandoned pending files."""
    storage = make()
    name = storage.save("a.txt", file())
    pk = row(storage, name).pk
    ledger().filter(pk=pk).update(alias="gone")
    for _try in range(10):
        make_all_due()
        assert isinstance(work.run(pk), UnknownAlias)
    found = QueuedFile.objects.get(pk=pk)
    assert (found.state, found.attempts, found.lease_token) == (State.PENDING, 0, "")
    assert "'gone'" in found.last_error
    assert "'gone'" in caplog.text
    assert found.due_at is not None

    ledger().filter(pk=pk).update(alias=storage.alias)
    assert retry(storage, name) is None
    assert row(storage, name).state == State.TRANSFERRED


def test_a_tombstone_whose_alias_nobody_has_is_kept() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.delete(name)
    pk = row(storage, name).pk
    ledger().filter(pk=pk).update(alias="gone")
    assert isinstance(work.run(pk), UnknownAlias)
    found = QueuedFile.objects.get(pk=pk)
    assert (found.state, found.attempts) == (State.DELETING, 0)


def make_all_due() -> None:
    for pk in QueuedFile.objects.values_list("pk", flat=True):
        ledger().filter(pk=pk).update(due_at="2001-01-01T00:00Z")


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_remote_that_this_worker_cannot_make_is_reported_and_burns_nothing(
    settings: Settings, is_deleted: bool
) -> None:
    from django.core.files.storage import storages

    storage: Any = storages["default"]
    name = storage.save("a.txt", file())
    pk = row(storage, name).pk
    if is_deleted:
        storage.queue.deliver()
        storage.delete(name)
    settings.STORAGES = {
        **settings.STORAGES,
        "far": {"BACKEND": "no.such.library.Storage"},
    }
    for _try in range(10):
        make_all_due()
        assert work.run(pk) is not None
    found = QueuedFile.objects.get(pk=pk)
    assert found.state == (State.DELETING if is_deleted else State.PENDING)
    assert found.attempts <= 1
    assert found.lease_token == ""
    assert "no.such.library" in found.last_error


# What a hook sees of the two storages


def hooked(act: Callable[..., object]) -> Any:
    """A storage whose file "a.txt" is transferred with `act` as the first step."""
    storage = make(task=Step(act))
    storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert row(storage, "a.txt").is_remote
    return storage


def test_a_hook_sees_its_file_on_the_remote_under_its_own_name() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        storage.remote.save(name, file(b"theirs"))
        assert remote.save(name, file(b"hello")) == name
        assert remote.exists(name)
        assert remote.size(name) == 5
        assert read(remote, name) == b"hello"
        assert remote.url(name) == storage.remote.url(row(storage, name).remote_name)
        assert remote.path(name) != storage.remote.path(name)
        assert read(storage.remote, name) == b"theirs"
        remote.delete(name)
        assert on_disk("far") == [name]

    storage = make(task=Step(act))
    storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert read(storage.remote, row(storage, "a.txt").remote_name) == b"hello"


def test_a_hook_may_work_on_other_files() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        assert remote.save("thumb.txt", file(b"small")) == "thumb.txt"
        assert read(remote, "thumb.txt") == b"small"
        local.save("scratch.txt", file(b"work"))
        with local.open("scratch.txt", "rb+") as scratch:
            scratch.write(b"WORK")
        assert read(local, "scratch.txt") == b"WORK"
        local.delete("scratch.txt")
        assert local.base_url == "/media/"

    hooked(act)
    assert on_disk() == ["a.txt"]
    assert on_disk("far") == ["a.txt", "thumb.txt"]


def test_what_a_hook_sends_is_what_is_read() -> None:
    class Shout(TransferAndDelete):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            remote.save(name, file(read(local, name).upper() + b"!"))
            local.delete(name)
            assert local.exists(name)  # until the other copy is proved
            return True

    storage = make(task=Shout)
    name = storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert read(storage, name) == b"HELLO!"
    assert storage.size(name) == 6
    assert on_disk() == []


def test_a_hook_that_fails_after_it_asked_for_the_eviction_keeps_the_local_copy() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        local.delete(name)
        raise ConnectionError("too bad")

    storage = make(task=Step(act))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert read(storage, name) == b"bytes"
    assert retry(storage, name) is None
    assert row(storage, name).is_local


def test_a_hook_may_send_twice() -> None:
    def act(name: str, local: Any, remote: Any) -> None:
        remote.save(name, file(b"first try"))

    storage = hooked(act)
    assert read(storage.remote, "a.txt") == b"hello"
    assert on_disk("far") == ["a.txt"]


def test_a_remote_on_which_every_name_is_taken() -> None:
    class Full(ScriptedStorage):
        def exists(self, name: str) -> bool:
            return True

        def size(self, name: str) -> int:
            return -1

    storage = make(remote=Full())
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, TransferError)
    assert on_disk("far") == []
    assert row(storage, name).state == State.PENDING


@pytest.mark.parametrize(
    "name", ["n" * 251 + ".txt", "d/" + "ü" * 124 + ".tar.gz", "2024." + "01." * 82 + "txt"]
)
def test_the_longest_names_are_passed_by_too(name: str) -> None:
    storage = make()
    storage.remote.save(name, file(b"theirs"))
    assert storage.save(name, file(b"our own")) == name
    assert storage.queue.deliver() == {}
    mapped = row(storage, name).remote_name
    assert mapped != name
    assert Path(mapped).suffix == Path(name).suffix
    assert read(storage.remote, name) == b"theirs"
    assert read(storage.remote, mapped) == b"our own"


class ReadsOn(ScriptedStorage):
    """Stores what is left to read, as many a `_save()` does."""

    def _save(self, name: str, content: Any) -> str:
        return str(super()._save(name, file(content.read())))


def test_a_remote_that_does_not_rewind_gets_the_whole_file_beside_a_foreign_one() -> None:
    storage = make(remote=ReadsOn())
    storage.remote.save("a.txt", file(b"theirs"))
    name = storage.save("a.txt", file(b"our's."))
    assert storage.queue.deliver() == {}
    assert read(storage.remote, row(storage, name).remote_name) == b"our's."


def test_a_remote_that_does_not_rewind_gets_all_of_a_file_that_a_hook_had_a_look_at() -> None:
    sniff = Sniff()
    storage = make(remote=ReadsOn(), task=sniff)
    name = storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    assert sniff.seen == b"hel"
    assert read(storage.remote, name) == b"hello"


def test_a_remote_whose_save_returns_a_path_is_taken_at_its_word() -> None:
    class Paths(ScriptedStorage):
        def save(self, name: Any, content: Any, max_length: int | None = None) -> Any:
            return Path(super().save(f"in/{name}", content, max_length))

    storage = make(remote=Paths())
    name = storage.save("a.txt", file(b"hello"))
    with mock.patch.dict(statements._texts, clear=True):
        assert storage.queue.deliver() == {}
    assert row(storage, name).remote_name == "in/a.txt"
    assert read(storage.remote, "in/a.txt") == b"hello"


def test_a_remote_whose_save_returns_no_name_is_an_error_that_says_so() -> None:
    class Nameless(ScriptedStorage):
        def save(self, name: Any, content: Any, max_length: int | None = None) -> Any:
            super().save(name, content, max_length)

    storage = make(remote=Nameless())
    name = storage.save("a.txt", file(b"hello"))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, InvalidResult)
    assert row(storage, name).state == State.FAILED
    assert "Nameless.save() returned None; it must" in row(storage, name).last_error
    assert read(disk(), name) == b"hello"


class DeletesOnce(InMemoryStorage):
    """As Dropbox: a delete where nothing is, is an error of its own."""

    fails = False

    def delete(self, name: str) -> None:
        if self.fails or not self.exists(name):
            raise RuntimeError("path_lookup/not_found")
        super().delete(name)

    def _save(self, name: str, content: Any) -> str:
        if self.fails:
            raise ConnectionError("It is down.")
        return super()._save(name, content)


def test_a_retry_and_a_delete_where_nothing_was_and_the_remote_minds() -> None:
    remote = DeletesOnce()
    storage = make(remote=remote)
    storage.save("a.txt", file(b"hello"))
    remote.fails = True
    assert len(storage.queue.deliver()) == 1
    assert row(storage, "a.txt").remote_name == "a.txt"  # reserved, and nothing there
    remote.fails = False
    assert storage.transfer("a.txt").state == State.PENDING
    assert storage.queue.deliver() == {}
    assert read(remote, "a.txt") == b"hello"
    remote.delete("a.txt")  # somebody
    storage.delete("a.txt")
    assert storage.queue.deliver() == {}
    assert storage.queued_file("a.txt") is None


def test_a_delete_that_fails_is_tried_again() -> None:
    remote = DeletesOnce()
    storage = make(remote=remote)
    storage.save("a.txt", file(b"hello"))
    assert storage.queue.deliver() == {}
    remote.fails = True
    storage.delete("a.txt")
    assert len(storage.queue.deliver()) == 1
    assert row(storage, "a.txt").state == State.DELETING
