"""The ledger in the admin: what it shows, what it lets whom do, and what it asks the database."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.storage import storages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from queued_storage.admin import actions, overview, preview
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.support.scripted import file, row

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)  # for what happens after a commit

LIST = "/admin/queued_storage/queuedfile/"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
ACTIONS = ["retry", "transfer", "cancel", "evict", "restore", "verify"]


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def user(*permissions: str) -> Client:
    """A member of the staff who may do this, logged in."""
    found = User.objects.create_user(f"staff-{User.objects.count()}", is_staff=True)
    wanted = Permission.objects.filter(codename__in=permissions)
    assert len(wanted) == len(permissions)
    found.user_permissions.set(wanted)
    client = Client()
    client.force_login(found)
    return client


@pytest.fixture
def viewer() -> Client:
    return user("view_queuedfile")


def add(count: int = 1, state: State = State.TRANSFERRED, **columns: Any) -> list[QueuedFile]:
    first = QueuedFile.objects.count()
    defaults: dict[str, Any] = {"alias": "default", "host": "web-1", "saved_at": timezone.now()}
    return QueuedFile.objects.bulk_create(
        QueuedFile(**{"name": f"{first + number:04}.jpg", "state": state} | defaults | columns)
        for number in range(count)
    )


def listed(client: Client, **query: Any) -> list[str]:
    """The names on the page."""
    found = client.get(LIST, query)
    assert found.status_code == 200
    return [entry.name for entry in found.context["cl"].result_list]


def text_of(client: Client, url: str) -> str:
    found = client.get(url)
    assert found.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", found.content.decode()).replace("\xa0", " ").split())


def run(client: Client, action: str, rows: list[int], **data: Any) -> list[str]:
    """Carry out an action on rows; returns what the user is told."""
    data = {"action": action, "_selected_action": rows, "index": 0} | data
    answer = client.post(LIST, data, follow=True)
    return [str(message) for message in answer.context["messages"]]


# Who may see and do what


def test_without_the_permission_nothing_is_seen() -> None:
    [entry] = add()
    stranger = user()
    for url in (LIST, f"{LIST}{entry.pk}/change/", f"{LIST}{entry.pk}/preview/"):
        assert stranger.get(url).status_code == 403


def test_nobody_edits_by_hand(admin_client: Client) -> None:
    [entry] = add()
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    change = f"{LIST}{entry.pk}/change/"
    assert admin_client.post(change, {"name": "other"}).status_code == 403
    page = admin_client.get(change).content.decode()
    assert 'type="submit" value="Save' not in page
    assert QueuedFile.objects.get().name == entry.name
    assert "delete_selected" not in admin_client.get(LIST).content.decode()


def test_each_action_has_a_permission_of_its_own() -> None:
    add()
    for action in ACTIONS:
        page = user("view_queuedfile", f"{action}_queuedfile").get(LIST).content.decode()
        assert re.findall(r'<option value="(\w+)">', page) == [action]


def test_an_action_that_is_not_permitted_does_nothing(viewer: Client) -> None:
    [entry] = add(state=State.FAILED)
    for action in ACTIONS:
        run(viewer, action, [entry.pk])
    assert QueuedFile.objects.get().state == State.FAILED


# The list


def test_sizes_and_ages_are_for_people(viewer: Client) -> None:
    add(size=3 * 1024 * 1024, saved_at=timezone.now() - timedelta(hours=5))
    assert "3.0 MB 5 hours" in text_of(viewer, LIST)


def test_the_reason_and_the_progress_stand_beside_the_state(viewer: Client) -> None:
    add(state=State.FAILED, last_error="no such bucket <b>")
    add(state=State.TRANSFERRING, size=200, sent=50)
    page = viewer.get(LIST).content.decode()
    assert "no such bucket &lt;b&gt;" in page
    assert '<progress max="100" value="25"' in page


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


def links(client: Client, **query: str) -> list[str]:
    page = client.get(LIST, query).content.decode()
    [found] = re.findall(r'<(?:nav|div)[^>]*class="[^"]*toplinks.*?</(?:nav|div)>', page, re.S)
    return [text.strip() for text in re.findall(r"<a[^>]*>(.*?)</a>", found, re.S)]


def test_the_hierarchy_by_date(viewer: Client, settings: Settings) -> None:
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
def test_a_date_that_is_none_is_no_server_error(viewer: Client, query: str) -> None:
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
def test_a_part_of_a_date_is_no_server_error_either(viewer: Client, query: dict[str, str]) -> None:
    add()
    assert listed(viewer, **query) == []


# Many rows


@pytest.mark.parametrize("name", ["alias", "host", "state"])
def test_a_filter_s_value_that_no_row_can_have_finds_none(viewer: Client, name: str) -> None:
    add()
    assert listed(viewer, **{name: "a\0"}) == []


def test_the_count_is_broken_off(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LIMIT", 150)
    add(150)
    assert "150 queued files" in text_of(viewer, LIST)
    add(1)
    assert "150+ queued files" in text_of(viewer, LIST)
    assert len(listed(viewer, p=2)) == 50


def ledger_queries(client: Client, **query: str) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(LIST, query).status_code == 200
    return [query["sql"] for query in queries if "queued_storage_queuedfile" in query["sql"]]


def test_more_rows_are_no_more_queries(viewer: Client) -> None:
    add(3)
    few = ledger_queries(viewer)
    add(300)
    many = ledger_queries(viewer)
    assert 0 < len(few) == len(many) <= 8


def test_no_query_counts_sorts_or_reads_the_whole_table(viewer: Client) -> None:
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
        ({"state": "failed"}, "alias=? AND state=?"),
        ({"state": "pending", "alias": "default"}, "alias=? AND state=?"),
        ({"q": "docs/a"}, "alias=? AND name>? AND name<?"),
    ],
)
def test_filters_and_search_walk_an_index(
    viewer: Client, query: dict[str, str], index: str
) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("other databases choose by the number of rows")
    add(300)
    add(3, State.FAILED)
    found = [sql for sql in ledger_queries(viewer, **query) if "checksum" in sql or "COUNT" in sql]
    assert len(found) == 2  # the count and the page
    for sql in found:
        assert any(index in step for step in plan(sql)), (plan(sql), sql)


# One file


@committing
def test_the_history_of_attempts(viewer: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storages["disk"].delete(name)
    storage.queue.deliver()
    found = row(storage, name)
    assert found.state == State.FAILED
    text = text_of(viewer, f"{LIST}{found.pk}/change/")
    assert re.search(rf" 1 transferring {found.host} LocalFileMissing: .* is not there", text)


def test_a_picture_is_shown_from_the_local_copy(viewer: Client, storage: Any) -> None:
    name = storage.save("a.png", file(PNG))
    found = row(storage, name)
    preview = reverse("admin:queued_storage_queuedfile_preview", args=[found.pk])
    assert f'src="{preview}?1"' in viewer.get(f"{LIST}{found.pk}/change/").content.decode()
    answer = viewer.get(preview)
    assert b"".join(answer.streaming_content) == PNG  # type: ignore[attr-defined]
    assert answer["Content-Type"] == "image/png"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer["Content-Security-Policy"]


@committing
def test_a_picture_without_a_local_copy_is_shown_from_the_remote(
    viewer: Client, storage: Any
) -> None:
    name = storage.save("a.png", file(PNG))
    storage.queue.deliver()
    QueuedFile.objects.update(is_local=False)
    answer = viewer.get(f"{LIST}{row(storage, name).pk}/preview/")
    assert (answer.status_code, answer["Location"]) == (302, "https://far.example/a.png")


@pytest.mark.parametrize(
    "columns",
    [
        {"content_type": "image/svg+xml"},
        {"content_type": "text/html"},
        {"content_type": ""},
        {"size": preview.MAX_SIZE + 1},
        {"state": State.DELETING},
    ],
)
def test_what_is_no_safe_picture_is_not_shown(
    viewer: Client, storage: Any, columns: dict[str, Any]
) -> None:
    name = storage.save("a.png", file(PNG))
    QueuedFile.objects.update(**columns)
    pk = row(storage, name).pk
    assert "queued-preview" not in viewer.get(f"{LIST}{pk}/change/").content.decode()
    assert viewer.get(f"{LIST}{pk}/preview/").status_code == 404


@pytest.mark.parametrize("columns", [{"alias": "gone"}, {"name": "missing.png"}])
def test_a_picture_that_nobody_has_is_not_found(
    viewer: Client, storage: Any, columns: dict[str, Any]
) -> None:
    storage.save("a.png", file(PNG))
    QueuedFile.objects.update(**columns)
    assert viewer.get(f"{LIST}{QueuedFile.objects.get().pk}/preview/").status_code == 404


def test_a_picture_on_another_host_s_disk_is_not_found(
    viewer: Client, storage: Any, settings: Settings
) -> None:
    name = storage.save("a.png", file(PNG))
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-9"}
    assert viewer.get(f"{LIST}{row(storage, name).pk}/preview/").status_code == 404


# Actions


@pytest.fixture
def operator() -> Client:
    return user("view_queuedfile", *(f"{action}_queuedfile" for action in ACTIONS))


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
def test_evict_and_restore(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    pk = row(storage, name).pk
    assert run(operator, "evict", [pk]) == ["1 local copy was evicted."]
    assert not storages["disk"].exists(name)
    assert run(operator, "restore", [pk]) == ["1 file was restored to local storage."]
    assert storages["disk"].exists(name)


@committing
def test_what_an_action_was_in_vain_for_is_told(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storages["far"].delete(name)
    count, error = run(operator, "evict", [row(storage, name).pk])
    assert count == "No local copy was evicted."
    assert re.match(r"The local copy of a\.txt .* was not evicted\. .*Error", error)
    assert storages["disk"].exists(name)
    assert row(storage, name).failures[-1]["work"] == State.TRANSFERRED


@committing
def test_verify(operator: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    pk = row(storage, name).pk
    assert run(operator, "verify", [pk]) == ["No differences found."]
    storages["far"].delete(name)
    [finding] = run(operator, "verify", [pk])
    assert finding.startswith("The remote copy of a.txt is missing. ")


def test_an_action_on_all_that_a_filter_finds(operator: Client, storage: Any) -> None:
    add(120, State.FAILED)
    add(1, State.HELD)
    told = run(operator, "retry", [QueuedFile.objects.latest("pk").pk], select_across="1")
    assert told == ["120 files will be retried."]


@pytest.mark.parametrize(
    ("action", "limit"), [("retry", "MAX_ROWS"), ("verify", "MAX_FILES"), ("evict", "MAX_BYTES")]
)
def test_what_would_take_too_long_is_left_to_the_command(
    operator: Client, monkeypatch: pytest.MonkeyPatch, action: str, limit: str
) -> None:
    monkeypatch.setattr(actions, limit, 2)
    rows = add(3, State.FAILED, size=1)
    [told] = run(operator, action, [entry.pk for entry in rows])
    assert told.startswith("Nothing was changed: too many files are selected.")
    assert QueuedFile.objects.filter(state=State.FAILED).count() == 3
