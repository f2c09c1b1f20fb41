"""One attempt to transfer a file. "Ancestor 4" names a failure of the versions 0.3 to 0.8."""

from typing import Any

import pytest

from queued_storage.ledger.states import State
from queued_storage.signals import file_deleted, file_evicted, file_transferred
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.transfers import work
from tests.support.scripted import (
    ScriptedStorage,
    Step,
    file,
    make,
    on_disk,
    read,
    row,
)
from tests.transfers.moments import MOMENTS, TASKS, At
from tests.transfers.workers import on_signal

pytestmark = pytest.mark.django_db(transaction=True)


def test_saved_file_is_transferred() -> None:
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


def test_repeated_message_makes_one_remote_object() -> None:
    """Ancestor 4: each message made another object."""
    storage = make()
    name = storage.save("a.txt", file())
    pks = [pk for message in storage.queue.messages for pk in message]
    storage.queue.deliver()
    for pk in pks * 3:
        assert work.run(pk) is None
    assert on_disk("far") == ["a.txt"]
    assert storage.remote.calls["_save"] == 1
    assert row(storage, name).attempts == 1


def test_claimed_file_is_not_claimed_again() -> None:
    def meet_a_second_worker(name: str, local: Any, remote: Any) -> None:
        assert work.run(row(storage, name).pk) is None
        assert storage.remote.calls["_save"] == 0

    storage = make(task=Step(meet_a_second_worker))
    name = storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert row(storage, name).state == State.TRANSFERRED


def test_unknown_id_is_ignored() -> None:
    assert work.run(987_654_321) is None


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 70_000, b"\xff\r\n" * 50_001])
def test_every_byte_arrives(data: bytes) -> None:
    storage = make(task=TransferAndDelete)
    name = storage.save("a.bin", file(data))
    storage.queue.deliver()
    assert on_disk() == []
    assert read(storage, name) == data
    assert storage.size(name) == len(data)


def test_failing_receiver_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def receiver(**kwargs: Any) -> None:
        raise RuntimeError("receiver")

    storage = make()
    storage.save("a.txt", file())
    with on_signal(file_transferred, receiver):
        assert storage.queue.deliver() == {}
    assert row(storage, "a.txt").state == State.TRANSFERRED
    assert "receiver" in caplog.text


def test_signals_name_file_and_storages(heard: list[tuple[Any, dict[str, Any]]]) -> None:
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


@TASKS
@pytest.mark.parametrize("moment", MOMENTS, ids=repr)
def test_new_content_wins_during_transfer(moment: At, task: type[Transfer]) -> None:
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


def test_new_content_of_transferred_file_is_transferred() -> None:
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
