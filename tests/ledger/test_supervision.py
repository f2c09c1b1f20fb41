"""The statements by which a process supervises its claims."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import connection, connections, transaction

from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.sql.statements import returns_rows
from queued_storage.ledger.states import State
from queued_storage.ledger.supervision import is_alone
from queued_storage.models import QueuedFile
from tests.support.rows import LEASE, claimed, is_about, new_row, past

pytestmark = pytest.mark.django_db(transaction=True)


def die(row: QueuedFile) -> None:
    """Let the lease of a row expire."""
    QueuedFile.objects.filter(pk=row.pk).update(due_at=past())


@contextmanager
def locked(row: QueuedFile) -> Iterator[None]:
    """Delete a file in a transaction of another connection that is rolled back after the block."""
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("this database cannot skip locked rows")
    has_lock, may_end = threading.Event(), threading.Event()

    def delete() -> None:
        with transaction.atomic():
            ledger().filter(pk=row.pk).mark_deleting()
            has_lock.set()
            assert may_end.wait(60)
            transaction.set_rollback(True)
        connections.close_all()

    user = threading.Thread(target=delete)
    user.start()
    try:
        assert has_lock.wait(60)
        yield
    finally:
        may_end.set()
        user.join(60)


# Suspects


def test_only_expired_transfers_are_suspects() -> None:
    for state in State.values:
        new_row(state, state=state, due_at=past(), lease_token="other")
    new_row("running", state=State.TRANSFERRING, due_at=seconds_from_now(10))
    assert [row.name for row in ledger().suspects()] == [State.TRANSFERRING]


def test_other_claims_leave_suspects_alone() -> None:
    row = claimed()
    die(row)
    assert ledger().claim_due(9, ["one"]) == []
    assert ledger().claim_all([row.pk]) == []
    assert ledger().claim_new(row.pk) is None
    assert ledger().claim(row.pk)  # only who asks for this file


def test_death_counts_only_if_alone() -> None:
    row = claimed()
    attempts = []
    for _death in range(4):
        die(row)
        found = ledger().claim_suspect(ledger().suspects())
        assert found
        assert is_alone(found)
        assert len(found.lease_token) == 32
        attempts.append(found.attempts)
    assert attempts == [1, 2, 3, 4]


def test_first_take_over_counts_at_least_one_attempt() -> None:
    row = claimed()
    QueuedFile.objects.update(attempts=0)
    die(row)
    found = ledger().claim_suspect(ledger().suspects())
    assert found
    assert found.attempts == 1


def test_suspects_that_died_least_come_first() -> None:
    expired = {"state": State.TRANSFERRING, "lease_token": "other"}
    new_row("deadly", due_at=past(200), attempts=3, **expired)
    new_row("newer", due_at=past(50), attempts=1, **expired)
    new_row("older", due_at=past(100), attempts=1, **expired)
    new_row("elsewhere", "two", due_at=past(300), attempts=1, **expired)
    suspects = ledger().filter(alias="one").suspects()
    names = []
    while row := ledger().claim_suspect(suspects):
        names.append(row.name)
    assert names == ["older", "newer", "deadly"]


def test_two_workers_claim_different_suspects() -> None:
    for name in "ab":
        new_row(name, state=State.TRANSFERRING, lease_token="other", due_at=past())
    first = ledger().claim_suspect(ledger().suspects())
    second = ledger().claim_suspect(ledger().suspects())
    assert first
    assert second
    assert {first.name, second.name} == {"a", "b"}
    assert ledger().claim_suspect(ledger().suspects()) is None


def test_deadly_files_died_alone() -> None:
    row = claimed()
    die(row)
    assert ledger().claim_suspect(ledger().suspects())
    assert not ledger().deadly().exists()
    die(row)
    assert ledger().claim_suspect(ledger().suspects())
    assert ledger().deadly().exists()


# Locked rows


@pytest.mark.parametrize(
    "claim",
    [lambda pk: ledger().claim_new(pk), lambda pk: ledger().claim_all([pk])],
    ids=["new", "all"],
)
def test_claim_passes_a_locked_row(claim: Callable[[int], object]) -> None:
    row, other = new_row("a"), new_row("b")
    with locked(row):
        assert not claim(row.pk)
        assert claim(other.pk)
    assert claim(row.pk)


def test_locked_suspect_is_passed() -> None:
    row = claimed()
    die(row)
    with locked(row):
        assert ledger().claim_suspect(ledger().suspects()) is None


def test_renewal_passes_a_locked_row() -> None:
    first, second, lost = (
        ledger().claim_new(new_row(name).pk) for name in ("a.txt", "b.txt", "c.txt")
    )
    assert first
    assert second
    assert lost
    QueuedFile.objects.filter(pk=lost.pk).update(lease_token="another")
    with locked(first):
        answers = ledger().renew_unlocked([(first, 1), (second, 2), (lost, 3)])
    assert answers == [None, True, False]
    second.refresh_from_db()
    assert second.sent == 2
    assert is_about(second.due_at, LEASE)
    assert ledger().renew_unlocked([(first, 1), (second, 2), (lost, 3)]) == [True, True, False]
    first.delete()
    assert ledger().renew_unlocked([(first, 1)]) == [False]
    assert ledger().renew_unlocked([]) == []


def test_promotion_passes_a_locked_row() -> None:
    """Only the thread of the locked file waits for the transaction."""
    for name in "ab":
        new_row(name)
    first, second = ledger().claim_due(2, ["one"])
    if not returns_rows("default"):
        pytest.skip("On this database promotions are made one by one.")
    with locked(first):
        pks = [first.pk, second.pk]
        assert ledger().promote_all(pks, 1, first.lease_token, "size") == {second.pk}
    assert ledger().promote_all([first.pk], 1, first.lease_token, "size") == {first.pk}


def test_claims_are_handed_back_past_locked_rows() -> None:
    first, second = (ledger().claim_new(new_row(name).pk) for name in ("a.txt", "b.txt"))
    assert first
    assert second
    with locked(first):
        assert ledger().hand_back([first, second]) == 1
        assert ledger().return_claims([first]) == 0
    assert ledger().get(pk=first.pk).state == State.TRANSFERRING
    assert ledger().get(pk=second.pk).state == State.PENDING


# Own claims


def test_claim_due_leaves_out_what_it_is_told() -> None:
    rows = [new_row(f"{number}", due_at=past(100 - number)) for number in range(4)]
    without = {rows[0].pk, rows[2].pk}
    assert [row.name for row in ledger().claim_due(2, ["one"], without=without)] == ["1", "3"]
    assert ledger().claim_due(2, ["one"], without=without) == []


@pytest.mark.parametrize(
    ("state", "after", "attempts"),
    [
        (State.TRANSFERRING, State.PENDING, 0),
        (State.TRANSFERRED, State.TRANSFERRED, 1),  # an eviction, which it tells by its attempts
        (State.DELETING, State.DELETING, 1),
    ],
)
def test_handed_back_file_is_due_soon(state: State, after: State, attempts: int) -> None:
    row = claimed(state)
    assert ledger().hand_back([row]) == 1
    found = ledger().get()
    assert (found.state, found.attempts, found.last_error) == (after, attempts, "")
    assert found.due_at is not None
    assert is_about(found.due_at, 5)
    die(row)
    assert ledger().claim_new(row.pk)


def test_lost_claim_is_not_handed_back() -> None:
    row = claimed()
    QueuedFile.objects.update(lease_token="another")
    assert ledger().hand_back([row]) == 0
    assert ledger().hand_back([]) == 0
