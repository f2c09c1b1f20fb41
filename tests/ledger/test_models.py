"""Each verb of the ledger: what it changes, and that it changes nothing where it must not."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import astuple
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from pytest_django import Settings

from queued_storage.conf import settings as ledger_settings
from queued_storage.ledger import claims
from queued_storage.ledger.database import QueuedFileQuerySet, ledger
from queued_storage.ledger.models import MAX_FAILURES, NAME_MAX_BYTES, NAME_MAX_LENGTH, QueuedFile
from queued_storage.ledger.rows import LEASE_GRACE
from queued_storage.ledger.sql.clock import DatabaseNow, seconds_from_now
from queued_storage.ledger.sql.statements import returns_rows
from queued_storage.ledger.states import Content, State

pytestmark = pytest.mark.django_db

FIELDS = [field.attname for field in QueuedFile._meta.concrete_fields]
OLD = Content(5, "crc32:00000005", "text/plain")
NEW = Content(7, "crc32:00000007", "text/html")
LEASE = 60


def now() -> datetime:
    moment: datetime = ledger().annotate(now=DatabaseNow()).values_list("now", flat=True)[0]
    return moment


def is_about(time: datetime | None, seconds: float) -> bool:
    """Whether a time of the ledger is so many seconds from now."""
    return time is not None and abs((time - now()).total_seconds() - seconds) < 5


def snapshot() -> list[dict[str, Any]]:
    return list(QueuedFile.objects.order_by("pk").values())


def changed(before: list[dict[str, Any]]) -> set[str]:
    """The columns in which the only row differs from what it was."""
    [old], [new] = before, snapshot()
    return {name for name in FIELDS if old[name] != new[name]}


def new_row(name: str = "a.txt", alias: str = "one", **columns: Any) -> QueuedFile:
    pk = ledger().record(alias, name, OLD, held=False)
    assert pk is not None
    ledger().filter(pk=pk).update(**columns)
    return QueuedFile.objects.get(pk=pk)


def past(seconds: float = 3600) -> Any:
    return seconds_from_now(-seconds)


def claimed(state: str = State.TRANSFERRING) -> QueuedFile:
    """A row in this state under a lease."""
    before = State.PENDING if state == State.TRANSFERRING else state
    row = ledger().claim(new_row(state=before, due_at=past()).pk)
    assert row is not None
    return row


# Recording


def test_record() -> None:
    pk = ledger().record("one", "docs/a.txt", OLD, held=False)
    row = QueuedFile.objects.get()
    assert row.pk == pk
    assert (row.alias, row.name, row.remote_name) == ("one", "docs/a.txt", "")
    assert (row.size, row.checksum, row.content_type) == (5, "crc32:00000005", "text/plain")
    assert (row.state, row.is_local, row.generation) == (State.PENDING, True, 1)
    assert (row.attempts, row.sent, row.lease_token, row.last_error) == (0, 0, "", "")
    assert is_about(row.due_at, 0)
    assert is_about(row.saved_at, 0)
    assert (row.transferred_at, row.evicted_at, row.verified) == (None, None, "")
    assert row.host
    assert not row.is_remote
    assert row.lease_expires_at is None
    assert str(row) == "docs/a.txt (one)"


def test_record_of_a_held_file() -> None:
    ledger().record("one", "a.txt", OLD, held=True)
    row = QueuedFile.objects.get()
    assert (row.state, row.due_at) == (State.HELD, None)
    assert not ledger().due().exists()


def test_a_tombstone_of_a_file_that_predates_the_ledger() -> None:
    assert ledger().record_tombstone("one", "a.txt")
    row = QueuedFile.objects.get()
    assert (row.state, row.remote_name, row.is_local) == (State.DELETING, "a.txt", True)
    assert ledger().due().exists()


@pytest.mark.parametrize("state", State.values)
def test_a_name_that_is_taken_is_not_recorded_whatever_the_state(state: str) -> None:
    new_row(state=state)
    before = snapshot()
    assert ledger().record("one", "a.txt", NEW, held=False) is None
    assert ledger().record_tombstone("one", "a.txt") is None
    assert snapshot() == before
    assert ledger().record("two", "a.txt", NEW, held=False)


def test_a_taken_name_leaves_the_transaction_usable() -> None:
    with transaction.atomic():
        new_row()
        assert ledger().record("one", "a.txt", NEW, held=False) is None
        assert ledger().record("one", "b.txt", NEW, held=False)
    assert QueuedFile.objects.count() == 2


def test_a_save_is_one_statement(django_assert_num_queries: Callable[..., Any]) -> None:
    with django_assert_num_queries(1):
        ledger().record("one", "a.txt", OLD, held=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.txt", "A.txt"),
        ("é", "e"),
        ("é", "É"),
        ("é", "e\u0301"),
        ("a", "a "),
        ("a", "a\u200b"),
        ("ß", "ss"),
        ("1", "\u0661"),
        ("😀", "😁"),
        ("\ufb01", "fi"),
        ("a\tb", "a b"),
        ("\u0131", "i"),
    ],
)
def test_names_are_exact(one: str, other: str) -> None:
    first = ledger().record("one", one, OLD, held=False)
    second = ledger().record("one", other, NEW, held=False)
    assert None not in {first, second}
    assert ledger().entry("one", one).pk == first  # type: ignore[union-attr]
    assert ledger().entry("one", other).pk == second  # type: ignore[union-attr]
    entries = ledger().entries("one", [one, other, "neither"])
    assert {name: entry.pk for name, entry in entries.items()} == {one: first, other: second}
    assert ledger().overwrite("one", one, NEW, held=False) == 1
    assert ledger().named("one", other).get().generation == 1
    assert ledger().named("one", one).mark_deleting() == 1
    assert not ledger().entry("one", other).is_deleted  # type: ignore[union-attr]


def test_aliases_are_exact() -> None:
    for alias in ("one", "One", "one ", "öne"):
        assert ledger().record(alias, "a.txt", OLD, held=False)
    assert QueuedFile.objects.filter(alias="one").count() == 1


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
def test_the_longest_names_are_kept_whole(letter: str) -> None:
    length = min(NAME_MAX_LENGTH, NAME_MAX_BYTES // len(letter.encode()))
    name = letter * length
    assert ledger().record("x" * 64, name, OLD, held=False)
    assert ledger().record("x" * 64, name, OLD, held=False) is None
    assert ledger().record("x" * 64, name[:-1] + "b", OLD, held=False)
    assert ledger().entry("x" * 64, name)
    assert set(QueuedFile.objects.values_list("name", flat=True)) == {name, name[:-1] + "b"}


def test_a_file_of_many_terabytes() -> None:
    ledger().record("one", "a", Content(2**45, ""), held=False)
    assert QueuedFile.objects.get().size == 2**45


@pytest.mark.django_db(transaction=True)
def test_of_many_threads_one_gets_the_name() -> None:
    start = threading.Barrier(6)
    got: list[int | None] = []

    def record() -> None:
        start.wait()
        got.append(ledger().record("one", "a.txt", OLD, held=False))
        connections.close_all()

    threads = [threading.Thread(target=record) for _number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(pk is not None for pk in got) == 1
    assert QueuedFile.objects.count() == 1


# What users ask for


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_overwrite_starts_anew(state: str, held: bool) -> None:
    row = new_row(
        state=state, due_at=None, is_local=False, attempts=4, remote_name="there", verified="size",
        last_error="old", transferred_at=past(), evicted_at=past(), generation=6,
    )  # fmt: skip
    assert ledger().overwrite("one", "a.txt", NEW, held=held) == 1
    row.refresh_from_db()
    assert row.state == (State.HELD if held else State.PENDING)
    assert (row.generation, row.attempts, row.is_local, row.remote_name) == (7, 0, True, "there")
    assert (row.size, row.checksum, row.content_type) == (7, "crc32:00000007", "text/html")
    assert (row.verified, row.last_error, row.transferred_at, row.evicted_at) == (
        "",
        "",
        None,
        None,
    )
    assert row.due_at is None if held else is_about(row.due_at, 0)
    assert is_about(row.saved_at, 0)


@pytest.mark.parametrize(("alias", "name"), [("one", "b.txt"), ("two", "a.txt")])
def test_overwrite_of_an_unknown_name_changes_nothing(alias: str, name: str) -> None:
    new_row()
    before = snapshot()
    assert ledger().overwrite(alias, name, NEW, held=False) == 0
    assert snapshot() == before


def test_overwrite_of_a_tombstone_changes_nothing() -> None:
    new_row(state=State.DELETING)
    before = snapshot()
    assert ledger().overwrite("one", "a.txt", NEW, held=False) == 0
    assert snapshot() == before


@pytest.mark.parametrize("state", [State.HELD, State.PENDING, State.FAILED])
def test_release_makes_a_waiting_file_due(state: str) -> None:
    row = new_row(state=state, due_at=None, attempts=6)
    before = snapshot()
    assert ledger().filter(pk=row.pk).make_due() == 1
    assert changed(before) <= {"state", "due_at", "attempts"}
    row.refresh_from_db()
    assert (row.state, row.attempts) == (State.PENDING, 0)
    assert is_about(row.due_at, 0)


@pytest.mark.parametrize("state", [State.TRANSFERRING, State.TRANSFERRED, State.DELETING])
def test_release_leaves_what_is_done_or_under_way(state: str) -> None:
    new_row(state=state, due_at=None)
    before = snapshot()
    assert ledger().make_due() == 0
    assert snapshot() == before


@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_bury_makes_a_tombstone_that_is_due(state: str) -> None:
    row = new_row(state=state, due_at=None, attempts=3, last_error="x", remote_name="there")
    before = snapshot()
    assert ledger().filter(pk=row.pk).mark_deleting() == 1
    assert changed(before) == {"state", "due_at", "attempts", "last_error"}
    row.refresh_from_db()
    assert (row.state, row.remote_name) == (State.DELETING, "there")
    assert is_about(row.due_at, 0)


def test_bury_leaves_tombstones_alone() -> None:
    new_row(state=State.DELETING, due_at=seconds_from_now(500), attempts=3)
    before = snapshot()
    assert ledger().mark_deleting() == 0
    assert snapshot() == before


def ask_for_delete() -> int:
    return ledger().mark_deleting()


def ask_for_new_content() -> int:
    return ledger().overwrite("one", "a.txt", NEW, held=False)


@pytest.mark.parametrize("ask", [ask_for_delete, ask_for_new_content])
def test_what_is_asked_for_under_a_lease_waits_until_it_has_ended_for_certain(
    ask: Callable[[], int],
) -> None:
    row = claimed()
    assert ask() == 1
    row.refresh_from_db()
    assert is_about(row.due_at, LEASE + LEASE_GRACE)
    assert row.lease_token  # by which its holder can let go of it
    assert ledger().claim(row.pk) is None


@pytest.mark.parametrize("ask", [ask_for_delete, ask_for_new_content])
def test_what_is_asked_for_after_a_lease_has_ended_is_due(ask: Callable[[], int]) -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(due_at=past())
    assert ask() == 1
    row.refresh_from_db()
    assert is_about(row.due_at, 0)
    assert ledger().claim(row.pk)


def test_drop_local() -> None:
    row = new_row(state=State.DELETING)
    before = snapshot()
    assert ledger().mark_local_dropped(row.pk) == 1
    assert changed(before) == {"is_local"}
    assert ledger().mark_local_dropped(row.pk) == 0


@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_drop_local_is_for_tombstones(state: str) -> None:
    row = new_row(state=state)
    before = snapshot()
    assert ledger().mark_local_dropped(row.pk) == 0
    assert ledger().mark_local_dropped(row.pk + 1000) == 0
    assert snapshot() == before


# Claiming

WORK = {  # what a due row of a state becomes by a claim
    State.PENDING: State.TRANSFERRING,
    State.TRANSFERRING: State.TRANSFERRING,
    State.TRANSFERRED: State.TRANSFERRED,
    State.DELETING: State.DELETING,
}


@pytest.mark.parametrize("state", WORK)
def test_claim_takes_a_due_row_under_a_lease(state: State) -> None:
    pk = new_row(state=state, due_at=past(), sent=9, lease_token="theirs", attempts=2).pk
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


def test_claim_due_takes_the_longest_due_of_the_aliases() -> None:
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


def test_a_claim_notes_which_new_files_it_may_send() -> None:
    known = {"size": 16, "checksum": "crc32:1a2b3c4d"}
    new_row("new", **known)
    new_row("two", alias="two", **known)
    new_row("named", remote_name="named", **known)
    new_row("tried", unconfirmed="9 crc32:00000009 theirs", **known)
    new_row("unread", size=16, checksum="")
    new_row("gone", state=State.DELETING, **known)
    rows = {row.name: row for row in ledger().claim_due(9, ["one", "two"], trying=["one"])}
    token = rows["new"].lease_token
    assert {name: row.unconfirmed for name, row in rows.items()} == {
        "new": f"16 crc32:1a2b3c4d {token}",
        "two": "",
        "named": "",
        "tried": "9 crc32:00000009 theirs",
        "unread": "",
        "gone": "",
    }
    assert [name for name, row in rows.items() if row.is_tried] == ["new"]
    assert {name: row.remains for name, row in rows.items() if row.remains} == {
        "tried": Content(9, "crc32:00000009")
    }


def test_what_a_claim_has_noted_is_what_the_next_one_may_find() -> None:
    new_row("a", size=16, checksum="crc32:1a2b3c4d")
    [row] = ledger().claim_due(1, ["one"], trying=["one"])
    assert row.remains is None
    QueuedFile.objects.update(due_at=past(), size=5, checksum="crc32:00000005")
    [row] = ledger().claim_due(1, ["one"], trying=["one"])
    assert (row.is_tried, row.remains) == (False, Content(16, "crc32:1a2b3c4d"))


def test_who_gives_a_file_back_has_sent_nothing() -> None:
    known = {"size": 16, "checksum": "crc32:1a2b3c4d"}
    new_row("a", **known)
    new_row("b", unconfirmed="9 crc32:00000009 theirs", **known)
    rows = ledger().claim_due(1, ["one"], ["one"]) + ledger().claim_due(1, ["one"], ["one"])
    assert ledger().return_claims(rows) == 2
    found = QueuedFile.objects.order_by("name").values_list("unconfirmed", "attempts", "state")
    assert [*found] == [("", 0, State.PENDING), ("9 crc32:00000009 theirs", 0, State.PENDING)]


def test_claims_of_a_filtered_ledger_are_refused() -> None:
    row = new_row()
    with pytest.raises(ValueError, match="whole table"):
        ledger().filter(alias="one").claim(row.pk)


def test_who_was_slower_with_a_batch_takes_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_row_is_claimed_by_one_of_many() -> None:
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


def test_promote_all_promotes_what_its_claim_still_has() -> None:
    rows = sent_rows("abcd", unconfirmed="5 crc32:00000005 theirs", last_error="once")
    lost, again, kept, deleted = rows
    QueuedFile.objects.filter(pk=lost.pk).update(lease_token="another's")
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
def test_one_alone_and_one_of_many_are_promoted_alike() -> None:
    alone, one_of_many = sent_rows("ab")
    for row in (alone, one_of_many):
        content = Content(row.size, row.checksum)
        with transaction.atomic() if row is alone else nullcontext():
            for _time in range(2):  # as where the first answer is lost
                assert ledger().promote(row, row.name, content, "checksum", evict=False) == 1
    first, second = map(vars, QueuedFile.objects.order_by("name"))
    different = {key for key in first if first[key] != second[key]}
    assert different - {"saved_at", "transferred_at"} == {"_state", "id", "name", "remote_name"}
    assert (first["remote_name"], second["remote_name"]) == ("a", "b")


@pytest.mark.parametrize(
    "lost", [{"generation": 2}, {"attempts": 2}, {"state": State.HELD}], ids=str
)
@pytest.mark.parametrize("evict", [True, False])
def test_what_somebody_else_promoted_or_took_back_was_not_promoted_here(
    evict: bool, lost: dict[str, Any]
) -> None:
    [row] = sent_rows("a")
    content = Content(row.size, row.checksum)
    assert ledger().promote(row, row.name, content, "checksum", evict=evict) == 1
    QueuedFile.objects.update(**lost)
    assert ledger().promote(row, row.name, content, "checksum", evict=evict) == 0


@pytest.mark.django_db(transaction=True)
def test_what_a_thread_has_promoted_that_hangs_since_was_promoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have sent the statement for others, who wait no longer for its answer."""
    [row] = sent_rows("a")
    content = Content(row.size, row.checksum)

    def submit(promotion: Any) -> None:
        ledger().filter(pk=row.pk).update(state=State.TRANSFERRED, lease_token="", due_at=None)

    monkeypatch.setattr(claims._promotions, "submit", submit)
    assert ledger().promote(row, row.name, content, "checksum", evict=False) == 1


@pytest.mark.django_db(transaction=True)
def test_threads_that_promote_at_the_same_time() -> None:
    rows = sent_rows("abcdefgh")
    QueuedFile.objects.filter(name="d").update(lease_token="another's")
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
def test_a_verb_takes_place_under_its_lease(state: str, verb: Callable[[QueuedFile], int]) -> None:
    other = new_row("other.txt", state=state)
    row = claimed(state)
    before = QueuedFile.objects.filter(pk=other.pk).values().get()
    assert verb(row) == 1
    assert QueuedFile.objects.filter(pk=other.pk).values().get() == before


@every_verb
@pytest.mark.parametrize(
    "difference",
    [
        {"lease_token": "somebody else's"},
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
def test_a_verb_changes_nothing_where_lease_state_or_generation_differ(
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


def test_name_remote() -> None:
    row = claimed()
    before = snapshot()
    ledger().reserve_remote_name(row, "there")
    assert changed(before) <= {"remote_name", "due_at"}
    row.refresh_from_db()
    assert row.remote_name == "there"
    assert is_about(row.due_at, LEASE)
    assert ledger().reserve_remote_name(row, "there") == 1  # the same again is still an answer


@pytest.mark.parametrize(
    "difference", [{}, {"state": State.DELETING}, {"state": State.PENDING, "generation": 2}]
)
def test_what_was_written_is_noted_as_long_as_nobody_else_has_the_row(
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


def test_promote_with_the_eviction_to_follow_keeps_the_claim() -> None:
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


def test_park() -> None:
    row = claimed()
    ledger().mark_failed(row, "why")
    row.refresh_from_db()
    assert (row.state, row.lease_token, row.due_at, row.last_error) == ("failed", "", None, "why")
    assert row.is_local


@pytest.mark.parametrize("ask", [ask_for_delete, ask_for_new_content])
def test_letting_go_of_a_void_claim_makes_what_was_asked_for_due(ask: Callable[[], int]) -> None:
    row = claimed()
    ask()
    before = snapshot()
    assert ledger().release_claim(row) == 1
    assert changed(before) == {"due_at", "lease_token"}
    assert ledger().claim(row.pk)


@pytest.mark.parametrize("state", [State.HELD, State.FAILED])
def test_letting_go_of_a_file_that_nobody_wants_anything_of(state: str) -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(state=state)
    assert ledger().release_claim(row) == 1
    row.refresh_from_db()
    assert (row.state, row.due_at, row.lease_token) == (state, None, "")


def test_letting_go_before_an_eviction_leaves_it_to_the_next() -> None:
    row = claimed(State.TRANSFERRED)
    assert ledger().release_claim(row) == 1
    assert ledger().claim(row.pk) is not None


def test_letting_go_never_leaves_a_file_that_nobody_looks_at_again() -> None:
    row = claimed()
    assert ledger().release_claim(row) == 1
    assert ledger().claim(row.pk) is not None


def test_purged() -> None:
    row = claimed(State.DELETING)
    new_row("b.txt", state=State.DELETING)
    assert ledger().remove_tombstone(row) == 1
    assert [left.name for left in QueuedFile.objects.all()] == ["b.txt"]
    assert ledger().record("one", "a.txt", NEW, held=False)


# Looking


def test_entry() -> None:
    row = new_row(remote_name="there")
    entry = ledger().entry("one", "a.txt")
    assert entry is not None
    assert (entry.pk, entry.state, entry.remote_name, entry.size) == (row.pk, "pending", "there", 5)
    assert entry.saved_at == row.saved_at
    assert ledger().entry("two", "a.txt") is None
    assert ledger().entry("one", "b.txt") is None
    assert ledger().latest_entry("one", "a.txt") == entry


@pytest.mark.parametrize("state", State.values)
def test_what_an_entry_says_of_its_state(state: str) -> None:
    new_row(state=state)
    entry = ledger().entry("one", "a.txt")
    assert entry is not None
    assert entry.is_promoted == (state == State.TRANSFERRED)
    assert entry.is_deleted == (state == State.DELETING)
    assert QueuedFile.objects.get().is_remote == entry.is_promoted


@pytest.mark.parametrize("name", ["there", "There", "there "])
def test_called_knows_names_on_the_remote_exactly(name: str) -> None:
    row = new_row(remote_name="there")
    new_row("b.txt", remote_name="elsewhere")
    found = list(ledger().with_remote_name(name))
    assert found == ([row] if name == "there" else [])


@pytest.mark.parametrize("name", ["there", "There"])
def test_called_knows_who_may_have_a_name_on_the_remote(name: str) -> None:
    row = new_row("there", unconfirmed="16 crc32:1a2b3c4d token")
    new_row("There.txt", remote_name="")
    new_row("There", alias="two", remote_name="elsewhere")
    found = list(ledger().with_remote_name(name))
    assert found == ([row] if name == "there" else [])


# The clock


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_times_of_the_database_are_those_that_django_reads(use_tz: bool, zone: str) -> None:
    with override_settings(USE_TZ=use_tz, TIME_ZONE=zone):
        new_row()
        row = QueuedFile.objects.get()
        assert timezone.is_aware(row.saved_at) == use_tz
        assert abs(timezone.now() - row.saved_at) < timedelta(seconds=30)
        assert ledger().due().exists()
        ledger().update(due_at=seconds_from_now(10))
        assert not ledger().due().exists()
        ledger().update(due_at=seconds_from_now(-0.5))
        assert ledger().due().exists()


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


def test_success_leaves_the_failures_before_it_and_new_content_starts_anew() -> None:
    row = claimed()
    ledger().postpone(row, -3600, "not yet")
    again = ledger().claim(row.pk)
    assert again is not None
    ledger().promote(again, "a.txt", OLD, "size", evict=False)
    assert [failure["error"] for failure in ledger().get(pk=row.pk).failures] == ["not yet"]
    ledger().overwrite("one", "a.txt", NEW, held=False)
    assert ledger().get(pk=row.pk).failures == []
