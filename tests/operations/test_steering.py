import logging
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.files.storage import InMemoryStorage
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from queued_storage.exceptions import LeaseLost
from queued_storage.files.streams import PiecewiseFile
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import comparison, errands, steering
from queued_storage.operations.comparison import Finding, Kind
from queued_storage.operations.passes import Step
from queued_storage.operations.reconciliation import reconcile
from queued_storage.signals import file_evicted
from queued_storage.tasks import TransferAndDelete
from queued_storage.transfers import copies
from queued_storage.transfers.work import run
from tests.support.scripted import (
    LONG_AGO,
    RenamingStorage,
    disk,
    file,
    make,
    make_due,
    on_disk,
    read,
    row,
)
from tests.support.scripted import (
    Step as TransferStep,
)

pytestmark = pytest.mark.django_db(transaction=True)


def files(storage: Any) -> Any:
    return ledger().filter(alias=storage.alias)


def transferred(storage: Any, name: str = "a.txt", data: bytes = b"bytes") -> str:
    saved = storage.save(name, file(data))
    assert storage.queue.deliver() == {}
    return str(saved)


def evicted(storage: Any, name: str = "a.txt", data: bytes = b"bytes") -> str:
    saved = transferred(storage, name, data)
    assert errands.evict(files(storage).filter(name=saved)) == 1
    return saved


def told(storage: Any) -> list[int]:
    return sorted(pk for message in storage.queue.messages for pk in message)


# retry


@pytest.mark.parametrize("state", [State.FAILED, State.PENDING])
def test_what_failed_or_waits_is_due_with_all_its_retries(state: State) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.messages.clear()
    later = timezone.now() + timedelta(hours=1) if state == State.PENDING else None
    files(storage).update(state=state, due_at=later, attempts=9)
    assert steering.retry(files(storage)) == 1
    found = row(storage, name)
    assert (found.state, found.attempts) == (State.PENDING, 0)
    assert told(storage) == [found.pk]
    assert storage.queue.deliver() == {}
    assert storage.using_remote(name)


def test_a_delete_that_waits_is_tried_at_once() -> None:
    storage = make()
    name = transferred(storage)
    storage.delete(name)
    files(storage).update(due_at=timezone.now() + timedelta(hours=1), attempts=9)
    assert steering.retry(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert not files(storage).exists()
    assert on_disk("far") == []


@pytest.mark.parametrize("state", [State.HELD, State.TRANSFERRED])
def test_retry_leaves_what_waits_for_nothing(state: State) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.messages.clear()
    files(storage).update(state=state, due_at=None)
    assert steering.retry(files(storage)) == 0
    assert files(storage).get().state == state
    assert told(storage) == []


def test_retry_waits_for_a_worker_that_may_still_write() -> None:
    storage = make()
    storage.save("a.txt", file())
    pk = files(storage).get().pk
    claimed = ledger().claim(pk)
    with storage.open("a.txt", "wb") as opened:  # pending again, and still that worker's
        opened.write(b"newer")
    assert steering.retry(files(storage)) == 1
    assert not ledger().due().filter(pk=pk).exists()
    assert ledger().release_claim(claimed)
    assert ledger().due().filter(pk=pk).exists()


def test_retry_tells_a_queue_once_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "BATCH", 2)
    storage, other = make(), make()
    for number in range(3):
        storage.save(f"{number}.txt", file())
        other.save(f"other-{number}.txt", file())
    for each in (storage, other):
        each.queue.messages.clear()
        files(each).update(state=State.FAILED, due_at=None)
    steps: list[Step] = []
    assert steering.retry(ledger().all(), steps.append) == 6
    assert [len(message) for message in storage.queue.messages] == [1, 1, 1]
    assert told(storage) == list(files(storage).order_by("pk").values_list("pk", flat=True))
    assert [(step.files, step.bytes) for step in steps] == [(2, 10)] * 3


def test_nobody_is_told_of_a_retry_that_is_rolled_back() -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.messages.clear()
    files(storage).update(state=State.FAILED, due_at=None)
    with transaction.atomic():
        assert steering.retry(files(storage)) == 1
        transaction.set_rollback(True)
    assert files(storage).get().state == State.FAILED
    assert told(storage) == []


def test_retry_of_what_nobody_here_can_move(caplog: pytest.LogCaptureFixture) -> None:
    storage = make()
    storage.save("a.txt", file())
    files(storage).update(state=State.FAILED, due_at=None, alias="gone")
    with caplog.at_level(logging.ERROR):
        assert steering.retry(ledger().all()) == 1
    assert "'gone'" in caplog.text


# cancel


def test_a_cancelled_file_waits_for_transfer() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    assert steering.cancel(files(storage)) == 1
    assert (row(storage, name).state, row(storage, name).due_at) == (State.HELD, None)
    storage.queue.deliver()
    assert not storage.using_remote(name)
    assert read(storage, name) == b"bytes"
    storage.transfer(name)
    assert storage.queue.deliver() == {}
    assert storage.using_remote(name)


def test_a_running_transfer_stops_at_the_next_read() -> None:
    def cancel(name: str, local: Any, remote: Any) -> None:
        assert steering.cancel(files(storage)) == 1
        remote._lease.beat()
        with local.open(name) as opened, pytest.raises(LeaseLost):
            opened.read()

    storage = make(task=TransferStep(cancel))
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    found = row(storage, name)
    assert (found.state, found.due_at, found.lease_token) == (State.HELD, None, "")
    assert (found.last_error, on_disk()) == ("", ["a.txt"])
    storage.transfer(name)
    assert storage.queue.deliver() == {}
    assert storage.using_remote(name)


def test_a_cancelled_file_is_not_sent_again_before_its_worker_is_dead_for_certain() -> None:
    storage = make()
    name = storage.save("a.txt", file())
    claimed = ledger().claim(row(storage, name).pk)
    assert steering.cancel(files(storage)) == 1
    assert ledger().renew(claimed, 1) == 0
    storage.transfer(name)
    assert not ledger().due().exists()
    make_due(storage, name)
    assert run(row(storage, name).pk) is None
    assert storage.using_remote(name)


def test_an_eviction_that_is_to_come_can_be_cancelled() -> None:
    storage = make()
    name = transferred(storage)
    claimed = ledger().claim_settled(row(storage, name).pk)
    assert steering.cancel(files(storage)) == 1
    assert ledger().mark_evicted(claimed) == 0
    found = row(storage, name)
    assert (found.state, found.is_local, found.due_at) == (State.TRANSFERRED, True, None)
    assert errands.evict(files(storage)) == 1


@pytest.mark.parametrize("state", [State.HELD, State.FAILED, State.TRANSFERRED, State.DELETING])
def test_cancel_leaves_what_nobody_moves(state: State) -> None:
    storage = make()
    storage.save("a.txt", file())
    due_at = LONG_AGO if state == State.DELETING else None
    files(storage).update(state=state, due_at=due_at)
    assert steering.cancel(files(storage)) == 0
    assert (files(storage).get().state, files(storage).get().due_at) == (state, due_at)


# evict


def test_evict_frees_the_local_copy() -> None:
    storage = make()
    name = transferred(storage)
    heard = []

    def hear(**kwargs: Any) -> None:
        heard.append((kwargs["name"], kwargs["queued_file"].is_local))

    file_evicted.connect(hear)
    try:
        assert errands.evict(files(storage)) == 1
    finally:
        file_evicted.disconnect(hear)
    assert heard == [(name, False)]
    assert on_disk() == []
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (False, None, "")
    assert found.evicted_at is not None
    assert read(storage, name) == b"bytes"
    assert errands.evict(files(storage)) == 0


@pytest.mark.parametrize("damage", [b"", b"other"])
def test_what_the_remote_has_not_is_kept(damage: bytes, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": "content"}
    storage = make()
    name = transferred(storage)
    far = Path(storage.remote.path(name))
    far.write_bytes(damage) if damage else far.unlink()
    steps: list[Step] = []
    assert errands.evict(files(storage), steps.append) == 0
    assert on_disk() == [name]
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert (found.due_at, found.lease_token) == (None, "")
    assert found.last_error == steps[0].error != ""


def test_one_that_cannot_be_evicted_does_not_keep_the_others() -> None:
    storage = make()
    first, second = transferred(storage, "1.txt"), transferred(storage, "2.txt")
    Path(storage.remote.path(first)).unlink()
    steps: list[Step] = []
    assert errands.evict(files(storage), steps.append) == 1
    assert on_disk() == [first]
    assert [step.name for step in steps if step.error] == [f"{first} ({storage.alias})"]
    assert not storage.queued_file(second).is_local


def test_evict_leaves_what_is_not_transferred() -> None:
    storage = make()
    storage.save("a.txt", file())
    assert errands.evict(files(storage)) == 0
    assert on_disk() == ["a.txt"]


def test_new_content_that_comes_while_evict_looks_at_the_remote_stays() -> None:
    storage = make()
    name = transferred(storage)

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")
        storage.queue.messages.clear()

    storage.remote.before["size"] = overwrite
    assert errands.evict(files(storage)) == 0
    assert read(storage, name) == b"newer"
    assert told(storage) == [row(storage, name).pk]  # nobody need wait for the lease
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"newer"


def test_an_eviction_whose_process_died_is_finished_after_another_look() -> None:
    storage = make()
    name = transferred(storage)
    pk = row(storage, name).pk
    assert ledger().claim_settled(pk, evicts=True)
    far = Path(storage.remote.path(name))
    far.rename(far.with_name("aside"))
    make_due(storage, name)
    assert isinstance(run(pk), FileNotFoundError)
    assert on_disk() == [name]
    far.with_name("aside").rename(far)
    make_due(storage, name)
    assert run(pk) is None
    assert on_disk() == []


def test_an_eviction_that_is_retried_is_one_still() -> None:
    storage = make()
    name = transferred(storage)
    pk = row(storage, name).pk
    assert ledger().claim_settled(pk, evicts=True)
    far = Path(storage.remote.path(name))
    far.rename(far.with_name("aside"))
    make_due(storage, name)
    assert isinstance(run(pk), FileNotFoundError)
    far.with_name("aside").rename(far)
    assert steering.retry(files(storage)) == 1
    assert run(pk) is None
    assert on_disk() == []


def test_an_eviction_whose_worker_is_stopped_is_one_still(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.txt", file())
    pk = row(storage, name).pk
    with monkeypatch.context() as patch:
        patch.setattr(copies, "free_local", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            run(pk)
    assert row(storage, name).state == State.TRANSFERRED
    assert run(make_due(storage, name)) is None  # on SQLite, "now" is past after a millisecond
    assert on_disk() == []


def test_a_repair_whose_process_died_frees_no_local_copy() -> None:
    storage = make()
    name = transferred(storage)
    Path(storage.remote.path(name)).write_bytes(b"wrong")  # of the same size
    assert ledger().claim_settled(row(storage, name).pk)
    make_due(storage, name)
    assert run(row(storage, name).pk) is None
    assert on_disk() == [name]
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (True, None, "")
    [(_finding, error)] = reconcile(files(storage), ["different-remote"], content=True)
    assert error == ""
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"bytes"


def test_another_host_s_copy_is_left_alone(settings: Settings) -> None:
    storage = make()
    transferred(storage)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-2"}
    assert errands.evict(files(storage)) == 0
    assert on_disk() == ["a.txt"]


# restore


def test_restore_brings_the_file_back() -> None:
    storage = make()
    name = evicted(storage, "d/a.txt")
    assert errands.restore(files(storage)) == 1
    assert on_disk() == [name]
    assert read(disk(), name) == b"bytes"
    found = row(storage, name)
    assert (found.state, found.is_local) == (State.TRANSFERRED, True)
    assert (found.evicted_at, found.due_at, found.lease_token) == (None, None, "")
    storage.remote.refuses = True
    assert read(storage, name) == b"bytes"
    assert errands.restore(files(storage)) == 0


def test_restore_finds_the_name_that_the_remote_gave() -> None:
    storage = make(remote=RenamingStorage())
    name = evicted(storage)
    assert row(storage, name).remote_name != name
    assert errands.restore(files(storage)) == 1
    assert read(disk(), name) == b"bytes"


def test_restore_to_a_storage_without_paths() -> None:
    local = InMemoryStorage()
    storage = make(local=local)
    name = evicted(storage, data=b"in memory" * 100_000)
    assert not local.exists(name)
    assert errands.restore(files(storage)) == 1
    assert read(local, name) == b"in memory" * 100_000


def test_restore_makes_the_copy_this_host_s(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-1"}
    storage = make()
    name = evicted(storage)
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "HOST": "web-2"}
    assert errands.restore(files(storage)) == 1
    assert row(storage, name).host == "web-2"


@pytest.mark.parametrize("damage", [b"", b"short", b"other."])
def test_a_damaged_remote_copy_is_not_restored(damage: bytes) -> None:
    storage = make()
    name = evicted(storage, data=b"bytes.")
    far = Path(storage.remote.path(name))
    far.write_bytes(damage) if damage else far.unlink()
    steps: list[Step] = []
    assert errands.restore(files(storage), steps.append) == 0
    assert on_disk() == []
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (False, None, "")
    assert found.last_error == steps[0].error != ""


def test_a_foreign_local_file_is_not_overwritten() -> None:
    storage = make()
    name = evicted(storage)
    disk().save(name, file(b"somebody's"))
    assert errands.restore(files(storage)) == 0
    assert on_disk() == [name]
    assert read(disk(), name) == b"somebody's"
    assert "in the way" in row(storage, name).last_error


def test_a_file_that_a_dead_restore_put_in_place_is_taken_over() -> None:
    storage = make()
    name = evicted(storage)
    disk().save(name, file())
    assert ledger().claim_settled(row(storage, name).pk)
    make_due(storage, name)
    assert run(row(storage, name).pk) is None  # a worker ends the claim of the dead
    found = row(storage, name)
    assert (found.is_local, found.due_at, found.lease_token) == (False, None, "")
    assert errands.restore(files(storage)) == 1
    assert on_disk() == [name]
    assert read(storage, name) == b"bytes"


def test_the_same_bytes_of_another_storage_are_not_taken_over() -> None:
    storage, other = make(), make()
    name = evicted(storage)
    assert other.save(name, file()) == name
    assert errands.restore(files(storage)) == 0
    assert not row(storage, name).is_local


def test_a_file_deleted_while_it_is_restored_does_not_come_back() -> None:
    storage = make()
    name = evicted(storage)
    storage.remote.before["_open"] = storage.delete
    assert errands.restore(files(storage)) == 0
    assert on_disk() == []
    assert storage.queue.deliver() == {}
    assert on_disk("far") == []
    assert not files(storage).filter(name=name).exists()


def test_new_content_that_comes_while_the_old_is_restored_wins() -> None:
    storage = make()
    name = evicted(storage)

    def overwrite(_name: str) -> None:
        with storage.open(name, "wb") as opened:
            opened.write(b"newer")

    storage.remote.before["_open"] = overwrite
    assert errands.restore(files(storage)) == 0
    assert on_disk() == [name]
    assert read(storage, name) == b"newer"
    assert storage.queue.deliver() == {}
    assert read(storage.remote, name) == b"newer"


def test_a_cancelled_restore_leaves_nothing() -> None:
    storage = make()
    name = evicted(storage)
    storage.remote.before["_open"] = lambda _name: steering.cancel(files(storage))
    assert errands.restore(files(storage)) == 0
    assert on_disk() == []
    assert (row(storage, name).due_at, row(storage, name).is_local) == (None, False)


def test_a_restore_that_is_interrupted_can_be_run_again() -> None:
    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    storage = make()
    evicted(storage)
    storage.remote.before["_open"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        errands.restore(files(storage))
    assert on_disk() == []
    assert errands.restore(files(storage)) == 1


def test_a_restored_file_can_be_evicted_again() -> None:
    storage = make(task=TransferAndDelete)
    name = transferred(storage)
    assert errands.restore(files(storage)) == 1
    assert errands.evict(files(storage)) == 1
    assert on_disk() == []
    assert read(storage, name) == b"bytes"


@pytest.mark.one_database
def test_a_file_in_pieces() -> None:
    pieces = [b"ab", b"", b"cdef", b"g"]
    whole = PiecewiseFile(iter(pieces), "x")
    assert [whole.read(size) for size in (3, 1, -1, 5)] == [
        b"abc",
        b"d",
        b"efg",
        b"",
    ]
    begun = PiecewiseFile(iter(pieces), "x")
    assert begun.read(1) == b"a"
    assert b"".join(begun.chunks()) == b"bcdefg"


# verify


def findings(storage: Any, **options: Any) -> list[tuple[str, str, Kind]]:
    found = comparison.verify(files(storage), **options)
    return [(finding.name, finding.side, finding.kind) for finding in found]


@pytest.mark.parametrize("content", [False, True])
def test_there_is_nothing_to_find_where_all_is_well(content: bool) -> None:
    storage = make()
    transferred(storage, "both.txt")
    evicted(storage, "remote.txt")
    storage.save("local.txt", file())
    storage.delete(transferred(storage, "gone.txt"))
    steps: list[Step] = []
    assert findings(storage, content=content, tell=steps.append) == []
    assert len(steps) == 3


def test_copies_that_are_missing() -> None:
    storage = make()
    for name in ("both.txt", "near.txt"):
        transferred(storage, name)
    storage.save("pending.txt", file())
    disk().delete("pending.txt")
    disk().delete("near.txt")
    Path(storage.remote.path("both.txt")).unlink()
    assert findings(storage) == [
        ("both.txt", "remote", Kind.MISSING),
        ("near.txt", "local", Kind.MISSING),
        ("pending.txt", "local", Kind.MISSING),
    ]


def test_a_local_file_that_the_ledger_has_not() -> None:
    storage = make()
    name = evicted(storage)
    disk().save(name, file(b"left by somebody who died"))
    assert findings(storage) == [(name, "local", Kind.EXTRA)]


def test_copies_of_another_size() -> None:
    storage = make()
    name = transferred(storage)
    Path(storage.remote.path(name)).write_bytes(b"shorter")
    Path(disk().path(name)).write_bytes(b"longer than before")
    [local, remote] = comparison.verify(files(storage))
    assert (local.side, local.kind) == ("local", Kind.DIFFERENT)
    assert "18 bytes" in local.details
    assert (remote.side, remote.kind) == ("remote", Kind.DIFFERENT)
    assert "7" in remote.details


def test_only_reading_tells_a_flipped_byte() -> None:
    storage = make()
    name = transferred(storage)
    Path(storage.remote.path(name)).write_bytes(b"bytez")
    Path(disk().path(name)).write_bytes(b"bytez")
    assert findings(storage) == []
    assert findings(storage, content=True) == [
        (name, "local", Kind.DIFFERENT),
        (name, "remote", Kind.DIFFERENT),
    ]


def test_a_remote_that_does_not_answer() -> None:
    storage = make()
    name = transferred(storage)
    storage.remote.refuses = True
    [finding] = comparison.verify(files(storage))
    assert finding == Finding(
        row(storage, name).pk,
        storage.alias,
        name,
        "remote",
        Kind.UNREADABLE,
        "ConnectionError: The remote is away.",
    )


def test_a_file_of_a_storage_that_is_unknown() -> None:
    storage = make()
    storage.save("a.txt", file())
    files(storage).update(alias="gone")
    [finding] = comparison.verify(ledger().all())
    assert (finding.alias, finding.kind) == ("gone", Kind.UNREADABLE)


def test_what_changes_during_the_look_is_no_finding() -> None:
    storage = make()
    name = transferred(storage)

    def delete(_name: str) -> None:
        storage.delete(name)
        storage.queue.deliver()

    storage.remote.before["size"] = delete
    assert findings(storage) == []


def test_another_host_s_local_copy_is_not_looked_for(settings: Settings) -> None:
    storage = make()
    disk().delete(transferred(storage))
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-2"}
    assert findings(storage) == []


def test_verify_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "BATCH", 2)
    storage = make()
    for number in range(5):
        transferred(storage, f"{number}.txt")
    with CaptureQueriesContext(connection) as queries:
        assert findings(storage, content=True) == []
    assert all(query["sql"].startswith("SELECT") for query in queries)
    assert len(queries) == 3  # none for each file
