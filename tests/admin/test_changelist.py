"""The filters, search, dates and counts of the change list."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from queued_storage.admin import overview
from queued_storage.ledger.priorities import PRIORITIES
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.admin.pages import LIST, add, listed, staff, text_of
from tests.support.outages import close

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state": "failed"}, ["c.jpg"]),
        ({"alias": "archive"}, ["b.jpg"]),
        ({"host": "web-2"}, ["c.jpg", "b.jpg"]),
        ({"is_local__exact": "0"}, ["b.jpg"]),
        ({"saved_at__year": "2020"}, ["a.jpg"]),
        ({"saved_at__year": "2021", "saved_at__month": "3", "saved_at__day": "4"}, ["b.jpg"]),
        ({"state": "failed", "alias": "archive"}, []),
    ],
)
def test_filters(viewer: Client, query: dict[str, str], expected: list[str]) -> None:
    add(name="a.jpg", saved_at=datetime(2020, 5, 5, 12, tzinfo=UTC))
    add(
        name="b.jpg",
        alias="archive",
        host="web-2",
        is_local=False,
        saved_at=datetime(2021, 3, 4, 18, tzinfo=UTC),
    )
    add(name="c.jpg", state=State.FAILED, host="web-2")
    assert listed(viewer, **query) == expected


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("docs/a", ["docs/ab.txt", "docs/a.txt"]),
        ("docs/a.txt", ["docs/a.txt"]),
        ("a.txt", []),
        ("*b.t", ["docs/ab.txt"]),
        ("*", ["other/a%.txt", "docs/ab.txt", "docs/a.txt"]),
        ("other/a%", ["other/a%.txt"]),
        ("other/a_", []),
        (" ", ["other/a%.txt", "docs/ab.txt", "docs/a.txt"]),
    ],
)
def test_search(viewer: Client, term: str, expected: list[str]) -> None:
    for name in ("docs/a.txt", "docs/ab.txt", "other/a%.txt"):
        add(name=name)
    assert listed(viewer, q=term) == expected


def test_a_search_without_a_result_offers_another_one(viewer: Client) -> None:
    add(name="docs/cat.txt", state=State.FAILED)
    page = viewer.get(LIST, {"q": "cat", "state": "failed"})
    [message] = map(str, page.context["messages"])
    assert message.startswith("No name starts with “cat”.")
    [link] = re.findall(r'href="([^"]+)"', message)
    [found] = viewer.get(LIST + unescape(link)).context["cl"].result_list
    assert found.name == "docs/cat.txt"
    for term in ("docs", "*dog", ""):
        assert not list(viewer.get(LIST, {"q": term}).context["messages"])
    [message] = map(str, viewer.get(LIST, {"q": "<b>"}).context["messages"])
    assert "<b>" not in message


def waiting(error: str = "OSError: no", **columns: Any) -> None:
    later = timezone.now() + timedelta(seconds=330)
    add(**{"state": State.PENDING, "due_at": later, "last_error": error, "attempts": 2} | columns)


def test_filter_of_files_that_wait_after_an_error(viewer: Client) -> None:
    waiting(name="a.txt")
    waiting(name="b.txt", state=State.DELETING, priority=PRIORITIES[-1])
    waiting(name="c.txt", last_error="")
    waiting(name="d.txt", due_at=timezone.now() - timedelta(seconds=5))
    waiting(name="e.txt", state=State.TRANSFERRING, lease_token="x")
    assert listed(viewer, attempt="waiting") == ["b.txt", "a.txt"]
    assert listed(viewer, attempt="waiting", state="pending") == ["a.txt"]
    assert listed(viewer, attempt="other") == []


def test_filter_by_the_beginning_of_an_error(viewer: Client) -> None:
    waiting(name="a.txt", error="OSError: 100% full")
    waiting(name="b.txt", error="OSError: 1000 full")
    add(name="c.txt", state=State.FAILED, last_error="OSError: 100% full, too")
    add(name="d.txt", last_error="OSError: 100% full")  # transferred
    assert listed(viewer, error="OSError: 100%") == ["c.txt", "a.txt"]
    assert listed(viewer, error="OSError: 100%", state="failed") == ["c.txt"]
    assert listed(viewer, error="OSError: 100%", attempt="waiting") == ["a.txt"]
    assert "By last error" in text_of(viewer, f"{LIST}?error=OSError")
    assert "By last error" not in text_of(viewer, LIST)


def test_filter_of_states_of_a_newer_version(viewer: Client) -> None:
    add(name="a.txt", state="checking")  # type: ignore[arg-type]
    add(name="b.txt")
    assert listed(viewer, state="other") == ["a.txt"]


def test_attempts_and_the_next_one(viewer: Client, storage: Any) -> None:
    waiting(attempts=1234)
    assert "1,234 next in 5" in text_of(viewer, LIST)
    QueuedFile.objects.update(due_at=timezone.now() - timedelta(seconds=5))
    assert "1,234 next now" in text_of(viewer, LIST)
    close(storage)
    assert "1,234 next when the remote is open" in text_of(viewer, LIST)
    QueuedFile.objects.update(lease_token="x")
    assert "next" not in text_of(viewer, LIST).partition("1,234")[2].partition("default")[0]


def links(client: Client, **query: str) -> list[str]:
    page = client.get(LIST, query).content.decode()
    [found] = re.findall(r'<(?:nav|div)[^>]*class="[^"]*toplinks.*?</(?:nav|div)>', page, re.S)
    return [text.strip() for text in re.findall(r"<a[^>]*>(.*?)</a>", found, re.S)]


def test_the_date_hierarchy(viewer: Client, settings: Settings) -> None:
    settings.TIME_ZONE = "UTC"
    add(saved_at=datetime(2024, 6, 1, tzinfo=UTC))
    years = [str(year) for year in range(2024, timezone.now().year + 1)]
    assert links(viewer) == years
    months = links(viewer, saved_at__year="2024")
    assert (len(months), months[1], months[-1]) == (13, "January 2024", "December 2024")
    days = links(viewer, saved_at__year="2024", saved_at__month="2")
    assert (len(days), days[0], days[-1]) == (30, "&lsaquo; 2024", "February 29")
    one = {"saved_at__year": "2024", "saved_at__month": "2", "saved_at__day": "29"}
    assert links(viewer, **one) == ["&lsaquo; February 2024"]


@pytest.mark.parametrize("query", ["saved_at__year=x", "saved_at__year=2024&saved_at__month=13"])
def test_an_invalid_date_is_a_bad_request(viewer: Client, query: str) -> None:
    assert viewer.get(f"{LIST}?{query}").status_code in (302, 400)


@pytest.mark.parametrize(
    "query",
    [
        {"saved_at__year": "2024", "saved_at__day": "31"},
        {"saved_at__month": "0"},
        {"saved_at__month": "2", "saved_at__day": "31"},
        {"saved_at__day": "99999999999999"},
    ],
)
def test_a_part_of_a_date_finds_nothing(viewer: Client, query: dict[str, str]) -> None:
    add()
    assert listed(viewer, **query) == []


# Many rows


@pytest.mark.parametrize("name", ["alias", "host", "state"])
def test_an_impossible_filter_value_finds_nothing(viewer: Client, name: str) -> None:
    add()
    assert listed(viewer, **{name: "a\0"}) == []


def test_the_count_is_capped(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LIMIT", 150)
    add(150)
    assert "150 queued files" in text_of(viewer, LIST)
    add(1)
    assert "150+ queued files" in text_of(viewer, LIST)
    assert len(listed(viewer, p=2)) == 50


def test_files_that_wait_are_capped(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database takes only so many parameters, whatever the number of priorities."""
    monkeypatch.setattr(overview, "LIMIT", 3)
    at = timezone.now() + timedelta(hours=1)
    for priority in PRIORITIES:
        add(3, last_error="no", due_at=at, priority=priority)
    assert len(listed(viewer, attempt="waiting")) == 4


def ledger_queries(client: Client, **query: str) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(LIST, query).status_code == 200
    return [query["sql"] for query in queries if "queued_storage_queuedfile" in query["sql"]]


def test_the_number_of_queries_is_constant(viewer: Client) -> None:
    add(3)
    few = ledger_queries(viewer)
    add(300)
    many = ledger_queries(viewer)
    assert 0 < len(few) == len(many) <= 11


def test_no_query_reads_the_whole_table(viewer: Client) -> None:
    add(300)
    queries = ledger_queries(viewer)
    for query in queries:
        assert "LIMIT" in query, query
        assert "DISTINCT" not in query


def plan(sql: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        return [entry[-1] for entry in cursor.fetchall()]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"error": "OSError"}, "alias=? AND state"),
        ({"attempt": "waiting"}, "rowid=?"),
        ({"state": "failed"}, "alias=? AND state=?"),
        ({"state": "pending", "alias": "default"}, "alias=? AND state=?"),
        ({"q": "docs/a"}, "alias=? AND name>? AND name<?"),
    ],
)
def test_filters_and_search_use_an_index(viewer: Client, query: dict[str, str], index: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("other databases choose by the number of rows")
    add(300)
    add(3, State.FAILED)
    waiting()
    found = [sql for sql in ledger_queries(viewer, **query) if "checksum" in sql or "COUNT" in sql]
    assert len(found) == 2  # the count and the page
    for sql in found:
        assert any(index in step for step in plan(sql)), (plan(sql), sql)


@pytest.mark.parametrize("use_separator", [False, True])
def test_counts_have_separators(
    viewer: Client,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    use_separator: bool,
) -> None:
    settings.USE_THOUSAND_SEPARATOR = use_separator
    add(1200)
    text = text_of(viewer, LIST)
    assert "1,200 results" in text
    assert "1,200 queued files" in text
    monkeypatch.setattr(overview, "LIMIT", 1100)
    assert "1,100+ queued files" in text_of(viewer, LIST)


def test_the_local_copy_filter_has_a_title(viewer: Client) -> None:
    add()
    assert "By local copy" in text_of(viewer, LIST)


# Absurd values

ABSURD = [
    *("\0", "a\0b", "*\0", "\ud800", "\u0663", "\r\n", "\U0010ffff", "x" * 60_000),
    *("-1", "0", "1", "9999", "10000", "2147483648", "-9223372036854775809", "9" * 30),
    *("'", "%", "\\", "*", "1.5", "nan", "2020-13-45", "[]", "a,b"),
]
OTHER_KEYS = ["saved_at__gte", "saved_at", "name", "name__regex", "last_error__contains"]
KEYS = [
    *("attempt", "error", "copies"),
    *("state", "alias", "host", "q", "p", "o", "e", "all", "_facets", "_to_field", "unknown"),
    *("is_local__exact", "is_local__isnull", "saved_at__year", "saved_at__month"),
    *("saved_at__day", "alias__in", *OTHER_KEYS),
]


@pytest.mark.parametrize("key", KEYS)
def test_no_value_is_an_error_of_the_server(viewer: Client, key: str, settings: Settings) -> None:
    settings.TIME_ZONE = "Pacific/Kiritimati"
    add(2)
    viewer.raise_request_exception = False
    for value in ABSURD:
        for more in ("", "&saved_at__year=2020&saved_at__month=2"):
            query = f"{key}={quote(value, errors='surrogatepass')}{more}"
            assert viewer.get(f"{LIST}?{query}").status_code < 500, query[:100]


@pytest.mark.parametrize("year", ["1", "2", "2020", "9998", "9999", "x", ""])
def test_no_date_is_an_error_of_the_server(viewer: Client, year: str) -> None:
    add()
    viewer.raise_request_exception = False
    for month in ("0", "2", "12", "13", "99999999999", ""):
        for day in ("0", "1", "30", "32", "x"):
            query = {"saved_at__year": year, "saved_at__month": month, "saved_at__day": day}
            assert viewer.get(LIST, query).status_code < 500, query


@pytest.mark.parametrize("name", OTHER_KEYS)
def test_other_lookups_are_refused(viewer: Client, name: str) -> None:
    assert viewer.get(LIST, {name: "a"}).status_code == 400


@pytest.mark.parametrize("key", ["x", "9" * 30, "-1", "%00", "a%00b", "1_2F", "%ED%A0%80"])
@pytest.mark.parametrize("page", ["", "change/", "history/", "preview/", "delete/"])
def test_no_key_is_an_error_of_the_server(viewer: Client, key: str, page: str) -> None:
    viewer.raise_request_exception = False
    assert viewer.get(f"{LIST}{key}/{page}").status_code < 500


@pytest.mark.parametrize(
    "data",
    [
        {"action": "verify", "_selected_action": ["x"], "index": "0"},
        {"action": "verify", "_selected_action": ["9" * 30, "-1"], "index": "0"},
        {"action": "verify", "_selected_action": ["\0"], "index": "0"},
        {"action": "\0", "_selected_action": ["1"], "index": "0"},
        {"action": "retry", "_selected_action": ["1"], "index": "x"},
        {"action": "retry", "_selected_action": ["1"], "index": "99"},
        {"action": "verify", "_selected_action": ["1"], "index": "0", "select_across": "x"},
    ],
)
def test_no_action_is_an_error_of_the_server(data: dict[str, Any]) -> None:
    client = staff("view_queuedfile", "verify_queuedfile", "retry_queuedfile")
    client.raise_request_exception = False
    add()
    assert client.post(LIST, data).status_code < 500
