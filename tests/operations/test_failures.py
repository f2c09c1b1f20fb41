"""Files grouped by their errors."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from queued_storage.ledger.priorities import PRIORITIES
from queued_storage.ledger.states import State
from queued_storage.operations.failures import Group, group_of, groups, without_details
from tests.admin.pages import add

pytestmark = pytest.mark.django_db


def wait(error: str, seconds: float = 60, **columns: Any) -> int:
    later = timezone.now() + timedelta(seconds=seconds)
    return add(state=State.PENDING, due_at=later, last_error=error, **columns)[0].pk


def shown(found: list[Group]) -> list[tuple[str, str, bool, int]]:
    return [(group.alias, group.error, group.is_failed, len(group.pks)) for group in found]


def test_waiting_and_failed_files_are_grouped() -> None:
    for number in range(3):
        wait("OSError: no", seconds=60 * (number + 1))
    wait("OSError: no", alias="archive")
    wait("KeyError", priority=PRIORITIES[-1])
    add(2, State.FAILED, last_error="OSError: no")
    add(5, State.PENDING, due_at=timezone.now())
    add(5, State.TRANSFERRED)
    found = groups(["default", "archive"])
    assert shown(found) == [
        ("default", "OSError: no", False, 3),
        ("default", "OSError: no", True, 2),
        ("archive", "OSError: no", False, 1),
        ("default", "KeyError", False, 1),
    ]
    first = found[0].next_at
    assert first
    assert abs((first - timezone.now()).total_seconds() - 60) < 10
    assert found[1].next_at is None
    assert shown(groups(["archive"])) == [("archive", "OSError: no", False, 1)]


@pytest.mark.parametrize(
    ("name", "error", "expected"),
    [
        ("a/b.txt", "Error: 'a/b.txt' is gone", "Error: '…' is gone"),
        ("a/b.txt", "Error: /srv/media/a/b.txt is gone", "Error: /srv/media/… is gone"),
        ("a", "Failed: 'a' at all", "Failed: '…' at all"),
        ("x.txt", "It has 12 bytes, but 1,234 bytes were saved.", "It has … bytes, but … bytes"),
        ("x.txt", "took 3 of 12 bytes", "took … of … bytes"),
        ("x.txt", "checksum crc32:1a2b3c4d", "checksum crc32:…"),
        ("x.txt", "Forbidden (403) RequestId: 4442587FB7D0A2F9", "Forbidden (403) RequestId: …"),
        (
            "x.txt",
            "An error occurred (InvalidAccessKeyId)",
            "An error occurred (InvalidAccessKeyId)",
        ),
    ],
)
def test_what_differs_between_files_is_left_out(name: str, error: str, expected: str) -> None:
    assert without_details(error, [name, ""]).startswith(expected)


def test_errors_with_names_are_one_group() -> None:
    for number in range(3):
        name = f"uploads/{number:04}.jpg"
        wait(f"LocalFileMissing: The local copy of {name!r} is gone.", name=name)
    [group] = groups(["default"])
    assert (group.error, len(group.pks)) == ("LocalFileMissing: The local copy of '…' is gone.", 3)
    assert group.beginning == "LocalFileMissing: The local copy of '"


def test_large_groups_are_cut() -> None:
    for _number in range(4):
        wait("OSError: no")
    add(3, State.FAILED, last_error="OSError: no")
    assert [(len(group.pks), group.is_cut) for group in groups(["default"], 3)] == [
        (3, True),
        (3, False),
    ]


def test_a_group_is_found_by_its_key() -> None:
    pks = {wait("OSError: no"), wait("OSError: no")}
    wait("KeyError")
    found = {group.error: group for group in groups(["default"])}
    again = group_of(found["OSError: no"].key)
    assert again
    assert set(again.pks) == pks
    assert group_of("unknown") is None


def test_a_fresh_backlog_is_not_read() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("other databases choose by the number of rows")
    with CaptureQueriesContext(connection) as queries:
        groups(["default"])
    plans = []
    with connection.cursor() as cursor:
        for query in queries:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            plans += [entry[-1] for entry in cursor.fetchall()]
    assert len(plans) == 4
    assert all("alias=? AND priority=? AND due_at>?" in plan for plan in plans[:3]), plans
    assert "alias=? AND state>? AND state<?" in plans[3]
