"""What failed only because a remote was closed is as it was before."""

from typing import Any

import pytest
from django.db.models import F

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.support.rows import claimed, is_about, new_row, past, seconds_from_now

pytestmark = pytest.mark.django_db(transaction=True)


def again(row: QueuedFile) -> QueuedFile:
    return QueuedFile.objects.get(pk=row.pk)


def saved_long_ago(row: QueuedFile) -> QueuedFile:
    ledger().filter(pk=row.pk).update(saved_at=past(7200))
    return again(row)


def test_undone_attempt_leaves_no_trace() -> None:
    row = saved_long_ago(claimed())
    assert ledger().undo_attempt(row) == 1
    found = again(row)
    assert (found.state, found.attempts, found.lease_token) == (State.PENDING, 0, "")
    assert (found.last_error, found.failures) == ("", [])
    assert is_about(found.due_at, -7200)  # the oldest file goes first


def test_undone_delete_is_due_at_once() -> None:
    row = saved_long_ago(claimed(State.DELETING))
    assert ledger().undo_attempt(row) == 1
    found = again(row)
    assert (found.state, found.attempts) == (State.DELETING, 1)
    assert is_about(found.due_at, 0)


def test_void_claim_undoes_nothing() -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(generation=F("generation") + 1)
    assert ledger().undo_attempt(row) == 0
    assert again(row).attempts == 1


def test_file_of_the_future_is_due_now() -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(saved_at=seconds_from_now(3600))
    ledger().undo_attempt(again(row))
    assert is_about(again(row).due_at, 0)


@pytest.mark.parametrize("state", [State.PENDING, State.FAILED])
@pytest.mark.parametrize(("was_counted", "attempts"), [(True, 2), (False, 3)])
def test_undone_failure_is_due_again(state: str, was_counted: bool, attempts: int) -> None:
    row = new_row(state=state, attempts=3, due_at=None, last_error="x", saved_at=past())
    assert ledger().undo_failures({row.pk: was_counted}) == 1
    found = again(row)
    assert (found.state, found.attempts, found.last_error) == (State.PENDING, attempts, "")
    assert is_about(found.due_at, -3600)


@pytest.mark.parametrize("state", [State.HELD, State.TRANSFERRED, State.DELETING])
def test_what_changed_since_is_left_alone(state: str) -> None:
    row = new_row(state=state, attempts=3)
    assert ledger().undo_failures({row.pk: True}) == 0


def test_claimed_file_is_left_alone() -> None:
    assert ledger().undo_failures({claimed().pk: True}) == 0


# Files by which a remote is probed


def test_file_is_claimed_for_a_probe_once() -> None:
    row = new_row(due_at=past())
    waiting = ledger().filter(state=State.PENDING).due()
    claim = ledger().claim_probe(waiting)
    assert claim is not None
    assert (claim.pk, claim.state, claim.attempts) == (row.pk, State.TRANSFERRING, 1)
    assert ledger().claim_probe(waiting) is None
    assert [each.pk for each in ledger().probes()] == [row.pk]
    ledger().filter(pk=row.pk).update(due_at=past())  # the worker died
    assert not ledger().probes().exists()


@pytest.mark.parametrize("columns", [{"state": State.FAILED}, {"due_at": seconds_from_now(60)}])
def test_probe_takes_what_is_due(columns: dict[str, Any]) -> None:
    new_row(**{"due_at": past()} | columns)
    assert ledger().claim_probe(ledger().all()) is None


def test_other_claims_are_no_probes() -> None:
    claimed()
    assert not ledger().probes().exists()


def test_failed_probe_is_noted_once() -> None:
    row = claimed()
    ledger().undo_attempt(row)
    assert ledger().note_failed_probe(row, "first") == 1
    found = again(row)
    assert (found.last_error, found.attempts) == ("first", 0)
    assert [failure["error"] for failure in found.failures] == ["first"]
    ledger().note_failed_probe(found, "second")
    assert len(again(row).failures) == 1


def test_new_content_keeps_no_failed_probe() -> None:
    row = claimed()
    ledger().undo_attempt(row)
    ledger().filter(pk=row.pk).update(generation=F("generation") + 1)
    assert ledger().note_failed_probe(row, "late") == 0


def test_files_without_failures_are_found() -> None:
    new_row("new.txt", due_at=past())
    ledger().note_failed_probe(new_row("old.txt", due_at=past()), "denied")
    assert [row.name for row in ledger().filter(failures=[])] == ["new.txt"]
