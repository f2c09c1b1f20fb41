"""What users of a storage do to a row, and what they must leave alone."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import NAME_MAX_BYTES, NAME_MAX_LENGTH, QueuedFile
from queued_storage.ledger.rows import LEASE_GRACE
from queued_storage.ledger.sql.clock import seconds_from_now
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


def test_record_tombstone() -> None:
    assert ledger().record_tombstone("one", "a.txt")
    row = QueuedFile.objects.get()
    assert (row.state, row.remote_name, row.is_local) == (State.DELETING, "a.txt", True)
    assert ledger().due().exists()


@pytest.mark.parametrize("state", State.values)
def test_a_taken_name_is_not_recorded_again(state: str) -> None:
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
    assert overwrite(one) == 1
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
def test_one_of_many_threads_gets_the_name() -> None:
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


# Overwriting, deleting, retrying


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_overwrite_starts_anew(state: str, held: bool) -> None:
    row = new_row(
        state=state, due_at=None, is_local=False, attempts=4, remote_name="there", verified="size",
        last_error="old", transferred_at=past(), evicted_at=past(), generation=6,
    )  # fmt: skip
    assert overwrite(held=held) == 1
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


@pytest.mark.parametrize(
    "change",
    [{"generation": 2}, {"is_local": False}, {"state": State.DELETING}],
    ids=["overwritten", "evicted", "deleted"],
)
def test_overwrite_of_a_changed_row_changes_nothing(change: dict[str, Any]) -> None:
    row = new_row()
    entry = ledger().entry("one", "a.txt")
    assert entry
    ledger().filter(pk=row.pk).update(**change)
    before = snapshot()
    assert ledger().overwrite(entry, NEW, held=False) == 0
    assert snapshot() == before


@pytest.mark.parametrize("token", ["", "mine"])
def test_overwrite_takes_a_tombstone_over(token: str) -> None:
    row = new_row(state=State.DELETING, remote_name="there", is_local=False, lease_token=token)
    claim = ledger().filter(pk=row.pk).get()
    assert overwrite() == 1
    row.refresh_from_db()
    assert (row.state, row.generation, row.is_local, row.remote_name) == (
        "pending",
        2,
        True,
        "there",
    )
    assert ledger().remove_tombstone(claim) == 0
    assert ledger().mark_local_dropped(row.pk, 1) == 0


def test_overwrite_of_a_row_deleted_before() -> None:
    row = new_row(state=State.DELETING)
    entry = ledger().entry("one", "a.txt")
    assert entry
    ledger().filter(pk=row.pk).update(state=State.TRANSFERRED)
    assert ledger().overwrite(entry, NEW, held=False) == 0


def test_lock_generation() -> None:
    row = new_row(generation=3)
    before = snapshot()
    assert ledger().lock_generation(row.pk, 3) == 1
    assert ledger().lock_generation(row.pk, 2) == 0
    assert snapshot() == before
    ledger().filter(pk=row.pk).mark_deleting()
    assert ledger().lock_generation(row.pk, 3) == 0


@pytest.mark.parametrize("state", [State.HELD, State.PENDING, State.FAILED])
def test_make_due_releases_a_waiting_file(state: str) -> None:
    row = new_row(state=state, due_at=None, attempts=6)
    before = snapshot()
    assert ledger().filter(pk=row.pk).make_due() == 1
    assert changed(before) <= {"state", "due_at", "attempts"}
    row.refresh_from_db()
    assert (row.state, row.attempts) == (State.PENDING, 0)
    assert is_about(row.due_at, 0)


@pytest.mark.parametrize("state", [State.TRANSFERRING, State.TRANSFERRED, State.DELETING])
def test_make_due_leaves_other_states_alone(state: str) -> None:
    new_row(state=state, due_at=None)
    before = snapshot()
    assert ledger().make_due() == 0
    assert snapshot() == before


@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_mark_deleting_makes_a_due_tombstone(state: str) -> None:
    row = new_row(state=state, due_at=None, attempts=3, last_error="x", remote_name="there")
    before = snapshot()
    assert ledger().filter(pk=row.pk).mark_deleting() == 1
    assert changed(before) == {"state", "due_at", "attempts", "last_error"}
    row.refresh_from_db()
    assert (row.state, row.remote_name) == (State.DELETING, "there")
    assert is_about(row.due_at, 0)


def test_mark_deleting_leaves_tombstones_alone() -> None:
    new_row(state=State.DELETING, due_at=seconds_from_now(500), attempts=3)
    before = snapshot()
    assert ledger().mark_deleting() == 0
    assert snapshot() == before


@pytest.mark.parametrize("ask", [ask_for_delete, ask_for_new_content])
def test_a_request_waits_for_a_running_lease(
    ask: Callable[[], int],
) -> None:
    row = claimed()
    assert ask() == 1
    row.refresh_from_db()
    assert is_about(row.due_at, LEASE + LEASE_GRACE)
    assert row.lease_token  # so that its worker can release it
    assert ledger().claim(row.pk) is None


@pytest.mark.parametrize("ask", [ask_for_delete, ask_for_new_content])
def test_a_request_after_the_lease_is_due(ask: Callable[[], int]) -> None:
    row = claimed()
    ledger().filter(pk=row.pk).update(due_at=past())
    assert ask() == 1
    row.refresh_from_db()
    assert is_about(row.due_at, 0)
    assert ledger().claim(row.pk)


def test_mark_local_dropped() -> None:
    row = new_row(state=State.DELETING)
    before = snapshot()
    assert ledger().mark_local_dropped(row.pk, row.generation + 1) == 0
    assert ledger().mark_local_dropped(row.pk, row.generation) == 1
    assert changed(before) == {"is_local"}
    assert ledger().mark_local_dropped(row.pk, row.generation) == 0


def test_purge_needs_copy_of_an_unconfirmed_upload() -> None:
    row = new_row(state=State.DELETING, unconfirmed="5 crc32:00000005 token")
    assert ledger().mark_local_dropped(row.pk, 1) == 0
    assert ledger().mark_local_dropped(row.pk, 1, even_unconfirmed=True) == 1


def test_a_called_task_may_have_stored_the_file() -> None:
    row = new_row(size=5, checksum="crc32:00000005")
    assert ledger().mark_task_called(row.pk) == 1
    row.refresh_from_db()
    assert (row.object_name, row.is_object_its_own, row.is_tried) == (row.name, False, False)
    assert row.sending == (5, "crc32:00000005", "")


@pytest.mark.parametrize("state", sorted(set(State.values) - {State.DELETING}))
def test_mark_local_dropped_is_for_tombstones(state: str) -> None:
    row = new_row(state=state)
    before = snapshot()
    assert ledger().mark_local_dropped(row.pk, row.generation) == 0
    assert ledger().mark_local_dropped(row.pk + 1000, 1) == 0
    assert snapshot() == before


# Entries


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
def test_an_entry_knows_its_state(state: str) -> None:
    new_row(state=state)
    entry = ledger().entry("one", "a.txt")
    assert entry is not None
    assert entry.is_promoted == (state == State.TRANSFERRED)
    assert entry.is_deleted == (state == State.DELETING)
    assert QueuedFile.objects.get().is_remote == entry.is_promoted
