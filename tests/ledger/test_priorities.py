"""The order in which due files are claimed."""

from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.priorities import NAMES, PRIORITIES, name_of, priority_of
from queued_storage.ledger.rows import OVERDUE_ANYWAY
from queued_storage.ledger.sql.clock import seconds_from_now
from tests.support.rows import new_row, past

pytestmark = pytest.mark.django_db

HOUR = 3600
HIGH, NORMAL, LOW = PRIORITIES


def claimed(limit: int = 100, opened_lately: tuple[str, ...] = ()) -> list[str]:
    """Claim all due files in turn; return their names."""
    found: list[str] = []
    while rows := ledger().claim_due(limit, ["one", "two"], opened_lately=opened_lately):
        found += [row.name for row in rows]
    return found


def row(name: str, priority: int, age: float, alias: str = "one") -> QueuedFile:
    return new_row(name, alias=alias, priority=priority, due_at=past(age))


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_high_priorities_are_first_and_within_them_the_oldest(limit: int) -> None:
    row("low, older", LOW, 900)
    row("low", LOW, 800)
    row("normal", NORMAL, 500, alias="two")
    row("high", HIGH, 10)
    row("high, older", HIGH, 20, alias="two")
    new_row("not due", priority=HIGH, due_at=seconds_from_now(100))
    assert claimed(limit) == ["high, older", "high", "normal", "low, older", "low"]


@pytest.mark.parametrize("limit", [1, 100])
def test_files_that_waited_too_long_are_first(limit: int) -> None:
    row("high", HIGH, 10)
    row("high, overdue", HIGH, HOUR + 20)
    row("low, overdue", LOW, HOUR + 30)
    row("low", LOW, HOUR - 100)
    assert claimed(limit) == ["low, overdue", "high, overdue", "high", "low"]


def test_max_wait_is_a_setting(settings: Any) -> None:
    for wait, expected in (("2h", ["high", "low"]), (60, ["low", "high"])):
        settings.QUEUED_STORAGE = {"MAX_WAIT": wait}
        with transaction.atomic():
            row("high", HIGH, 10)
            row("low", LOW, HOUR + 30)
            assert claimed() == expected
            transaction.set_rollback(True)


def test_the_wait_begins_when_the_remote_opens() -> None:
    row("high", HIGH, 20)
    row("low", LOW, HOUR * 5)
    row("high of an open remote", HIGH, 10, alias="two")
    row("low of an open remote", LOW, HOUR * 5, alias="two")
    expected = ["low of an open remote", "high", "high of an open remote", "low"]
    assert claimed(opened_lately=("one",)) == expected


def test_a_remote_that_opens_all_the_time_starves_no_file() -> None:
    row("high", HIGH, 10)
    row("low", LOW, HOUR * OVERDUE_ANYWAY + 60)
    assert claimed(opened_lately=("one",)) == ["low", "high"]


@pytest.mark.parametrize("value", [*NAMES, *PRIORITIES])
def test_names_and_numbers(value: Any) -> None:
    assert name_of(priority_of(value)) in (value, name_of(value))
    assert priority_of(value) in PRIORITIES


@pytest.mark.parametrize("value", [2, -2, "urgent", "", None, True, 0.0, "1"])
def test_values_that_are_no_priorities(value: Any) -> None:
    with pytest.raises(ValueError, match="priority must be 'high', 'normal', 'low', or an integer"):
        priority_of(value)


def test_prioritize_changes_files_that_wait() -> None:
    pks = {
        state: new_row(state, state=state, priority=NORMAL).pk
        for state in ("held", "pending", "transferring", "transferred", "failed", "deleting")
    }
    assert ledger().filter(pk__in=pks.values()).prioritize(LOW) == 4
    changed = ledger().filter(priority=LOW).values_list("name", flat=True)
    assert set(changed) == {"held", "pending", "transferring", "failed"}
    assert ledger().prioritize(LOW) == 0


FILES = st.lists(
    st.tuples(st.sampled_from(PRIORITIES), st.integers(1, 3 * HOUR), st.sampled_from("ab")),
    max_size=12,
    unique_by=lambda each: each[1],
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(files=FILES, limit=st.integers(1, 5), lately=st.sampled_from(["", "a", "b", "ab"]))
def test_order_of_claims(files: list[tuple[int, int, str]], limit: int, lately: str) -> None:
    """Whoever is overdue comes first, by age; the others by priority, and then by age."""

    def turn(each: tuple[int, int, str]) -> tuple[int, int]:
        priority, age, alias = each
        is_overdue = age >= HOUR and alias not in lately
        return (HIGH - 1 if is_overdue else priority), -age

    with transaction.atomic():
        for priority, age, alias in files:
            # A fraction of a second above, so that no age is exactly MAX_WAIT.
            new_row(f"{age}", alias=alias, priority=priority, due_at=past(age + 0.9))
        found: list[str] = []
        while rows := ledger().claim_due(limit, ["a", "b"], opened_lately=tuple(lately)):
            assert len(rows) <= limit
            found += [each.name for each in rows]
        transaction.set_rollback(True)
    assert found == [f"{age}" for _priority, age, _alias in sorted(files, key=turn)]
