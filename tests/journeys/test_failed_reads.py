"""Reads that fail, as signs that a remote is away."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.core import mail
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.operations import errands
from queued_storage.transfers import circuit, signs
from queued_storage.transfers.gates import gates
from tests.support.mirroring import Mirrored
from tests.support.moving import place, saved
from tests.support.scripted import read

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


@pytest.fixture
def files(mirrored: Mirrored) -> Any:
    storage = mirrored("first", "second")
    for number in range(8):
        saved(storage, f"{number}.txt", b"bytes", evict=True)
    circuit.reset()  # this process has not uploaded anything
    return storage


def state(remote: str) -> str:
    signs.wait(10)
    found = remotes().filter(digest=place(remote)).first()
    return str(found.state) if found else RemoteState.OPEN


def test_a_read_that_fails_closes_the_remote(files: Any) -> None:
    storages["first"].refuses = True
    assert read(files, "0.txt") == b"bytes"
    assert state("first") == RemoteState.AWAY
    gates.forget()
    before = storages["first"].calls.total()
    assert read(files, "1.txt") == b"bytes"
    assert storages["first"].calls.total() == before
    storages["first"].refuses = False
    call_command("queued_storage", "remotes", "probe", "default", stdout=io.StringIO())
    assert state("first") == RemoteState.OPEN


def test_a_mirror_is_closed_as_well(files: Any) -> None:
    storages["first"].refuses = storages["second"].refuses = True
    with pytest.raises(ConnectionError):
        read(files, "0.txt")
    assert (state("first"), state("second")) == (RemoteState.AWAY, RemoteState.AWAY)


@pytest.mark.one_database
def test_after_a_read_several_files_must_fail(files: Any) -> None:
    assert read(files, "7.txt") == b"bytes"
    storages["first"].refuses = True
    for _time in range(9):
        assert read(files, "0.txt") == b"bytes"
    for number in range(1, circuit.FAILURES - 1):
        read(files, f"{number}.txt")
    assert state("first") == RemoteState.OPEN
    read(files, "6.txt")
    assert state("first") == RemoteState.AWAY


def lose(storage: Any) -> None:
    for number in range(8):
        storages["first"].delete(f"{number}.txt")


def reject(storage: Any) -> None:
    storages["first"].rejects = True  # which does not say whose fault it is


@pytest.mark.one_database
@pytest.mark.parametrize("fault", [lose, reject])
def test_faults_of_files_are_no_signs(files: Any, fault: Callable[[Any], None]) -> None:
    fault(files)
    storages["first"].calls.clear()
    for number in range(8):
        try:
            read(files, f"{number}.txt")
        except OSError:
            continue
    assert state("first") == RemoteState.OPEN
    assert storages["first"].calls["_save"] == 0


@pytest.mark.one_database
def test_a_trial_that_works_closes_nothing(files: Any) -> None:
    def fail(name: str) -> None:
        raise ConnectionError("The connection broke.")

    storages["first"].before["_open"] = fail
    assert read(files, "0.txt") == b"bytes"
    assert state("first") == RemoteState.OPEN


@pytest.mark.one_database
def test_a_process_that_may_only_read_closes_nothing(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages["first"].refuses = True
    uploader = type(files.uploader)

    def denied(self: Any) -> None:
        raise OSError("Access denied.")  # as unclear as status 403

    monkeypatch.setattr(uploader, "write_probe", denied)
    assert read(files, "0.txt") == b"bytes"
    assert state("first") == RemoteState.OPEN


@pytest.mark.parametrize("is_rolled_back", [False, True])
def test_the_transaction_of_a_request_makes_no_difference(
    files: Any, is_rolled_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has a single writer, so the thread's write waits for the end of the request."""
    monkeypatch.delattr(mail, "outbox")  # as in a site, not in a TestCase
    storages["first"].refuses = True
    with transaction.atomic():
        ledger().filter(name="7.txt").update(content_type="text/plain")
        with CaptureQueriesContext(connection) as queries:
            assert read(files, "0.txt") == b"bytes"
        transaction.set_rollback(is_rolled_back)
    assert not [each for each in queries if not each["sql"].startswith("SELECT")]
    assert state("first") == RemoteState.AWAY


@pytest.mark.one_database
def test_restore_notes_what_it_read(files: Any) -> None:
    storages["first"].refuses = True
    assert errands.restore(ledger().filter(name="0.txt")) == 1
    assert state("first") == RemoteState.AWAY


@pytest.mark.one_database
@pytest.mark.parametrize("url_mode", ["proxied"])
def test_views_note_what_they_read(
    mirrored: Mirrored, client: Any, url_mode: str, settings: Settings
) -> None:
    storage = mirrored("first", "second", url_mode=url_mode)
    name = saved(storage, "0.txt", b"bytes", evict=True)
    circuit.reset()
    storages["first"].refuses = True
    response = client.get(storage.url(name))
    assert b"".join(response.streaming_content) == b"bytes"
    response.close()
    assert state("first") == RemoteState.AWAY


@pytest.mark.one_database
def test_in_a_test_case_no_thread_runs(files: Any) -> None:
    storages["first"].refuses = True
    with transaction.atomic():
        assert read(files, "0.txt") == b"bytes"
    assert state("first") == RemoteState.OPEN
