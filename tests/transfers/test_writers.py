"""The marker of the ledger that changes files of a place."""

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage
from django.core.management import CommandError, call_command
from pytest_django import Settings

from queued_storage.exceptions import OtherWriter
from queued_storage.ledger.identity import LedgerIdentity, ledger_id
from queued_storage.ledger.names import WRITER_NAME
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.sql.clock import database_time, in_utc
from queued_storage.ledger.states import State
from queued_storage.operations import inventory
from queued_storage.operations.status import troubles
from queued_storage.operations.writers import accept_writer
from queued_storage.testing import drain
from queued_storage.transfers import writers
from queued_storage.transfers.writers import PlaceMarker
from tests.support.fault_proxy import FaultProxy
from tests.support.scripted import ScriptedStorage, file, make, read, row

pytestmark = pytest.mark.django_db(transaction=True)
OTHER = {"ledger": "0" * 32, "deployment": "production"}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have this ledger treated as one that is not for tests."""
    monkeypatch.setattr(writers, "is_for_tests", lambda: False)
    writers.forget()
    yield
    writers.forget()


@pytest.fixture
def storage() -> Any:
    return make()


def path_of(storage: Any) -> Path:
    return Path(storage.remote.path(WRITER_NAME))


def put_other(storage: Any, content: Any = OTHER) -> None:
    """Let another ledger have been there first."""
    path_of(storage).parent.mkdir(parents=True, exist_ok=True)
    path_of(storage).write_text(content if isinstance(content, str) else json.dumps(content))


def upload(storage: Any, name: str = "a.txt") -> None:
    storage.save(name, file())
    assert drain(storage) == {}


def delete(storage: Any, name: str = "a.txt") -> list[Exception]:
    storage.delete(name)
    return list(drain(storage).values())


def test_the_first_upload_writes_the_marker(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "DEPLOYMENT": "here"}
    upload(storage)
    found = json.loads(path_of(storage).read_bytes())
    assert found == {"ledger": ledger_id(), "deployment": "here"}
    assert [each.is_marked for each in remotes().filter(alias=storage.alias)] == [True]


def test_another_process_does_not_write_it_again(storage: Any) -> None:
    upload(storage)
    path_of(storage).unlink()
    writers.forget()
    upload(storage, "b.txt")
    assert not path_of(storage).exists()


def test_hundred_uploads_need_two_more_requests(
    s3_proxy: FaultProxy, s3_proxy_options: dict[str, Any]
) -> None:
    remote = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": s3_proxy_options}
    storage = make(remote=remote)
    for number in range(100):
        storage.save(f"{number}.txt", file())
    assert drain(storage) == {}
    marker = [each for each in s3_proxy.requests if WRITER_NAME in each]
    assert [each.split()[0] for each in marker] == ["GET", "PUT"]
    s3_proxy.requests.clear()
    writers.forget()  # as in another process
    upload(storage, "more.txt")
    assert not [each for each in s3_proxy.requests if WRITER_NAME in each]
    for number in range(3):
        assert delete(storage, f"{number}.txt") == []
    marker = [each for each in s3_proxy.requests if WRITER_NAME in each]
    assert [each.split()[0] for each in marker] == ["GET"]


def test_another_writer_keeps_its_object(storage: Any) -> None:
    upload(storage)
    put_other(storage)
    writers.forget()
    [error] = delete(storage)
    assert isinstance(error, OtherWriter)
    for part in ("production", "far", f"remotes accept {storage.alias}"):
        assert part in str(error)
    assert storage.remote.exists("a.txt")


def test_a_waiting_file_is_not_counted(storage: Any) -> None:
    upload(storage)
    put_other(storage)
    writers.forget()
    delete(storage)
    found = row(storage, "a.txt")
    assert (found.state, found.attempts) == (State.DELETING, 0)
    assert found.due_at
    wait = in_utc(found.due_at) - database_time("default")
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)


def test_another_writer_is_not_overwritten(storage: Any) -> None:
    upload(storage)
    put_other(storage)
    writers.forget()
    with storage.open("a.txt", "wb") as opened:
        opened.write(b"new")
    assert [type(each) for each in drain(storage).values()] == [OtherWriter]
    assert row(storage, "a.txt").state == State.PENDING
    assert read(storage.remote, "a.txt") == b"bytes"
    assert read(storage, "a.txt") == b"new"


def test_new_files_are_uploaded_beside_another_writer(storage: Any) -> None:
    put_other(storage)
    upload(storage)
    assert row(storage, "a.txt").state == State.TRANSFERRED
    assert json.loads(path_of(storage).read_bytes()) == OTHER


def test_accepted_writer_lets_files_go(storage: Any) -> None:
    upload(storage)
    put_other(storage)
    writers.forget()
    delete(storage)
    assert "production" in accept_writer(storage)
    assert drain(storage) == {}  # it is due at once
    assert not storage.remote.exists("a.txt")
    assert json.loads(path_of(storage).read_bytes()) == OTHER
    assert not [each for each in troubles() if "another writer" in each]


def test_remotes_accept_names_the_writer(storage: Any) -> None:
    upload(storage)
    put_other(storage)
    writers.forget()
    delete(storage)
    out = StringIO()
    call_command("queued_storage", "remotes", "accept", storage.alias, stdout=out)
    assert "'production'" in out.getvalue()
    assert drain(storage) == {}


def test_remotes_accept_reports_an_unreadable_marker(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(storage)
    monkeypatch.setattr(type(storage.uploader), "read_marker", raising(PermissionError(13, "No.")))
    with pytest.raises(CommandError, match="could not be read"):
        call_command("queued_storage", "remotes", "accept", storage.alias, stdout=StringIO())


def test_nothing_to_accept_at_own_place(storage: Any) -> None:
    upload(storage)
    assert accept_writer(storage) == ""


def test_status_names_another_writer(storage: Any) -> None:
    put_other(storage)
    upload(storage)
    [trouble] = [each for each in troubles() if "another writer" in each]
    assert storage.alias in trouble
    assert "production" in trouble


def test_a_new_id_of_the_ledger_is_noticed(storage: Any) -> None:
    upload(storage)
    LedgerIdentity.objects.update(uid="f" * 32)  # as after a flush by another process
    put_other(storage, {"ledger": "f" * 32, "deployment": None})
    writers.forget()
    assert delete(storage) == []


def test_a_delete_writes_a_missing_marker(storage: Any) -> None:
    upload(storage)
    path_of(storage).unlink()
    writers.forget()
    assert delete(storage) == []
    assert json.loads(path_of(storage).read_bytes())["ledger"] == ledger_id()


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"ledger": 1, "deployment": null}'])
def test_marker_that_names_nobody_allows_all(
    storage: Any, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    upload(storage)
    upload(storage, "b.txt")
    put_other(storage, content)
    writers.forget()
    with caplog.at_level(logging.WARNING, "queued_storage"):
        assert delete(storage) == delete(storage, "b.txt") == []
    assert caplog.text.count("It is not known whether another ledger uses") == 1
    assert path_of(storage).read_text() == content


def test_unreadable_marker_allows_all(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    upload(storage)
    writers.forget()
    monkeypatch.setattr(type(storage.uploader), "read_marker", raising(PermissionError(13, "No.")))
    with caplog.at_level(logging.WARNING, "queued_storage"):
        assert delete(storage) == []
    assert caplog.text.count("It is not known whether another ledger uses") == 1


def test_outage_is_not_an_unreadable_marker(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(storage)
    writers.forget()
    monkeypatch.setattr(type(storage.uploader), "read_marker", raising(ConnectionError("Away.")))
    with pytest.raises(ConnectionError):
        PlaceMarker(storage).require_own()


def test_unreadable_marker_stays_anothers(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put_other(storage)
    marker = PlaceMarker(storage)
    assert not marker.allows_changes()
    monkeypatch.setattr(writers, "READ_AGAIN", 0)
    assert not marker.allows_changes()
    monkeypatch.setattr(type(storage.uploader), "read_marker", raising(PermissionError(13, "No.")))
    assert not marker.allows_changes()


def test_failing_marker_fails_no_upload(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(storage.uploader), "write_marker", raising(OSError("No.")))
    with caplog.at_level(logging.WARNING, "queued_storage"):
        upload(storage)
        upload(storage, "b.txt")
    assert caplog.text.count("It is not known whether another ledger uses") == 1


def raising(error: Exception) -> Any:
    def method(*args: Any) -> Any:
        raise error

    return method


def test_remote_that_renames_files_has_no_marker() -> None:
    class Renaming(ScriptedStorage):
        def get_available_name(self, name: str, max_length: int | None = None) -> str:
            return super().get_available_name(f"{name}.renamed", max_length)

        def exists(self, name: str) -> bool:
            return bool(super().exists(name))

    storage = make(remote=Renaming())
    upload(storage)
    assert delete(storage) == []


@pytest.mark.parametrize("remote", [InMemoryStorage, make])
def test_no_marker_where_none_is_of_use(remote: Any) -> None:
    """In memory, and where the remote is a queued storage, which has its own."""
    storage = make(remote=remote())
    assert not PlaceMarker(storage).is_kept


def test_no_marker_of_a_ledger_for_tests(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    upload(storage)
    assert not path_of(storage).exists()


def test_orphans_of_another_writer_stay(storage: Any) -> None:
    upload(storage)
    storage.remote.save("orphan.txt", file())
    [orphan] = inventory.orphans(storage, "remote", timedelta(0))  # not the marker
    put_other(storage)
    writers.forget()
    with pytest.raises(OtherWriter):
        inventory.delete_orphan(storage, orphan, timedelta(0))
    assert storage.remote.exists("orphan.txt")


def test_task_deletes_nothing_of_another_writer(storage: Any) -> None:
    from tests.support.scripted import Step

    storage = make(task=Step(lambda name, local, remote: remote.delete("theirs.txt")))
    storage.remote.save("theirs.txt", file())
    put_other(storage)
    storage.save("a.txt", file())
    assert [type(each) for each in drain(storage).values()] == [OtherWriter]
    assert storage.remote.exists("theirs.txt")
