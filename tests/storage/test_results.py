"""Results of transfers, and waiting for them."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from pytest_django import Settings

from queued_storage.exceptions import TransferError, TransferTimeout
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState
from queued_storage.ledger.states import State
from queued_storage.operations import steering
from queued_storage.queues.immediate import ImmediateQueue
from tests.support.outages import ERROR, close
from tests.support.scripted import file, make, on_disk

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_result_of_a_save(storage: Any) -> None:
    name = storage.save("a.txt", file())
    result = storage.result
    assert (result.state, result.ready()) == (State.PENDING, False)
    assert result.queued_file.name == name
    with pytest.raises(TransferTimeout):
        result.get(timeout=0)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    storage.queue.deliver()
    assert result.ready()
    assert result.get() is True
    assert result.state == State.TRANSFERRED


def test_the_result_of_a_failed_file(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage.save("a.txt", file())
    storage.remote.rejects = True
    storage.queue.deliver()
    with pytest.raises(TransferError, match="The remote rejects the file"):
        storage.result.get(timeout=0)
    assert storage.result.get(timeout=0, propagate=False) is False


def test_the_result_of_a_failed_inline_transfer() -> None:
    storage = make(queue=ImmediateQueue())
    storage.remote.refuses = True
    storage.save("a.txt", file())
    with pytest.raises(ConnectionError):
        storage.result.get(timeout=0)


def test_the_result_of_a_deleted_file(storage: Any) -> None:
    name = storage.save("a.txt", file())
    result = storage.result
    storage.delete(name)
    storage.queue.deliver()
    assert result.state is None
    with pytest.raises(TransferError, match="deleted"):
        result.get(timeout=0)


def test_the_result_of_a_cancelled_transfer(storage: Any) -> None:
    name = storage.save("a.txt", file())
    result = storage.result
    assert not result.ready()
    steering.cancel(ledger())
    assert result.ready()
    with pytest.raises(TransferError, match="cancelled"):
        result.get(timeout=0)
    assert result.get(timeout=0, propagate=False) is False
    again = storage.transfer(name)
    assert not again.ready()
    storage.queue.deliver()
    assert again.get(timeout=0) is result.get(timeout=0) is True


def test_a_result_needs_the_commit(storage: Any) -> None:
    with transaction.atomic():
        storage.save("a.txt", file())
        with pytest.raises(TransferError, match="commit"):
            storage.result.get()


def test_the_transfer_of_a_transferred_file_is_done(storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert storage.transfer(name).get(timeout=0) is True
    assert storage.queue.messages == []
    with pytest.raises(FileNotFoundError):
        storage.transfer("unknown.txt")


def test_wait_is_a_barrier(storage: Any) -> None:
    storage.wait(timeout=0)
    first = storage.save("a.txt", file())
    with pytest.raises(TransferTimeout):
        storage.wait(timeout=0)
    storage.queue.deliver()
    storage.wait(timeout=0)
    second = storage.save("b.txt", file())
    storage.wait([first], timeout=0)
    with pytest.raises(TransferTimeout):
        storage.wait([Path(second)], timeout=0)


def test_wait_sees_what_other_threads_do(storage: Any) -> None:
    storage.save("a.txt", file())

    def deliver() -> None:
        storage.queue.deliver()
        connections.close_all()

    worker = threading.Thread(target=deliver)
    worker.start()
    storage.wait(timeout=30)
    worker.join()
    assert on_disk("far") == ["a.txt"]


def test_wait_raises_for_a_failed_file(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 0}
    storage.save("a.txt", file())
    storage.remote.rejects = True
    storage.queue.deliver()
    with pytest.raises(TransferError, match="The remote rejects the file"):
        storage.wait()


def test_wait_ignores_held_files_unless_named() -> None:
    storage = make(delayed=True)
    name = storage.save("a.txt", file())
    storage.wait(timeout=0)
    with pytest.raises(TransferError, match="transfer"):
        storage.wait([name])


def test_wait_ignores_other_storages(storage: Any) -> None:
    make().save("a.txt", file())
    storage.wait(timeout=0)


@pytest.mark.parametrize("name", ["a\0b.txt", "\ud800.txt", "x" * 5000, "../a.txt", ""])
def test_wait_for_an_invalid_name(storage: Any, name: str) -> None:
    known = storage.save("a.txt", file())
    with pytest.raises(FileNotFoundError, match="wait for"):
        storage.wait([known, name])


def test_wait_for_more_names_than_one_statement_takes(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="wait for"):
        storage.wait(f"{number}.txt" for number in range(300_000))
    monkeypatch.setattr("queued_storage.storage.barrier.BULK", 2)
    names = [storage.save(f"{number}.txt", file()) for number in range(5)]
    storage.queue.deliver()
    storage.wait(names, timeout=0)
    names.append(storage.save("new.txt", file()))
    with pytest.raises(TransferTimeout):
        storage.wait(names, timeout=0)


def test_wait_inside_the_transaction_raises(storage: Any) -> None:
    with transaction.atomic():
        storage.save("a.txt", file())
        with pytest.raises(TransferError, match="commit"):
            storage.wait()


def test_wait_for_a_name_without_a_row() -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.txt"):
        make().wait(["nope.txt"], timeout=1)


# What a timeout says


def waits(storage: Any) -> list[Any]:
    """Every way to wait for the file of the last save."""
    return [
        lambda: storage.wait(timeout=0),
        lambda: storage.wait(["b.txt"], timeout=0),
        lambda: asyncio.run(storage.await_transferred(timeout=0)),
        lambda: storage.result.get(timeout=0),
    ]


def test_timeout_says_the_last_error(storage: Any) -> None:
    for name in ("a.txt", "b.txt"):
        storage.save(name, file())
    for wait in waits(storage):
        with pytest.raises(TransferTimeout, match=r"the transfers? continues?\.$"):
            wait()
    ledger().filter(name="b.txt").update(last_error="ConnectionError: The remote is away.")
    for wait in waits(storage):
        with pytest.raises(TransferTimeout) as caught:
            wait()
        assert str(caught.value).endswith(
            " The last attempt to transfer 'b.txt' failed: ConnectionError: The remote is away."
        )


def test_timeout_says_why_the_remote_is_closed(storage: Any) -> None:
    for name in ("a.txt", "b.txt"):
        storage.save(name, file())
    close(storage, ago=610)
    for wait in waits(storage):
        with pytest.raises(TransferTimeout) as caught:
            wait()
        assert f"has been away for 10 minutes: {ERROR[:-1]}; 2 files wait" in str(caught.value)


def test_timeout_says_who_paused_the_remote(storage: Any) -> None:
    storage.save("b.txt", file())
    close(storage, RemoteState.PAUSED)
    for wait in waits(storage):
        with pytest.raises(TransferTimeout, match="until an operator runs"):
            wait()
