"""Actions on the files of the change list."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.storage import storages
from django.test import Client

from queued_storage.admin import actions, log
from queued_storage.ledger.jobs import JobState, jobs
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.admin.pages import LIST, add, listed, run, staff
from tests.support.scripted import file, read, row

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)  # runs the callbacks of a commit

ACTIONS = ["retry", "transfer", "cancel", "evict", "restore", "verify", "accept_local"]

PRIORITIES = ["go_first", "go_normally", "go_last"]  # with the permission to transfer files


@pytest.fixture
def operator() -> Client:
    return staff("view_queuedfile", *(f"{action}_queuedfile" for action in ACTIONS))


def test_each_action_has_its_own_permission() -> None:
    add()
    for action in ACTIONS:
        page = staff("view_queuedfile", f"{action}_queuedfile").get(LIST).content.decode()
        further = PRIORITIES if action == "transfer" else []
        assert re.findall(r'<option value="(\w+)">', page) == [action, *further]


def test_an_action_without_permission_does_nothing(viewer: Client) -> None:
    [entry] = add(state=State.FAILED)
    for action in ACTIONS:
        run(viewer, action, [entry.pk])
    assert QueuedFile.objects.get().state == State.FAILED


def test_priorities_of_files_that_wait(operator: Client) -> None:
    [waiting], [done] = add(state=State.PENDING), add(state=State.TRANSFERRED)
    for action, priority in zip(PRIORITIES, (-1, 0, 1), strict=True):
        pks = [waiting.pk, done.pk]
        assert run(operator, action, pks) == ["1 file has another priority now."]
        assert QueuedFile.objects.get(pk=waiting.pk).priority == priority
        nothing = ["None of the selected files is waiting with another priority."]
        assert run(operator, action, pks) == nothing
    assert QueuedFile.objects.get(pk=done.pk).priority == 0
    assert listed(operator, priority="low") == [waiting.name]
    assert listed(operator, priority="high") == listed(operator, priority="other") == []


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
def test_evict_and_restore_are_left_to_workers(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    pk = row(storage, name).pk
    assert run(operator, "evict", [pk]) == ["A worker will evict 1 local copy."]
    assert storages["disk"].exists(name)
    storage.queue.deliver()
    assert not storages["disk"].exists(name)
    shown = run(operator, "restore", [pk])
    assert shown == ["A worker will restore 1 file to local storage."]
    storage.queue.deliver()
    assert storages["disk"].exists(name)


@committing
def test_verify_is_left_to_workers(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    shown = run(operator, "verify", [row(storage, name).pk])
    assert shown == ["A worker will verify both copies of 1 file."]
    storage.queue.deliver()
    job = jobs().get()
    assert (job.state, job.succeeded) == (JobState.DONE, 1)


def test_who_may_view_jobs_gets_a_link(operator: Client) -> None:
    [entry] = add()
    viewer = staff("view_queuedfile", "verify_queuedfile", "view_job")
    [shown] = run(viewer, "verify", [entry.pk])
    assert f'<a href="/admin/queued_storage/job/{jobs().get().pk}/change/">' in shown
    add(alias="other")
    [shown] = run(viewer, "verify", [entry.pk], select_across="1")
    assert '<a href="/admin/queued_storage/job/">' in shown


def test_an_action_on_many_files_is_one_job(operator: Client) -> None:
    add(1200)
    pk = QueuedFile.objects.latest("pk").pk
    shown = run(operator, "verify", [pk], select_across="1")
    assert shown == ["A worker will verify both copies of 1,200 files."]
    job = jobs().get()
    assert (job.files, len(job.pks or []), job.state) == (1200, 1200, JobState.PENDING)
    assert job.requested_by == "staff-0"


def test_without_the_table_of_jobs_users_are_told(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "are_available", lambda: False)
    [entry] = add()
    for action in ("evict", "restore", "verify", "accept_local"):
        shown = run(operator, action, [entry.pk])
        assert shown == ["Nothing was changed: run manage.py migrate first."]


# The admin's log


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_logged_for_each_file(operator: Client, action: str) -> None:
    state = State.TRANSFERRED if action in ("evict", "restore", "verify") else State.FAILED
    rows = add(2, State.PENDING if action == "cancel" else state, is_local=action != "restore")
    run(operator, action, [entry.pk for entry in rows])
    entries = LogEntry.objects.filter(content_type__model="queuedfile")
    assert {entry.object_id for entry in entries} == {str(entry.pk) for entry in rows}
    assert {entry.user.username for entry in entries} == {"staff-0"}
    assert all(entry.change_message.endswith(" requested.") for entry in entries)
    found = [entry.object_id for entry in LogEntry.objects.filter(content_type__model="job")]
    assert found == [str(job.pk) for job in jobs()]


def test_an_action_on_many_files_has_one_entry(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_ENTRIES", 2)
    rows = add(3, State.FAILED)
    run(operator, "retry", [entry.pk for entry in rows])
    [entry] = LogEntry.objects.all()
    assert (entry.object_id, entry.object_repr) == (None, "3 queued files")
    assert entry.change_message == "Retry requested."


def test_an_action_that_changes_nothing_is_not_logged(operator: Client) -> None:
    [entry] = add(1, State.DELETING)
    for action in ACTIONS:
        run(operator, action, [entry.pk])
    assert not LogEntry.objects.exclude(change_message="Retry requested.").exists()


@committing
def test_accept_local(operator: Client, storage: Any) -> None:
    first, second = (storage.save(name, file()) for name in ("a.txt", "b.txt"))
    storage.queue.deliver()
    Path(storage.local.path(first)).write_bytes(b"changed in place")
    Path(storage.local.path(second)).unlink()
    pks = [row(storage, first).pk, row(storage, second).pk]
    [done] = run(operator, "accept_local", pks)
    assert done == "A worker will accept the local copies of 2 files if they were changed."
    assert storage.queue.deliver() == {}
    job = jobs().get()
    assert (job.succeeded, job.failed) == (1, 1)
    [problem] = job.findings or []
    assert "b.txt" in problem["name"]
    assert storage.queue.deliver() == {}
    assert read(storage.remote, first) == b"changed in place"


def test_an_action_on_all_results(operator: Client, storage: Any) -> None:
    add(120, State.FAILED)
    add(1, State.HELD)
    shown = run(operator, "retry", [QueuedFile.objects.latest("pk").pk], select_across="1")
    assert shown == ["120 files will be retried."]


@pytest.mark.parametrize(("action", "limit"), [("retry", "MAX_ROWS"), ("verify", "MAX_FILES")])
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
        ("evict", "None of the selected files has a local copy that can be evicted."),
        ("restore", "None of the selected files can be restored to local storage."),
        ("verify", "None of the selected files can be verified."),
        ("accept_local", "None of the selected files has a local copy."),
    ],
)
def test_an_action_that_changes_nothing(operator: Client, action: str, text: str) -> None:
    [entry] = add(1, State.DELETING if action != "retry" else State.HELD)
    assert run(operator, action, [entry.pk]) == [text]


def test_large_numbers_have_separators(operator: Client) -> None:
    add(1200, State.FAILED)
    pk = QueuedFile.objects.latest("pk").pk
    assert run(operator, "retry", [pk], select_across="1") == ["1,200 files will be retried."]
