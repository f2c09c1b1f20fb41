import logging
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from queued_storage.exceptions import LeaseLost
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.operations import errands, passes, steering
from queued_storage.operations.passes import Step
from queued_storage.transfers.work import run
from tests.operations.files import enqueued, files, transferred
from tests.support.scripted import (
    LONG_AGO,
    file,
    make,
    make_due,
    on_disk,
    read,
    row,
)
from tests.support.scripted import Step as TransferStep

pytestmark = pytest.mark.django_db(transaction=True)


# Retry


@pytest.mark.parametrize("state", [State.FAILED, State.PENDING])
def test_retry_makes_files_due_with_all_retries(state: State) -> None:
    storage = make()
    name = storage.save("a.txt", file())
    storage.queue.messages.clear()
    later = timezone.now() + timedelta(hours=1) if state == State.PENDING else None
    files(storage).update(state=state, due_at=later, attempts=9)
    assert steering.retry(files(storage)) == 1
    found = row(storage, name)
    assert (found.state, found.attempts) == (State.PENDING, 0)
    assert enqueued(storage) == [found.pk]
    assert storage.queue.deliver() == {}
    assert storage.using_remote(name)


def test_retry_of_a_waiting_delete() -> None:
    storage = make()
    name = transferred(storage)
    storage.delete(name)
    files(storage).update(due_at=timezone.now() + timedelta(hours=1), attempts=9)
    assert steering.retry(files(storage)) == 1
    assert storage.queue.deliver() == {}
    assert not files(storage).exists()
    assert on_disk("far") == []


@pytest.mark.parametrize("state", [State.HELD, State.TRANSFERRED])
def test_retry_skips_held_and_transferred_files(state: State) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.messages.clear()
    files(storage).update(state=state, due_at=None)
    assert steering.retry(files(storage)) == 0
    assert files(storage).get().state == state
    assert enqueued(storage) == []


def test_retry_waits_until_the_lease_has_ended() -> None:
    storage = make()
    storage.save("a.txt", file())
    pk = files(storage).get().pk
    claimed = ledger().claim(pk)
    with storage.open("a.txt", "wb") as opened:  # pending again, and still claimed by that worker
        opened.write(b"newer")
    assert steering.retry(files(storage)) == 1
    assert not ledger().due().filter(pk=pk).exists()
    assert ledger().release_claim(claimed)
    assert ledger().due().filter(pk=pk).exists()


def test_retry_enqueues_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BATCH", 2)
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
    assert enqueued(storage) == list(files(storage).order_by("pk").values_list("pk", flat=True))
    assert [(step.files, step.bytes) for step in steps] == [(2, 10)] * 3


def test_rolled_back_retry_enqueues_nothing() -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.messages.clear()
    files(storage).update(state=State.FAILED, due_at=None)
    with transaction.atomic():
        assert steering.retry(files(storage)) == 1
        transaction.set_rollback(True)
    assert files(storage).get().state == State.FAILED
    assert enqueued(storage) == []


def test_retry_logs_files_of_unknown_storages(caplog: pytest.LogCaptureFixture) -> None:
    storage = make()
    storage.save("a.txt", file())
    files(storage).update(state=State.FAILED, due_at=None, alias="gone")
    with caplog.at_level(logging.ERROR):
        assert steering.retry(ledger().all()) == 1
    assert "'gone'" in caplog.text


# Cancel


def test_cancelled_file_is_held_until_transfer() -> None:
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


def test_cancelled_transfer_stops_at_the_next_read() -> None:
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


def test_cancelled_file_waits_until_the_lease_has_ended() -> None:
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


def test_pending_eviction_can_be_cancelled() -> None:
    storage = make()
    name = transferred(storage)
    claimed = ledger().claim_settled(row(storage, name).pk)
    assert steering.cancel(files(storage)) == 1
    assert ledger().mark_evicted(claimed) == 0
    found = row(storage, name)
    assert (found.state, found.is_local, found.due_at) == (State.TRANSFERRED, True, None)
    assert errands.evict(files(storage)) == 1


@pytest.mark.parametrize("state", [State.HELD, State.FAILED, State.TRANSFERRED, State.DELETING])
def test_cancel_skips_other_states(state: State) -> None:
    storage = make()
    storage.save("a.txt", file())
    due_at = LONG_AGO if state == State.DELETING else None
    files(storage).update(state=state, due_at=due_at)
    assert steering.cancel(files(storage)) == 0
    assert (files(storage).get().state, files(storage).get().due_at) == (state, due_at)
