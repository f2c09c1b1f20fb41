"""The numbers of the dashboard, and the cost of their queries."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from queued_storage.admin import overview
from queued_storage.ledger import measures
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile

pytestmark = pytest.mark.django_db


def add(count: int = 1, state: State = State.PENDING, **columns: Any) -> list[QueuedFile]:
    now = timezone.now()
    first = QueuedFile.objects.count()
    defaults: dict[str, Any] = {
        "alias": "default",
        "host": "web-1",
        "size": 10,
        "saved_at": now,
        "due_at": now + timedelta(minutes=1),
    }
    return QueuedFile.objects.bulk_create(
        QueuedFile(**{"name": f"{first + number}.jpg", "state": state} | defaults | columns)
        for number in range(count)
    )


def ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


def files(share: overview.Share) -> dict[str, int]:
    return {state: pile.files for state, pile in share.piles.items() if pile.files}


def test_an_empty_ledger() -> None:
    found = overview.overview()
    assert files(found.total) == {}
    assert (found.storages, found.hosts, found.running, found.failed) == ([], [], [], [])
    assert len(found.total.minutes) == found.full_minutes == overview.MINUTES


def test_counts_bytes_and_ages_by_storage_and_host() -> None:
    add(2, saved_at=ago(500))
    add(1, saved_at=ago(900), size=5, host="web-2")
    add(3, State.FAILED, alias="gone")
    add(4, State.TRANSFERRED)
    found = overview.overview()
    assert files(found.total) == {"pending": 3, "failed": 3}
    assert found.total.piles["pending"].bytes == 25
    oldest = found.total.piles["pending"].oldest
    assert oldest
    assert abs((found.at - oldest).total_seconds() - 900) < 5
    assert {share.name: files(share) for share in found.storages} == {
        "default": {"pending": 3},
        "gone": {"failed": 3},
    }
    assert {share.name: files(share) for share in found.hosts} == {
        "web-1": {"pending": 2, "failed": 3},
        "web-2": {"pending": 1},
    }


def test_an_unknown_alias_is_marked() -> None:
    _ = storages["default"].alias  # type: ignore[attr-defined]
    add(1)
    add(1, alias="gone")
    known, gone = overview.overview().storages
    assert (known.is_known, gone.is_known) == (True, False)


def test_transfers_are_counted_by_minute() -> None:
    add(2, State.TRANSFERRED, transferred_at=ago(20), size=100)
    add(3, State.TRANSFERRED, transferred_at=ago(90), host="web-2")
    add(1, State.TRANSFERRED, transferred_at=ago(3600))
    found = overview.overview()
    assert [minute.files for minute in found.total.minutes[:3]] == [2, 3, 0]
    assert [minute.bytes for minute in found.total.minutes[:3]] == [200, 30, 0]
    assert sum(minute.files for minute in found.total.minutes) == 5
    assert {share.name: share.minutes[1].files for share in found.hosts} == {"web-1": 0, "web-2": 3}


def test_running_transfers_and_expired_leases() -> None:
    add(1, State.TRANSFERRING, size=100, sent=40, attempts=2)
    add(1, State.TRANSFERRING, due_at=ago(5))
    alive, silent = overview.overview().running
    assert (alive.name, alive.sent, alive.size, alive.attempts) == ("0.jpg", 40, 100, 2)
    assert (alive.is_expired, silent.is_expired) == (False, True)


def test_the_newest_failures_of_all_storages() -> None:
    for number in range(overview.FAILURES):
        add(1, State.FAILED, alias=f"storage-{number % 3}", last_error=f"reason {number}")
    add(1, State.FAILED, alias="a-last", last_error="the last")
    failed = overview.overview().failed
    assert [failure.error for failure in failed[:2]] == ["the last", "reason 9"]
    assert len(failed) == overview.FAILURES


def test_counts_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LIMIT", 4)
    add(4, State.FAILED)
    add(5)
    piles = overview.overview().total.piles
    assert (piles["failed"].files, piles["failed"].is_cut) == (4, False)
    assert (piles["pending"].files, piles["pending"].is_cut) == (4, True)


def test_a_capped_count_is_split_by_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "LIMIT", 6)
    monkeypatch.setattr(overview, "SAMPLE", 3)
    add(2, size=1, saved_at=ago(500))
    add(1, size=2, saved_at=ago(300), host="web-2")
    add(2, size=4, host="web-3")
    add(3, size=1)
    found = overview.overview()
    shares = {share.name: share.piles["pending"] for share in [*found.hosts, found.total]}
    assert found.total.piles["pending"].bytes == 13
    totals = shares.pop("web-1"), shares.pop("web-2")
    assert [(pile.files, pile.bytes) for pile in totals] == [(3, 3), (1, 2)]
    assert all(pile.is_cut for pile in totals)
    assert found.hosts[0].name == ""
    assert (found.hosts[0].piles["pending"].files, found.hosts[0].piles["pending"].bytes) == (2, 8)


def test_many_transfers_shorten_the_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "LIMIT", 4)
    for number in range(30):
        add(1, State.TRANSFERRED, transferred_at=ago(number * 20 + 5))
    found = overview.overview()
    assert found.full_minutes == 6
    assert [minute.files for minute in found.total.minutes[:6]] == [3] * 6


def test_aliases_and_hosts() -> None:
    add(3)
    add(2, alias="archive", host="web-2")
    add(2, alias="Archive", host="")
    assert sorted(measures.aliases(overview.ALIASES)) == ["Archive", "archive", "default"]
    assert overview.hosts() == ["web-1", "web-2"]


def test_the_number_of_queries_is_constant() -> None:
    add(10)
    add(10, State.TRANSFERRED, transferred_at=ago(20))
    with CaptureQueriesContext(connection) as few:
        overview.overview()
    add(500)
    add(500, State.TRANSFERRED, transferred_at=ago(20))
    with CaptureQueriesContext(connection) as many:
        overview.overview()
    assert 0 < len(few) == len(many) < 18


def test_every_query_uses_an_index() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("other databases choose by the number of rows")
    add(50)
    add(5, State.FAILED)
    add(5, State.TRANSFERRING)
    add(50, State.TRANSFERRED, transferred_at=ago(20))
    with CaptureQueriesContext(connection) as queries:
        overview.overview()
    assert len(queries) > 8
    for query in queries:
        if "queued_storage_queuedfile" not in query["sql"]:
            continue  # asks for the time
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            steps = [row[-1] for row in cursor.fetchall()]
        tables = [step for step in steps if "queued_storage_queuedfile" in step]
        assert tables
        for step in tables:
            assert step.startswith("SEARCH"), (step, query["sql"])
