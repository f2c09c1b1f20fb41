import logging
from typing import Any

import pytest
from django.db import connection, transaction

from queued_storage.exceptions import UnknownAlias
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.sql.clock import DatabaseNow, seconds_from_now
from queued_storage.operations import remotes as operations
from queued_storage.operations.remotes import Probed
from queued_storage.signals import remote_changed
from queued_storage.transfers import watching
from queued_storage.transfers.probing import finish_openings
from queued_storage.uploaders import Uploader
from tests.operations.files import enqueued
from tests.support.outages import ERROR, close, registered
from tests.support.scripted import file, make
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

CLOSED = [RemoteState.AWAY, RemoteState.REFUSED]


@pytest.fixture
def storage() -> Any:
    return make()


@pytest.fixture
def told() -> Any:
    """What the receivers of the signal were told."""
    found: list[dict[str, Any]] = []

    def receive(**kwargs: Any) -> None:
        found.append(kwargs)

    remote_changed.connect(receive)
    yield found
    remote_changed.disconnect(receive)


@pytest.fixture
def probing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answer small writes to the remote with `error`, if there is one."""

    class Probing:
        error: Exception | None = None
        calls = 0

    def write_probe(uploader: Uploader) -> None:
        Probing.calls += 1
        if Probing.error:
            raise Probing.error

    monkeypatch.setattr(Uploader, "write_probe", write_probe)
    return Probing


# Pausing


@pytest.mark.parametrize("state", [None, RemoteState.OPEN, *CLOSED])
def test_pause_closes_until_resume(storage: Any, state: str | None, told: Any) -> None:
    if state in CLOSED:
        close(storage, state)
    elif state:
        registered(storage)
    assert operations.pause(storage.alias) == 1
    found = registered(storage).get()
    assert (found.state, found.next_probe_at) == (RemoteState.PAUSED, None)
    assert found.place == storage.remote_place.description
    [call] = told
    assert call["sender"] is type(storage)
    assert (call["alias"], call["place"]) == (storage.alias, found.place)
    assert call["state"] == RemoteState.PAUSED
    assert operations.pause(storage.alias) == 0
    assert len(told) == 1


def test_remote_of_an_unknown_storage_is_steered(storage: Any, told: Any) -> None:
    close(storage)
    remotes().update(alias="gone")
    assert operations.pause("gone") == 1
    assert operations.resume("gone") == 1
    assert [(call["sender"], call["state"]) for call in told] == [
        (None, RemoteState.PAUSED),
        (None, RemoteState.OPEN),
    ]


@pytest.mark.parametrize(
    "verb", [operations.pause, operations.resume, operations.probe, operations.request_probe]
)
def test_alias_that_nobody_knows(verb: Any) -> None:
    with pytest.raises(UnknownAlias):
        verb("nobody")
    assert not remotes().exists()


def test_other_places_are_left_alone(storage: Any) -> None:
    close(storage)
    remotes().update(digest=5)
    assert operations.pause(storage.alias) == 1
    assert list(remotes().order_by("digest").values_list("state", flat=True)) == [
        RemoteState.AWAY,
        RemoteState.PAUSED,
    ]


# Resuming


def test_resume_opens_and_enqueues_what_waits(storage: Any, told: Any) -> None:
    storage.save("a.txt", file())
    operations.pause(storage.alias)
    pks = enqueued(storage)
    storage.queue.messages.clear()
    assert operations.resume(storage.alias) == 1
    found = registered(storage).get()
    assert (found.is_open, found.next_probe_at) == (True, None)
    assert enqueued(storage) == pks != []
    assert [call["state"] for call in told] == [RemoteState.PAUSED, RemoteState.OPEN]


def test_process_that_dies_after_resume(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.save("a.txt", file())
    operations.pause(storage.alias)
    pks = enqueued(storage)
    storage.queue.messages.clear()
    with monkeypatch.context() as patch:
        patch.setattr(operations, "_enqueue", lambda *args: None)
        operations.resume(storage.alias)
    finish_openings()  # another process, a moment later
    assert enqueued(storage) == []
    registered(storage).update(next_probe_at=DatabaseNow())
    finish_openings()
    finish_openings()
    assert enqueued(storage) == pks != []


@pytest.mark.parametrize("state", CLOSED)
def test_resume_opens_only_what_is_paused(storage: Any, state: str, told: Any) -> None:
    close(storage, state)
    assert operations.resume(storage.alias) == 0
    assert registered(storage).get().state == state
    assert told == []


def test_nothing_is_told_of_a_rollback(storage: Any, told: Any) -> None:
    storage.save("a.txt", file())
    close(storage, RemoteState.PAUSED)
    storage.queue.messages.clear()
    with transaction.atomic():
        operations.resume(storage.alias)
        transaction.set_rollback(True)
    assert (told, enqueued(storage)) == ([], [])
    assert not registered(storage).get().is_open


# Probing


@pytest.mark.parametrize("state", CLOSED)
def test_probe_enqueues_what_waits(storage: Any, state: str, probing: Any) -> None:
    storage.save("a.txt", file())
    close(storage, state)
    pks = enqueued(storage)
    storage.queue.messages.clear()
    assert operations.probe(storage.alias) is Probed.PROBED
    assert enqueued(storage) == pks != []


def test_probe_that_fails_enqueues_nothing(storage: Any, probing: Any) -> None:
    probing.error = ConnectionRefusedError("The remote is away.")
    storage.save("a.txt", file())
    close(storage)
    storage.queue.messages.clear()
    assert operations.probe(storage.alias) is Probed.PROBED
    assert (probing.calls, enqueued(storage)) == (1, [])


def test_only_a_closed_remote_is_probed(storage: Any, probing: Any) -> None:
    assert operations.probe(storage.alias) is Probed.WAS_OPEN
    close(storage, RemoteState.PAUSED)
    assert operations.probe(storage.alias) is Probed.IS_PAUSED
    assert probing.calls == 0


def test_a_probe_can_be_requested(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []
    monkeypatch.setattr(watching, "probe_soon", lambda: woken.append(1))
    registered(storage)
    assert operations.request_probe(storage.alias) == 0
    close(storage)
    due = remotes().filter(next_probe_at__lte=DatabaseNow())
    assert not due.exists()
    assert operations.request_probe(storage.alias) == 1
    assert due.exists()
    assert woken == [1]


def test_a_request_wakes_the_thread_that_probes(storage: Any, probing: Any) -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        pytest.skip("a thread would have a database of its own")
    probing.error = ConnectionRefusedError("The remote is away.")
    close(storage, probe_in=1000)
    watching.watch()
    operations.request_probe(storage.alias)
    until(lambda: probing.calls)
    until(lambda: registered(storage).get().probes == 1)
    registered(storage).update(next_probe_at=seconds_from_now(1000))
    probing.error = None
    operations.request_probe(storage.alias)
    until(lambda: registered(storage).get().is_open)


def test_the_reason_is_told(storage: Any, told: Any, caplog: pytest.LogCaptureFixture) -> None:
    close(storage)
    with caplog.at_level(logging.WARNING, "queued_storage"):
        operations.pause(storage.alias)
    assert told[0]["error"] == ERROR
    assert f"{storage.alias!r}" in caplog.text
