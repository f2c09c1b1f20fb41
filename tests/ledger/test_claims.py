"""What workers do to a row, and that they change nothing without their claim."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import astuple
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils.dateparse import parse_datetime
from pytest_django import Settings

from queued_storage.conf import settings as ledger_settings
from queued_storage.ledger import claims
from queued_storage.ledger.database import QueuedFileQuerySet, ledger
from queued_storage.ledger.models import MAX_FAILURES, QueuedFile
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.sql.statements import returns_rows
from queued_storage.ledger.states import Content, State
from tests.support.rows import (
    LEASE,
    NEW,
    OLD,
    ask_for_delete,
    ask_for_new_content,
    changed,
    claimed,
    is_about,
    new_row,
    overwrite,
    past,
    snapshot,
)

pytestmark = pytest.mark.django_db


# Claiming

WORK = {  # the state of a due row before and after a claim
    State.PENDING: State.TRANSFERRING,
    State.TRANSFERRING: State.TRANSFERRING,
    State.TRANSFERRED: State.TRANSFERRED,
    State.DELETING: State.DELETING,
}


@pytest.mark.parametrize("state", WORK)
def test_claim_takes_a_due_row(state: State) -> None:
    pk = new_row(state=state, due_at=past(), sent=9, lease_token="other", attempts=2).pk
    before = snapshot()
    row = ledger().claim(pk)
    assert row is not None
    assert changed(before) <= {"state", "attempts", "due_at", "lease_token", "sent"}
    assert (row.state, row.attempts, row.sent) == (WORK[state], 3, 0)
    assert len(row.lease_token) == 32
    assert is_about(row.due_at, LEASE)
    assert row.lease_expires_at == row.due_at
    assert ledger().claim(pk) is None


@pytest.mark.parametrize("state", State.values)
@pytest.mark.parametrize("due_at", [None, seconds_from_now(10)])
def test_claim_takes_nothing_that_is_not_due(state: str, due_at: Any) -> None:
    row = new_row(state=state, due_at=due_at)
    before = snapshot()
    assert ledger().claim(row.pk) is None
    assert ledger().claim_due(10, ["one"]) == []
    assert snapshot() == before


def test_claim_of_an_unknown_id() -> None:
    assert ledger().claim(123_456_789) is None


def test_a_lease_is_as_long_as_the_setting(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"LEASE": 1000}
    row = ledger().claim(new_row().pk)
    assert row is not None
    assert is_about(row.due_at, 1000)


def test_claim_due_begins_with_the_longest_due() -> None:
    for number in range(5):
        new_row(f"{number}", due_at=past(100 - number))
    new_row("other", alias="two", due_at=past(1000))
    new_row("late", due_at=seconds_from_now(100))
    rows = ledger().claim_due(3, ["one", "three"])
    assert [row.name for row in rows] == ["0", "1", "2"]
    assert {row.state for row in rows} == {State.TRANSFERRING}
    assert len({row.lease_token for row in rows}) == 1
    assert [row.name for row in ledger().claim_due(3, ["one"])] == ["3", "4"]
    assert ledger().claim_due(3, ["one"]) == []
    assert ledger().claim_due(3, []) == []
    assert [row.name for row in ledger().claim_due(9, ["two"])] == ["other"]


def test_claim_due_orders_files_of_all_aliases() -> None:
    for number in range(9):
        new_row(f"{number}", alias=f"alias {number % 3}", due_at=past(100 - number))
    aliases = [f"alias {number}" for number in range(3)]
    for expected in (["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8"], []):
        assert [row.name for row in ledger().claim_due(4, aliases)] == expected


def test_claim_due_searches_any_number_of_aliases() -> None:
    aliases = [f"alias {number}" for number in range(claims.TOGETHER * 3)]
    for number in range(0, len(aliases), 60):
        new_row(f"{number}", alias=aliases[number])
    found: list[str] = []
    while rows := ledger().claim_due(2, aliases):
        found += [row.alias for row in rows]
    assert sorted(found) == sorted(aliases[::60])


def test_a_priority_of_a_newer_version_is_left_alone() -> None:
    new_row("low", priority=30_000)
    assert ledger().claim_due(9, ["one"]) == []


@pytest.mark.django_db(transaction=True)
def test_a_locked_row_is_left_out_of_a_search() -> None:
    if not connections["default"].features.has_select_for_update_skip_locked:
        pytest.skip("On this database a transaction locks all rows.")
    for number in range(4):
        new_row(f"{number}", alias=f"alias {number % 2}", due_at=past(100 - number))
    found: list[str] = []

    def search() -> None:
        found.extend(row.name for row in ledger().claim_due(2, ["alias 0", "alias 1"]))
        connections.close_all()

    with transaction.atomic():
        list(QueuedFile.objects.filter(name="0").select_for_update())
        thread = threading.Thread(target=search)
        thread.start()
        thread.join(20)
        assert found == ["1", "2"]


def test_a_claim_marks_new_files_as_tried() -> None:
    known = {"size": 16, "checksum": "crc32:1a2b3c4d"}
    new_row("new", **known)
    new_row("two", alias="two", **known)
    new_row("named", remote_name="named", **known)
    new_row("tried", unconfirmed="9 crc32:00000009 other", **known)
    new_row("unread", size=16, checksum="")
    new_row("gone", state=State.DELETING, **known)
    rows = {row.name: row for row in ledger().claim_due(9, ["one", "two"], trying=["one"])}
    token = rows["new"].lease_token
    assert {name: row.unconfirmed for name, row in rows.items()} == {
        "new": f"16 crc32:1a2b3c4d {token}",
        "two": "",
        "named": "",
        "tried": "9 crc32:00000009 other",
        "unread": "",
        "gone": "",
    }
    assert [name for name, row in rows.items() if row.is_tried] == ["new"]
    assert {name: row.object_name for name, row in rows.items()} == {
        "new": "new",
        "two": "",
        "named": "named",
        "tried": "tried",
        "unread": "",
        "gone": "",
    }
    assert [name for name, row in rows.items() if row.is_object_its_own] == ["named"]


def test_the_next_claim_knows_what_was_tried() -> None:
    new_row("a", size=16, checksum="crc32:1a2b3c4d")
    [row] = ledger().claim_due(1, ["one"], trying=["one"])
    assert row.is_tried
    QueuedFile.objects.update(due_at=past(), size=5, checksum="crc32:00000005")
    row = ledger().claim(row.pk)
    assert row.sending is not None
    assert (row.is_tried, *row.sending[:2]) == (False, 16, "crc32:1a2b3c4d")


def test_a_returned_claim_leaves_no_trace() -> None:
    known = {"size": 16, "checksum": "crc32:1a2b3c4d"}
    new_row("a", **known)
    new_row("b", unconfirmed="9 crc32:00000009 other", **known)
    rows = ledger().claim_due(1, ["one"], ["one"]) + ledger().claim_due(1, ["one"], ["one"])
    assert ledger().return_claims(rows) == 2
    found = QueuedFile.objects.order_by("name").values_list("unconfirmed", "attempts", "state")
    assert [*found] == [("", 0, State.PENDING), ("9 crc32:00000009 other", 0, State.PENDING)]


def test_claims_of_a_filtered_ledger_are_refused() -> None:
    row = new_row()
    with pytest.raises(ValueError, match="whole table"):
        ledger().filter(alias="one").claim(row.pk)


def test_a_slower_worker_claims_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        new_row(f"{number}", due_at=past(100 - number))
    take = QueuedFileQuerySet._take
    theirs: list[QueuedFile] = []

    def take_after_another(ledger: QueuedFileQuerySet, pks: Any, trying: Any) -> Any:
        theirs.extend(take(ledger, [] if theirs else pks, trying))
        return take(ledger, pks, trying)

    monkeypatch.setattr(QueuedFileQuerySet, "_take", take_after_another)
    rows = ledger().claim_due(2, ["one"])
    assert [row.name for row in theirs] == ["0", "1"]
    assert [row.name for row in rows] == ["2", "3"]


@pytest.mark.django_db(transaction=True)
def test_a_row_is_claimed_by_one_worker() -> None:
    for number in range(20):
        new_row(f"{number}")
    start = threading.Barrier(5)
    got: list[int] = []

    def work() -> None:
        start.wait()
        for _time in range(40):
            got.extend(row.pk for row in ledger().claim_due(2, ["one"]))
        connections.close_all()

    threads = [threading.Thread(target=work) for _number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(QueuedFile.objects.values_list("pk", flat=True))


# Promotions that share a statement


def sent_rows(names: str, **columns: Any) -> list[QueuedFile]:
    for name in names:
        new_row(name, **columns)
    return ledger().claim_due(len(names), ["one"])


def test_promote_all_skips_void_claims() -> None:
    rows = sent_rows("abcd", unconfirmed="5 crc32:00000005 other", last_error="once")
    lost, again, kept, deleted = rows
    QueuedFile.objects.filter(pk=lost.pk).update(lease_token="another")
    QueuedFile.objects.filter(pk=again.pk).update(generation=2)
    ledger().filter(pk=deleted.pk).mark_deleting()
    before = {row["name"]: row for row in snapshot()}
    if not returns_rows("default"):
        pytest.skip("On this database promotions are made one by one.")
    pks = [row.pk for row in rows]
    assert ledger().promote_all(pks, 1, kept.lease_token, "checksum") == {kept.pk}
    assert [row["name"] for row in snapshot() if row != before[row["name"]]] == ["c"]
    row = QueuedFile.objects.get(pk=kept.pk)
    found = (row.state, row.remote_name, row.verified, row.lease_token, row.due_at)
    assert found == (State.TRANSFERRED, "c", "checksum", "", None)
    assert (row.size, row.checksum, row.unconfirmed, row.last_error) == (*astuple(OLD)[:2], "", "")
    assert is_about(row.transferred_at, 0)


@pytest.mark.django_db(transaction=True)
def test_single_and_shared_promotions_are_alike() -> None:
    alone, one_of_many = sent_rows("ab")
    for row in (alone, one_of_many):
        content = Content(row.size, row.checksum)
        with transaction.atomic() if row is alone else nullcontext():
            for _time in range(2):  # as if the first answer was lost
                assert ledger().promote(row, row.name, content, "checksum", evict=False) == 1
    first, second = map(vars, QueuedFile.objects.order_by("name"))
    different = {key for key in first if first[key] != second[key]}
    assert different - {"saved_at", "transferred_at"} == {"_state", "id", "name", "remote_name"}
    assert (first["remote_name"], second["remote_name"]) == ("a", "b")


@pytest.mark.parametrize(
    "lost", [{"generation": 2}, {"attempts": 2}, {"state": State.HELD}], ids=str
)
@pytest.mark.parametrize("evict", [True, False])
def test_a_promotion_by_another_claim_does_not_count(evict: bool, lost: dict[str, Any]) -> None:
    [row] = sent_rows("a")
    content = Content(row.size, row.checksum)
    assert ledger().promote(row, row.name, content, "checksum", evict=evict) == 1
    QueuedFile.objects.update(**lost)
    assert ledger().promote(row, row.name, content, "checksum", evict=evict) == 0


@pytest.mark.django_db(transaction=True)
def test_a_promotion_by_a_hanging_thread_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may execute a statement for threads that no longer wait for the answer."""
    [row] = sent_rows("a")
    content = Content(row.size, row.checksum)

    def submit(promotion: Any) -> None:
        ledger().filter(pk=row.pk).update(state=State.TRANSFERRED, lease_token="", due_at=None)

    monkeypatch.setattr(claims._promotions, "submit", submit)
    assert ledger().promote(row, row.name, content, "checksum", evict=False) == 1


@pytest.mark.django_db(transaction=True)
def test_threads_promote_at_the_same_time() -> None:
    rows = sent_rows("abcdefgh")
    QueuedFile.objects.filter(name="d").update(lease_token="another")
    together = threading.Barrier(len(rows))
    taken: dict[str, int] = {}

    def promote(row: QueuedFile) -> None:
        together.wait(60)
        content = Content(row.size, row.checksum)
        taken[row.name] = ledger().promote(row, row.name, content, "checksum", evict=False)
        connections.close_all()

    threads = [threading.Thread(target=promote, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert taken == {name: int(name != "d") for name in "abcdefgh"}
    states = dict(QueuedFile.objects.values_list("name", "state"))
    assert states.pop("d") == State.TRANSFERRING
    assert set(states.values()) == {State.TRANSFERRED}


# Under a lease

VERBS: dict[str, tuple[str, Callable[[QueuedFile], int]]] = {
    "renew": (State.TRANSFERRING, lambda row: ledger().renew(row, 3)),
    "name_remote": (State.TRANSFERRING, lambda row: ledger().reserve_remote_name(row, "there")),
    "promote": (
        State.TRANSFERRING,
        lambda row: ledger().promote(row, "there", NEW, "size", evict=False),
    ),
    "promote and evict": (
        State.TRANSFERRING,
        lambda row: ledger().promote(row, "there", NEW, "size", evict=True),
    ),
    "evicted": (State.TRANSFERRED, lambda row: ledger().mark_evicted(row)),
    "postpone": (State.TRANSFERRING, lambda row: ledger().postpone(row, 100, "why")),
    "park": (State.TRANSFERRING, lambda row: ledger().mark_failed(row, "why")),
    "purged": (State.DELETING, lambda row: ledger().remove_tombstone(row)),
}
every_verb = pytest.mark.parametrize(("state", "verb"), VERBS.values(), ids=VERBS)


@every_verb
def test_a_verb_takes_place_under_its_claim(state: str, verb: Callable[[QueuedFile], int]) -> None:
    other = new_row("other.txt", state=state)
    row = claimed(state)
    before = QueuedFile.objects.filter(pk=other.pk).values().get()
    assert verb(row) == 1
    assert QueuedFile.objects.filter(pk=other.pk).values().get() == before


@every_verb
@pytest.mark.parametrize(
    "difference",
    [
        {"lease_token": "another"},
        {"lease_token": ""},
        {"generation": 2},
        {"state": State.HELD},
        {"state": State.PENDING},
        {"state": State.FAILED},
        {"state": State.DELETING},
        {"state": State.TRANSFERRED},
        {"state": State.TRANSFERRING},
    ],
    ids=str,
)
def test_a_verb_changes_nothing_without_its_claim(
    state: str, verb: Callable[[QueuedFile], int], difference: dict[str, Any]
) -> None:
    row = claimed(state)
    if difference == {"state": state}:
        return
    ledger().filter(pk=row.pk).update(**difference)
    before = snapshot()
    was_done = (state, verb) == VERBS["promote and evict"] and difference == {
        "state": State.TRANSFERRED
    }
    assert verb(row) == was_done
    assert snapshot() == before


@every_verb
def test_a_verb_changes_nothing_after_another_claim(
    state: str, verb: Callable[[QueuedFile], int]
) -> None:
    row = claimed(state)
    ledger().filter(pk=row.pk).update(due_at=past())
    assert ledger().claim(row.pk)
    before = snapshot()
    assert verb(row) == 0
    assert ledger().release_claim(row) == 0
    assert ledger().record_remote_name(row, "there") == 0
    assert snapshot() == before


def test_renew() -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(due_at=past())
    before = snapshot()
    assert ledger().renew(row, 42) == 1
    assert changed(before) == {"due_at", "sent"}
    row.refresh_from_db()
    assert row.sent == 42
    assert is_about(row.due_at, LEASE)


def test_reserve_remote_name() -> None:
    row = claimed()
    before = snapshot()
    ledger().reserve_remote_name(row, "there")
    assert changed(before) <= {"remote_name", "unconfirmed", "due_at"}
    row.refresh_from_db()
    assert (row.object_name, row.is_object_its_own, row.is_tried) == ("there", False, True)
    assert is_about(row.due_at, LEASE)
    assert ledger().reserve_remote_name(row, "there") == 1  # repeating it succeeds


def test_release_remote_name() -> None:
    row = claimed()
    before = snapshot()
    ledger().reserve_remote_name(row, "there")
    assert ledger().release_remote_name(row) == 1
    assert changed(before) <= {"due_at"}
    QueuedFile.objects.update(lease_token="another", remote_name="there")
    assert ledger().release_remote_name(row) == 0


@pytest.mark.parametrize(
    "difference", [{}, {"state": State.DELETING}, {"state": State.PENDING, "generation": 2}]
)
def test_the_remote_name_is_recorded_until_another_claim(
    difference: dict[str, Any],
) -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(**{"generation": row.generation} | difference)
    before = snapshot()
    assert ledger().record_remote_name(row, "there") == 1
    assert changed(before) == {"remote_name"}


def test_promote() -> None:
    row = claimed()
    ledger().promote(row, "there", NEW, "checksum", evict=False)
    row.refresh_from_db()
    assert (row.state, row.remote_name, row.verified) == ("transferred", "there", "checksum")
    assert (row.size, row.checksum, row.is_local) == (7, "crc32:00000007", True)
    assert (row.lease_token, row.due_at, row.last_error) == ("", None, "")
    assert is_about(row.transferred_at, 0)
    assert row.is_remote


def test_promoting_before_an_eviction_keeps_the_claim() -> None:
    row = claimed()
    ledger().promote(row, "there", NEW, "size", evict=True)
    found = QueuedFile.objects.get()
    assert (found.state, found.lease_token, found.is_local) == (
        "transferred",
        row.lease_token,
        True,
    )
    assert is_about(found.due_at, LEASE)
    row.state = State.TRANSFERRED
    assert ledger().mark_evicted(row) == 1
    found.refresh_from_db()
    assert (found.is_local, found.lease_token, found.due_at) == (False, "", None)
    assert is_about(found.evicted_at, 0)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (State.TRANSFERRING, State.PENDING),
        (State.TRANSFERRED, State.TRANSFERRED),
        (State.DELETING, State.DELETING),
    ],
)
@pytest.mark.parametrize("count", [True, False])
def test_postpone(state: str, after: str, count: bool) -> None:
    row = claimed(state)
    ledger().postpone(row, 100, "why", count=count)
    row.refresh_from_db()
    assert (row.state, row.lease_token, row.last_error) == (after, "", "why")
    assert row.attempts == (1 if count else 0)
    assert is_about(row.due_at, 100)


def test_mark_failed() -> None:
    row = claimed()
    ledger().mark_failed(row, "why")
    row.refresh_from_db()
    assert (row.state, row.lease_token, row.due_at, row.last_error) == ("failed", "", None, "why")
    assert row.is_local


@pytest.mark.parametrize("ask", [ask_for_delete, ask_for_new_content])
def test_releasing_a_void_claim_makes_the_request_due(ask: Callable[[], int]) -> None:
    row = claimed()
    ask()
    before = snapshot()
    assert ledger().release_claim(row) == 1
    assert changed(before) == {"due_at", "lease_token"}
    assert ledger().claim(row.pk)


@pytest.mark.parametrize("state", [State.HELD, State.FAILED])
def test_a_released_held_file_is_not_due(state: str) -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(state=state)
    assert ledger().release_claim(row) == 1
    row.refresh_from_db()
    assert (row.state, row.due_at, row.lease_token) == (state, None, "")


def test_a_released_eviction_can_be_claimed_again() -> None:
    row = claimed(State.TRANSFERRED)
    assert ledger().release_claim(row) == 1
    assert ledger().claim(row.pk) is not None


def test_a_released_transfer_can_be_claimed_again() -> None:
    row = claimed()
    assert ledger().release_claim(row) == 1
    assert ledger().claim(row.pk) is not None


def test_remove_tombstone() -> None:
    row = claimed(State.DELETING)
    new_row("b.txt", state=State.DELETING)
    assert ledger().remove_tombstone(row) == 1
    assert [left.name for left in QueuedFile.objects.all()] == ["b.txt"]
    assert ledger().record("one", "a.txt", NEW, held=False)


# Failures


def test_a_row_remembers_the_last_attempts_that_failed() -> None:
    pk = new_row(due_at=past()).pk
    for number in range(MAX_FAILURES + 2):
        row = ledger().claim(pk)
        assert row is not None
        assert ledger().postpone(row, -3600, f"reason {number}")
    last = ledger().claim(pk)
    assert last is not None
    assert ledger().mark_failed(last, "the end")
    failures = ledger().get(pk=pk).failures
    assert [failures[0]["error"], failures[-1]["error"]] == ["reason 3", "the end"]
    assert [failure["attempt"] for failure in failures] == list(range(4, MAX_FAILURES + 4))
    assert failures[-1]["work"] == State.TRANSFERRING
    assert failures[-1]["host"] == ledger_settings.host
    assert is_about(parse_datetime(failures[-1]["at"]), 0)


def test_failures_are_kept_until_new_content() -> None:
    row = claimed()
    ledger().postpone(row, -3600, "not yet")
    again = ledger().claim(row.pk)
    assert again is not None
    ledger().promote(again, "a.txt", OLD, "size", evict=False)
    assert [failure["error"] for failure in ledger().get(pk=row.pk).failures] == ["not yet"]
    overwrite()
    assert ledger().get(pk=row.pk).failures == []
