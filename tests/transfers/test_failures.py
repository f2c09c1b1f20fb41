"""Attempts that fail, and what follows."""

import errno
from typing import Any

import pytest
from dramatiq.middleware import TimeLimitExceeded
from gevent import Timeout
from pytest_django import Settings

from queued_storage.exceptions import (
    InvalidResult,
    TimeLimitReached,
    TransferError,
    UnknownAlias,
    VerificationError,
)
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import work
from tests.support.scripted import (
    Step,
    file,
    is_due,
    make,
    read,
    row,
)
from tests.transfers.workers import retry

pytestmark = pytest.mark.django_db(transaction=True)


def test_failed_attempt_is_retried_later() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.rejects = True

    [error] = storage.queue.deliver().values()

    assert isinstance(error, OSError)
    found = row(storage, name)
    assert (found.state, found.attempts, found.lease_token) == (State.PENDING, 1, "")
    assert found.last_error == "OSError: The remote rejects the file."
    assert work.run(found.pk) is None  # it is not due yet
    assert row(storage, name).attempts == 1

    storage.remote.rejects = False
    assert retry(storage, name) is None
    found = row(storage, name)
    assert (found.state, found.attempts, found.last_error) == (State.TRANSFERRED, 2, "")


def test_name_forbidden_on_the_remote_fails_immediately() -> None:
    storage = make()
    name = storage.save("a.txt", file())

    def refuse(_name: str) -> None:
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    storage.remote.before["_save"] = refuse
    storage.queue.deliver()
    assert (row(storage, name).state, row(storage, name).attempts) == (State.FAILED, 1)


def test_next_attempt_is_due_after_retry_delay(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRY_DELAY": 1000}
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.rejects = True
    before = row(storage, name).due_at
    storage.queue.deliver()
    after = row(storage, name).due_at
    assert before is not None
    assert after is not None
    assert 800 <= (after - before).total_seconds() <= 1300


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 60), (1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600)]
)
def test_delay_doubles_up_to_maximum(attempts: int, seconds: int) -> None:
    delays = [work.backoff(attempts) for _try in range(200)]
    assert (
        0.8 * seconds <= min(delays) < max(delays) <= 1.2 * seconds
    )  # so that files do not retry in step


def test_delay_of_millionth_attempt_is_finite() -> None:
    assert work.backoff(1_000_000) <= 3600 * 1.2


def test_failed_file_keeps_reason_and_local_copy(
    settings: Settings, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    """Ancestor 11 of the versions 0.3 to 0.8: no error was kept."""
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 2}
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file(b"kept"))
    storage.remote.rejects = True
    for _attempt in range(3):
        retry(storage, name)

    found = row(storage, name)
    assert (found.state, found.attempts, found.due_at) == (State.FAILED, 3, None)
    assert "The remote rejects the file" in found.last_error
    assert [kwargs["will_retry"] for _signal, kwargs in heard] == [True, True, False]
    assert isinstance(heard[-1][1]["error"], OSError)
    assert read(storage, name) == b"kept"
    assert work.run(found.pk) is None


def test_transfer_retries_failed_file(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.rejects = True
    storage.queue.deliver()
    assert row(storage, name).state == State.FAILED

    result = storage.transfer(name)
    assert (row(storage, name).state, row(storage, name).attempts) == (State.PENDING, 0)
    storage.remote.rejects = False
    storage.queue.deliver()
    assert result.get(timeout=0) is True


def test_transfer_does_not_wait_for_retry_delay() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.remote.rejects = True
    storage.queue.deliver()
    storage.remote.rejects = False
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
def test_any_other_result_fails_the_file(answer: Any) -> None:
    storage = make(task=Answers(answer))
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, InvalidResult)
    assert isinstance(error, ValueError)
    assert row(storage, name).state == State.FAILED
    assert repr(answer) in row(storage, name).last_error


def test_true_without_upload_is_not_believed() -> None:
    """Moodle's objectfs logged failed uploads as done."""
    storage = make(task=Answers(True))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).state == State.PENDING


def test_foreign_object_of_same_size_is_no_upload() -> None:
    storage = make(task=Answers(True))
    name = storage.save("a.txt", file(b"ours"))
    storage.remote.save("a.txt", file(b"them"))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, VerificationError)
    assert not row(storage, name).is_remote
    assert read(storage, name) == b"ours"


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_stopped_worker_returns_the_file(end: type[BaseException]) -> None:
    def told_to_end(*args: Any) -> None:
        raise end

    storage = make(task=Step(told_to_end))
    name = storage.save("a.txt", file())
    with pytest.raises(end):
        storage.queue.deliver()
    assert (row(storage, name).state, row(storage, name).attempts) == (State.PENDING, 0)
    assert is_due(storage, name)


@pytest.mark.parametrize("limit", [TimeLimitReached, TimeLimitExceeded, Timeout])
def test_time_limit_costs_one_attempt(
    limit: type[BaseException],
) -> None:
    """The limit is the package's own, Dramatiq's, or gevent's."""

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


def test_time_limit_in_void_work_begins_nothing() -> None:
    def lose(*args: Any) -> None:
        storage.delete("a.txt")
        raise TimeLimitReached("Too long.")

    storage = make(task=Step(lose))
    name = storage.save("a.txt", file())
    with pytest.raises(TimeLimitReached):
        storage.queue.deliver()
    assert row(storage, name).state == State.DELETING
    assert is_due(storage, name)


def test_error_text_is_safe_for_postgresql() -> None:
    def fail(*args: Any) -> None:
        raise ValueError("a\0b" + "€" * 5000)

    storage = make(task=Step(fail))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert row(storage, name).last_error.startswith("ValueError: a")
    assert row(storage, name).state == State.PENDING


def test_row_with_unknown_alias_is_kept(
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


def test_tombstone_with_unknown_alias_is_kept() -> None:
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
def test_misconfigured_remote_costs_no_attempt(settings: Settings, is_deleted: bool) -> None:
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
