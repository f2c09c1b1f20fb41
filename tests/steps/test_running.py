"""How steps are run, repeated, put off and given up."""

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db import OperationalError, connection, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from queued_storage.conf import settings as own_settings
from queued_storage.exceptions import (
    InvalidResult,
    LeaseLost,
    NameUnavailable,
    TransferError,
    TransferTimeout,
)
from queued_storage.files import localfiles, quarantine
from queued_storage.ledger.database import ledger
from queued_storage.ledger.preparation_claims import preparation_claims
from queued_storage.ledger.preparations import PreparationState, preparations
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.queues.threads import ThreadQueue
from queued_storage.signals import file_rejected
from queued_storage.steps import LATER, PASS, REJECT, REPLACE
from queued_storage.tasks import TransferAndDelete
from queued_storage.testing import drain
from queued_storage.transfers import leases
from queued_storage.transfers.executor import Executor
from tests.support.scripted import file, make, on_disk, read, row
from tests.support.stepping import (
    EICAR,
    Passing,
    Scanning,
    Scripted,
    at_once,
    gated,
    hurry,
    preparation,
    run,
)
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

DUMMY = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}
DATA = ("SELECT", "INSERT", "UPDATE", "DELETE")
BOTH = pytest.mark.parametrize("make", [gated, at_once], ids=["gated", "at_once"])
Make = Callable[..., Any]


def the(storage: Any, name: str = "a.txt") -> Any:
    found = preparation(storage, name)
    assert found is not None
    return found


@BOTH
def test_steps_run_in_their_order_once(make: Make) -> None:
    order: list[int] = []
    storage = make(*(Scripted(lambda file, n=n: order.append(n)) for n in range(3)))
    storage.save("a.txt", file())
    run(storage)
    assert order == [0, 1, 2]
    assert row(storage, "a.txt").state == State.PENDING


@BOTH
def test_later_is_not_counted(make: Make) -> None:
    step = Scripted(*[LATER(3600)] * 20)
    storage = make(step)
    storage.save("a.txt", file())
    for number in range(20):
        assert run(storage) == {}
        assert step.calls == number + 1
        assert the(storage).attempts == 0
        hurry(storage)
    drain(storage)
    assert storage.is_published("a.txt")


@BOTH
def test_an_error_is_retried_until_the_file_is_held(make: Make) -> None:
    step = Scripted(*[OSError("no scanner")] * 3)
    storage = make(step)
    storage.save("a.txt", file())
    with override_settings(QUEUED_STORAGE={**DUMMY, "RETRIES": 2}):
        for attempt in (1, 2):
            assert len(run(storage)) == 1
            assert the(storage).attempts == attempt
            assert run(storage) == {}  # it waits
            hurry(storage)
        assert len(run(storage)) == 1
    assert the(storage).state == PreparationState.HELD
    assert "no scanner" in the(storage).last_error
    assert row(storage, "a.txt").state == State.PREPARING
    assert storage.is_published("a.txt") == (make is at_once)
    hurry(storage)
    assert run(storage) == {}
    assert step.calls == 3


@BOTH
def test_or_published_without_the_step(make: Make) -> None:
    after = Passing()
    storage = make(Scripted(OSError("no scanner")), after)
    storage.save("a.txt", file())
    with override_settings(QUEUED_STORAGE={**DUMMY, "RETRIES": 0, "ON_STEP_ERROR": "publish"}):
        run(storage)
    assert len(after.seen) == 1  # the other steps are run
    assert storage.is_published("a.txt")
    assert row(storage, "a.txt").state == State.PENDING


def test_each_step_has_all_its_attempts() -> None:
    storage = gated(Scripted(OSError("first")), Scripted(OSError("second")))
    storage.save("a.txt", file())
    with override_settings(QUEUED_STORAGE={**DUMMY, "RETRIES": 1}):
        for _attempt in range(3):
            run(storage)
            hurry(storage)
    assert storage.is_published("a.txt")


def test_steps_that_passed_are_not_run_again() -> None:
    first = Passing()
    storage = gated(first, Scripted(OSError("second")))
    storage.save("a.txt", file())
    run(storage)
    hurry(storage)
    run(storage)
    assert len(first.seen) == 1


def test_other_steps_begin_anew() -> None:
    storage = gated(Passing(), Scripted(LATER(1)))
    storage.save("a.txt", file())
    run(storage)
    assert the(storage).step == 1
    first, second = Scripted(), Passing()
    vars(storage)["_steps"] = [first, second]
    hurry(storage)
    run(storage)
    assert (first.calls, len(second.seen)) == (1, 1)


def test_an_answer_that_is_none_of_the_outcomes() -> None:
    storage = gated(Scripted(True))
    storage.save("a.txt", file())
    [error] = run(storage).values()
    assert isinstance(error, InvalidResult)
    assert the(storage).state == PreparationState.HELD


def test_a_process_without_the_steps_leaves_files_alone() -> None:
    storage = gated(Scanning(), alias="known")
    storage.save("a.txt", file(EICAR))
    storage._options["steps"] = []
    assert drain(storage) == {}
    assert not storage.is_published("a.txt")


def test_the_signal_names_step_and_reason() -> None:
    found: list[Any] = []

    def receive(**kwargs: Any) -> None:
        found.append(
            (kwargs["name"], kwargs["reason"], kwargs["step"], kwargs["queued_file"].state)
        )

    file_rejected.connect(receive)
    try:
        storage = at_once(Scanning())
        storage.save("a.txt", file(EICAR))
        run(storage)
    finally:
        file_rejected.disconnect(receive)
    path = "tests.support.stepping.Scanning"
    assert found == [("a.txt", "It carries EICAR.", path, State.REJECTED)]


@BOTH
def test_a_step_sees_its_file(make: Make) -> None:
    seen: list[Any] = []

    def look(given: Any) -> None:
        with given.local_path() as path, open(path, "rb") as opened:
            seen.append((given.name, given.size, given.content_type, path[-5:], opened.read()))
        with pytest.raises(ValueError, match="reading"):
            given.open("wb")
        with given.open("r") as opened:
            seen.append(opened.read())

    storage = make(Scripted(look))
    storage.save("d/a.txt", file(b"bytes"))
    assert run(storage) == {}
    assert seen == [("d/a.txt", 5, "text/plain", "a.txt", b"bytes"), "bytes"]


@pytest.mark.parametrize("given", [b"new", ContentFile(b"new"), ContentFile("new")])
def test_what_replaces_the_bytes(given: Any) -> None:
    storage = gated(Scripted(REPLACE(given)), Passing())
    storage.save("a.txt", file(b"older"))
    assert drain(storage) == {}
    assert read(storage, "a.txt") == b"new"
    assert row(storage, "a.txt").size == 3
    assert on_disk() == ["a.txt"]


def test_a_local_storage_without_paths() -> None:
    storage = at_once(Scripted(REPLACE(b"new")), Scanning(), local=InMemoryStorage())
    storage.save("a.txt", file(b"old"))
    drain(storage)
    storage.save("b.txt", file(EICAR))
    drain(storage)
    assert read(storage, "a.txt") == b"new"
    assert storage.rejection("b.txt")
    assert not storage.local.exists("b.txt")
    with storage.unpublished("b.txt") as opened:
        assert opened.read() == EICAR


@BOTH
@pytest.mark.parametrize("delayed", [False, True])
def test_a_delayed_file_is_held_after_its_steps(make: Make, delayed: bool) -> None:
    storage = make(delayed=delayed)
    storage.save("a.txt", file())
    drain(storage)
    assert storage.is_published("a.txt")
    assert row(storage, "a.txt").state == (State.HELD if delayed else State.TRANSFERRED)


def test_a_published_file_is_evicted_as_usual() -> None:
    storage = gated(task=TransferAndDelete)
    storage.save("a.txt", file(b"bytes"))
    drain(storage)
    assert on_disk() == []
    assert read(storage, "a.txt") == b"bytes"
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"newer")
    assert read(storage, "a.txt") == b"bytes"
    drain(storage)
    assert read(storage, "a.txt") == b"newer"


def test_each_file_takes_few_statements() -> None:
    storage = gated(Scripted(*[REPLACE(b"new")] * 2), Passing())
    for number in range(2):
        storage.save(f"{number}.txt", file())
    with CaptureQueriesContext(connection) as captured:
        run(storage, lambda: storage.steps[0].calls == 2)
    verbs = [each["sql"].split()[0] for each in captured if each["sql"].split()[0] in DATA]
    # Both are found together, claimed, given other bytes, published and put in their place.
    assert verbs.count("SELECT") <= 1 + 2 * (2 if connection.vendor == "mysql" else 1)
    assert (verbs.count("UPDATE"), verbs.count("DELETE")) == (8, 2)


# Together with others


def test_two_workers_run_each_file_once() -> None:
    step = Scripted()
    storage = gated(step)
    for number in range(30):
        storage.save(f"{number}.txt", file())
    storage.save("x.txt", file())
    workers = [threading.Thread(target=aside, args=[storage]) for _worker in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert step.calls == 31
    assert not preparations().exists()


def aside(storage: Any) -> None:
    try:
        run(storage)
    finally:
        connections.close_all()


@BOTH
@pytest.mark.parametrize("outcome", [PASS, REPLACE(b"new"), REJECT("bad"), OSError("failed")])
def test_a_delete_during_a_step_wins(make: Make, outcome: Any) -> None:
    def delete(given: Any) -> Any:
        storage.delete("a.txt")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    storage = make(Scripted(delete), Scripted())
    storage.save("a.txt", file())
    run(storage)
    hurry(storage)
    drain(storage)
    assert storage.queued_file("a.txt") is None
    assert on_disk() == on_disk("far") == []
    assert not preparations().exists()


@BOTH
@pytest.mark.parametrize("outcome", [PASS, REPLACE(b"replaced"), REJECT("bad"), OSError("failed")])
def test_an_overwrite_during_a_step_wins(make: Make, outcome: Any) -> None:
    def overwrite(given: Any) -> Any:
        with storage.open("a.txt", "wb") as opened:
            opened.write(b"newer")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    step = Scripted(overwrite)
    storage = make(step)
    storage.save("a.txt", file(b"older"))
    run(storage)
    hurry(storage)
    drain(storage)
    assert step.calls == 2  # the newer content has passed the step, too
    assert read(storage, "a.txt") == b"newer"
    assert on_disk() == ["a.txt"]
    assert row(storage, "a.txt").state == State.TRANSFERRED


def test_a_later_save_that_was_published_first_stays() -> None:
    storage = gated(Scripted(PASS, LATER(60)))
    storage.save("a.txt", file(b"one"))
    drain(storage)
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"two")
    run(storage)
    options, storage._options = storage._options, {"local": "disk"}  # of a process without steps
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"three")
    storage._options = options
    hurry(storage)
    drain(storage)
    assert read(storage, "a.txt") == b"three"
    assert on_disk() == ["a.txt"]
    assert not preparations().exists()


def test_content_that_was_read_by_a_step_that_lost_its_claim() -> None:
    def steal(given: Any) -> None:
        preparations().update(lease_token="another")
        for lease in leases._heart.leases():  # type: ignore[union-attr]
            lease.beat()
        with pytest.raises(LeaseLost):
            given.progress()

    storage = gated(Scripted(steal))
    storage.save("a.txt", file())
    run(storage)
    assert not storage.is_published("a.txt")


def test_a_step_that_hangs_is_followed_by_another_attempt() -> None:
    released = threading.Event()

    def hang(given: Any) -> None:
        released.wait(30)

    storage = gated(Scripted(hang), queue=ThreadQueue(threads=1, poll=0.1))
    timing = {"LEASE": 1, "STALL_TIMEOUT": 0.3, "RETRY_DELAY": 0}
    with override_settings(QUEUED_STORAGE=timing):
        assert own_settings.stall_timeout == 0.3
        executor = Executor(1, 0.1, lambda: [storage.alias])
        executor.start()
        try:
            storage.save("a.txt", file())
            until(lambda: storage.is_published("a.txt"))
        finally:
            released.set()
            executor.stop(10)
            storage.queue.stop(10)


def test_a_file_that_kills_workers_is_held_alone() -> None:
    bad = Scripted()
    storage = gated(bad)
    storage.save("bad.txt", file())
    for _death in range(own_settings.retries + 2):
        [pk] = preparations().values_list("pk", flat=True)
        is_suspect = bool(preparations().get().lease_token)
        claimed = preparation_claims().claim(pk, suspect=is_suspect)
        assert claimed  # and then the process died
        hurry(storage)
    storage.save("good.txt", file())
    run(storage)
    assert bad.calls <= 2
    assert storage.is_published("good.txt")
    hurry(storage)
    run(storage)
    held = the(storage, "bad.txt")
    assert held.state == PreparationState.HELD
    assert "died" in held.last_error


# Queues


def test_a_message_runs_steps_and_transfer() -> None:
    storage = gated()
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert row(storage, "a.txt").state == State.TRANSFERRED


def test_a_sweep_finds_what_waits() -> None:
    storage = gated(Scripted(LATER(60)))
    storage.save("a.txt", file())
    storage.queue.deliver()
    assert sweep() == 0
    hurry(storage)
    assert sweep() == 1
    storage.queue.deliver()
    assert row(storage, "a.txt").state == State.TRANSFERRED


def test_threads_of_the_process() -> None:
    queue = ThreadQueue(threads=2, poll=5)
    storage = gated(queue=queue)
    try:
        for number in range(5):
            storage.save(f"{number}.txt", file())
        storage.wait(timeout=30)
        assert ledger().filter(state=State.TRANSFERRED).count() == 5
    finally:
        queue.stop(10)


SAVE_AND_END = """
import django
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
for number in range(3):
    default_storage.save(f"{number}.txt", ContentFile(b"dirty"))
"""


def test_a_process_that_ends_runs_steps_first(
    spawn: Callable[..., subprocess.Popen[Any]],
    child_settings: Callable[..., dict[str, str]],
    settings: Settings,
) -> None:
    threads = "queued_storage.queues.threads.ThreadQueue"
    queue = {"BACKEND": threads, "OPTIONS": {"threads": 2, "poll": 600, "exit_wait": 30}}
    default = settings.STORAGES["default"]
    steps = {"steps": ["tests.support.stepping.Cleaning"], "publish": "after_steps"}
    environment = child_settings(
        QUEUED_STORAGE={"QUEUE": queue},
        STORAGES=settings.STORAGES | {"default": default | {"OPTIONS": default["OPTIONS"] | steps}},
    )
    assert spawn([sys.executable, "-c", SAVE_AND_END], env=environment).wait(60) == 0
    assert [row.state for row in ledger().all()] == [State.TRANSFERRED] * 3
    assert not preparations().exists()


# Waiting


def test_waiting_for_a_rejected_file() -> None:
    storage = gated(Scanning())
    storage.save("a.txt", file(EICAR))
    result = storage.result
    assert not result.ready()
    with pytest.raises(TransferTimeout):
        storage.wait(timeout=0)
    run(storage)
    assert result.ready()
    with pytest.raises(TransferError, match="It carries EICAR"):
        result.get(timeout=0)
    with pytest.raises(TransferError, match="was rejected"):
        storage.wait(["a.txt"])
    storage.wait()  # of all that are not rejected


def test_waiting_for_new_content() -> None:
    storage = gated(Scripted(PASS, LATER(60)))
    storage.save("a.txt", file())
    drain(storage)
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"newer")
    run(storage)
    with pytest.raises(TransferTimeout):
        storage.wait(timeout=0)


# Saving


def test_a_rollback_leaves_nothing_to_find() -> None:
    storage = gated()
    with transaction.atomic():
        storage.save("a.txt", file())
        assert storage.exists("a.txt")
        transaction.set_rollback(True)
    assert not storage.exists("a.txt")
    assert not preparations().exists()
    assert run(storage) == {}
    assert storage.save("a.txt", file(b"other")) == "a.txt"
    run(storage)
    assert read(storage, "a.txt") == b"other"


def test_a_rolled_back_overwrite_leaves_the_old_content() -> None:
    storage = gated()
    storage.save("a.txt", file(b"old"))
    drain(storage)
    with transaction.atomic():
        with storage.open("a.txt", "wb") as opened:
            opened.write(b"new")
        transaction.set_rollback(True)
    drain(storage)
    assert read(storage, "a.txt") == b"old"


def test_names_that_are_taken() -> None:
    storage = gated()
    first = storage.save("a.txt", file(b"1"))
    second = storage.save("a.txt", file(b"2"))
    assert first == "a.txt"
    assert second != first
    drain(storage)
    assert read(storage, first) == b"1"
    assert read(storage, second) == b"2"


def test_the_name_of_a_deleted_file() -> None:
    storage = gated()
    storage.save("a.txt", file(b"1"))
    drain(storage)
    storage.delete("a.txt")
    assert storage.save("a.txt", file(b"2")) != "a.txt"
    with pytest.raises(NameUnavailable):
        storage.open("a.txt", "wb").close()
    drain(storage)
    assert storage.save("a.txt", file(b"3")) == "a.txt"


def test_new_content_again_and_again() -> None:
    storage = gated(Scripted(*[LATER(60)] * 3))
    storage.save("a.txt", file(b"0"))
    for number in range(1, 4):
        run(storage)
        with storage.open("a.txt", "wb") as opened:
            opened.write(str(number).encode())
    assert len(on_disk()) == 1
    drain(storage)
    assert read(storage, "a.txt") == b"3"
    assert on_disk() == ["a.txt"]


@pytest.mark.parametrize("data", [b"good", EICAR])
def test_a_rejected_file_gets_new_content(data: bytes) -> None:
    storage = gated(Scanning())
    storage.save("a.txt", file(EICAR))
    drain(storage)
    with storage.open("a.txt", "wb") as opened:
        opened.write(data)
    drain(storage)
    assert storage.is_published("a.txt") == (data == b"good")
    assert len(on_disk()) == 1


def test_an_uploaded_file_is_moved(tmp_path: Any) -> None:
    from django.core.files.uploadedfile import TemporaryUploadedFile

    upload = TemporaryUploadedFile("a.txt", "text/plain", 5, None)
    upload.write(b"bytes")
    upload.seek(0)
    storage = gated()
    storage.save("a.txt", upload)
    upload.close()
    drain(storage)
    assert read(storage, "a.txt") == b"bytes"
    assert row(storage, "a.txt").checksum


def test_a_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = gated()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(localfiles.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        storage.save("a.txt", file())
    monkeypatch.undo()
    assert on_disk() == []
    assert not storage.exists("a.txt")


@pytest.mark.parametrize(
    ("owner", "method"),
    [(preparation_claims, "replace_hidden"), (quarantine, "remove")],
    ids=["the database lost its answer", "the old bytes cannot be removed"],
)
def test_new_bytes_stay_once_they_are_recorded(
    monkeypatch: pytest.MonkeyPatch, owner: Any, method: str
) -> None:
    storage = gated(Scripted(REPLACE(b"new")), Passing())
    storage.save("a.txt", file(b"old"))
    owner = type(owner()) if callable(owner) else owner
    original = getattr(owner, method)

    def failing(*args: Any) -> None:
        if method == "replace_hidden":
            original(*args)
            raise OperationalError("server closed the connection unexpectedly")
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, failing)
        run(storage)
    hurry(storage)
    assert drain(storage) == {}
    assert read(storage, "a.txt") == b"new"


@pytest.mark.parametrize("name", ["known.txt", "new.txt"])
def test_content_stays_if_the_answer_to_a_commit_is_lost(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    storage = gated()
    storage.save("known.txt", file(b"old"))
    commit = connection.commit

    def lost() -> None:
        commit()
        raise OperationalError("server closed the connection unexpectedly")

    opened = storage.open(name, "wb")
    opened.write(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(connection, "commit", lost)
        with pytest.raises(OperationalError, match="server closed"):
            opened.close()
    assert drain(storage) == {}
    assert read(storage, name) == b"new"


def test_a_failure_before_the_commit_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("could not connect to server")

    storage = gated()
    monkeypatch.setattr(type(ledger()), "record", away)
    with pytest.raises(OperationalError):
        storage.save("a.txt", file(b"new"))
    assert on_disk() == []


def test_a_storage_that_names_files_itself() -> None:
    class Naming(FileSystemStorage):
        def _save(self, name: str, content: Any) -> str:
            return str(super()._save("named.txt", content))

    from django.core.exceptions import ImproperlyConfigured

    storage = gated(local=Naming(location=str(make().location)))
    with pytest.raises(ImproperlyConfigured, match="does not choose names itself"):
        storage.save("a.txt", file())
    with pytest.raises(ImproperlyConfigured, match="FileSystemStorage"):
        gated(local=InMemoryStorage()).save("a.txt", file())
