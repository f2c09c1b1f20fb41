"""Actions on the files of the change list."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.test import Client

from queued_storage.admin import actions
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.admin.pages import LIST, add, run, staff
from tests.support.scripted import file, read, row

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)  # runs the callbacks of a commit

ACTIONS = ["retry", "transfer", "cancel", "evict", "restore", "verify", "accept_local"]


@pytest.fixture
def operator() -> Client:
    return staff("view_queuedfile", *(f"{action}_queuedfile" for action in ACTIONS))


def test_each_action_has_its_own_permission() -> None:
    add()
    for action in ACTIONS:
        page = staff("view_queuedfile", f"{action}_queuedfile").get(LIST).content.decode()
        assert re.findall(r'<option value="(\w+)">', page) == [action]


def test_an_action_without_permission_does_nothing(viewer: Client) -> None:
    [entry] = add(state=State.FAILED)
    for action in ACTIONS:
        run(viewer, action, [entry.pk])
    assert QueuedFile.objects.get().state == State.FAILED


@committing
def test_retry(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.messages.clear()
    QueuedFile.objects.update(state=State.FAILED, due_at=None, attempts=9)
    assert run(operator, "retry", [row(storage, name).pk]) == ["1 file will be retried."]
    assert storage.queue.deliver() == {}
    assert storage.using_remote(name)


@committing
def test_transfer_now(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.messages.clear()
    QueuedFile.objects.update(state=State.HELD, due_at=None)
    assert run(operator, "transfer", [row(storage, name).pk]) == ["1 file will be transferred now."]
    storage.queue.deliver()
    assert storage.using_remote(name)


@committing
def test_cancel(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    assert run(operator, "cancel", [row(storage, name).pk]) == ["1 transfer was cancelled."]
    assert row(storage, name).state == State.HELD


@committing
def test_evict_and_restore(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    pk = row(storage, name).pk
    assert run(operator, "evict", [pk]) == ["1 local copy was evicted."]
    assert not storages["disk"].exists(name)
    assert run(operator, "restore", [pk]) == ["1 file was restored to local storage."]
    assert storages["disk"].exists(name)


@committing
def test_a_failed_eviction_is_reported(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storages["far"].delete(name)
    count, error = run(operator, "evict", [row(storage, name).pk])
    assert count == "No local copy was evicted."
    assert re.match(r"The local copy of a\.txt .* was not evicted\. .*Error", error)
    assert storages["disk"].exists(name)
    assert row(storage, name).failures[-1]["work"] == State.TRANSFERRED


@committing
def test_verify(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    pk = row(storage, name).pk
    assert run(operator, "verify", [pk]) == ["No differences found."]
    storages["far"].delete(name)
    [finding] = run(operator, "verify", [pk])
    assert finding.startswith("The remote copy of a.txt is missing. ")


@committing
def test_accept_local(operator: Client, storage: Any) -> None:
    first, second = (storage.save(name, file()) for name in ("a.txt", "b.txt"))
    storage.queue.deliver()
    Path(storage.local.path(first)).write_bytes(b"changed in place")
    Path(storage.local.path(second)).unlink()
    pks = [row(storage, first).pk, row(storage, second).pk]
    done, error = run(operator, "accept_local", pks)
    assert done == "1 changed local copy will be transferred."
    assert error.startswith("The local copy of b.txt (default) was not accepted.")
    assert storage.queue.deliver() == {}
    assert read(storage.remote, first) == b"changed in place"


def test_an_action_on_all_results(operator: Client, storage: Any) -> None:
    add(120, State.FAILED)
    add(1, State.HELD)
    shown = run(operator, "retry", [QueuedFile.objects.latest("pk").pk], select_across="1")
    assert shown == ["120 files will be retried."]


@pytest.mark.parametrize(
    ("action", "limit"), [("retry", "MAX_ROWS"), ("verify", "MAX_FILES"), ("evict", "MAX_BYTES")]
)
def test_an_action_on_too_much_is_refused(
    operator: Client, monkeypatch: pytest.MonkeyPatch, action: str, limit: str
) -> None:
    monkeypatch.setattr(actions, limit, 2)
    rows = add(3, State.FAILED, size=1)
    [text] = run(operator, action, [entry.pk for entry in rows])
    assert text.startswith("Nothing was changed: too many files are selected.")
    assert QueuedFile.objects.filter(state=State.FAILED).count() == 3


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("retry", "None of the selected files can be retried."),
        ("transfer", "None of the selected files can be transferred now."),
        ("cancel", "None of the selected files has a transfer to cancel."),
        ("evict", "No local copy was evicted."),
        ("restore", "No file was restored to local storage."),
        ("accept_local", "None of the selected files has a local copy that was changed."),
    ],
)
def test_an_action_that_changes_nothing(operator: Client, action: str, text: str) -> None:
    [entry] = add(1, State.DELETING if action != "retry" else State.HELD)
    assert run(operator, action, [entry.pk]) == [text]


def test_large_numbers_have_separators(operator: Client) -> None:
    add(1200, State.FAILED)
    pk = QueuedFile.objects.latest("pk").pk
    assert run(operator, "retry", [pk], select_across="1") == ["1,200 files will be retried."]


def test_only_some_errors_are_shown(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MAX_ERRORS", 2)
    rows = add(4, alias="gone")
    shown = run(operator, "verify", [entry.pk for entry in rows])
    assert re.match(r"The local copy of 0000\.jpg could not be checked\. .*'gone'", shown[0])
    assert shown[2:] == ["6 more errors are not shown."]
