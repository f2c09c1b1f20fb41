import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from queued_storage import health
from queued_storage.health import Health, Limits, check
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState
from queued_storage.ledger.sql.clock import DatabaseNow
from queued_storage.ledger.states import State
from tests.support.outages import close, registered
from tests.support.scripted import LONG_AGO, file, make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

URL = "/queued/health/"


@pytest.fixture
def pending() -> Any:
    """A storage with one pending file, saved a minute ago and due in a minute."""
    storage = make()
    storage.save("private.txt", file(b"12345"))
    ledger().update(
        saved_at=DatabaseNow() - timedelta(seconds=60),
        due_at=DatabaseNow() + timedelta(seconds=60),
    )
    return storage


def test_no_limits_only_require_a_responding_ledger(pending: Any) -> None:
    ledger().update(state=State.FAILED)
    assert check() == Health(True)
    assert check().is_well


EXCEEDED = [
    ("max_age", 59, r"The oldest pending file is 6\d seconds old; the limit is 59\."),
    ("max_pending", 0, r"1 file is pending; the limit is 0\."),
    ("max_pending_bytes", 4, r"5 bytes are pending; the limit is 4\."),
]


@pytest.mark.parametrize(("limit", "value", "text"), EXCEEDED)
@pytest.mark.parametrize("state", [State.PENDING, State.TRANSFERRING])
def test_exceeded_limit(pending: Any, limit: str, value: int, text: str, state: State) -> None:
    ledger().update(state=state)
    [problem] = check(Limits(**{limit: value})).problems
    assert re.fullmatch(text, problem)
    assert check(Limits(**{limit: value})).is_reachable


@pytest.mark.parametrize(
    ("limit", "value"), [("max_age", 90), ("max_pending", 1), ("max_pending_bytes", 5)]
)
def test_limit_that_is_not_exceeded(pending: Any, limit: str, value: int) -> None:
    assert check(Limits(**{limit: value})).is_well


def test_failed_files_are_not_pending(pending: Any) -> None:
    ledger().update(state=State.FAILED)
    assert check(Limits(max_age=0, max_pending=0, max_pending_bytes=0)).is_well
    assert check(Limits(max_failed=0)).problems == ("1 file has failed; the limit is 0.",)
    assert check(Limits(max_failed=1)).is_well


def test_stalled_files(pending: Any) -> None:
    assert check(Limits(max_stalled=0)).is_well
    ledger().update(last_error="TransferStalled: No byte moved for 600 seconds.")
    assert check(Limits(max_stalled=0)).problems == ("1 transfer hangs; the limit is 0.",)
    assert check(Limits(max_stalled=1)).is_well
    ledger().update(state=State.FAILED)
    assert check(Limits(max_stalled=0)).is_well


def test_overdue_files(pending: Any) -> None:
    assert check(Limits(max_overdue=0)).is_well
    ledger().update(due_at=DatabaseNow() - timedelta(seconds=30))
    [problem] = check(Limits(max_overdue=20)).problems
    assert problem.endswith("without a worker processing it; the limit is 20.")
    assert check(Limits(max_overdue=600)).is_well


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(max_failed=0), r"A remote has been {} for 31\d seconds; the limit is 300\."),
        (Limits(max_away=300), r"A remote has been {} for 31\d seconds; the limit is 300\."),
        (Limits(max_away=60), r"A remote has been {} for 31\d seconds; the limit is 60\."),
    ],
)
@pytest.mark.parametrize("state", [RemoteState.AWAY, RemoteState.REFUSED, RemoteState.PAUSED])
def test_closed_remote(pending: Any, state: str, limits: Limits, text: str) -> None:
    close(pending, state, ago=310)
    word = "paused" if state == RemoteState.PAUSED else "closed"
    [problem] = check(limits).problems
    assert re.fullmatch(text.format(word), problem)
    assert check().is_well
    assert check(Limits(max_away=3600)).is_well
    registered(pending).resume() or registered(pending).reopen()
    assert check(limits).is_well


def test_one_outage_exceeds_no_other_limit(pending: Any) -> None:
    ledger().update(
        due_at=DatabaseNow() - timedelta(seconds=60), last_error="TransferStalled: No byte moved."
    )
    limits = Limits(max_age=1, max_overdue=1, max_stalled=0)
    assert len(check(limits).problems) == 3
    close(pending)
    assert check(limits).is_well
    assert check(Limits(max_pending=0)).problems == ("1 file is pending; the limit is 0.",)


def test_files_get_their_time_after_an_outage(pending: Any) -> None:
    ledger().update(due_at=DatabaseNow() - timedelta(seconds=600))
    close(pending, ago=600)
    registered(pending).reopen()
    assert check(Limits(max_overdue=30)).is_well
    registered(pending).update(since=DatabaseNow() - timedelta(seconds=40))
    [problem] = check(Limits(max_overdue=30)).problems
    assert "has been due for 4" in problem


def test_the_remote_is_not_called(pending: Any) -> None:
    pending.remote.refuses = True
    assert check(Limits(max_age=3600)).is_well
    assert not pending.remote.calls


def test_no_limits_read_no_row() -> None:
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        assert check().is_well
    asked = [query["sql"] for query in captured if "SELECT" in query["sql"]]
    assert len(asked) == len(apps.get_app_config("queued_storage").models)
    assert all('"id" = 0' in query.replace("`", '"') for query in asked)


# The view


def test_view_without_problems(client: Client) -> None:
    answer = client.get(URL)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "problems": []}
    assert "no-store" in answer.headers["Cache-Control"]


def test_view_with_limits(client: Client, pending: Any) -> None:
    answer = client.get(URL, {"max_age": 10, "max_failed": 0})
    assert answer.status_code == 503
    assert answer.json()["status"] == "unwell"
    assert len(answer.json()["problems"]) == 1
    assert client.get(URL, {"max_age": 3600, "max_failed": 0}).status_code == 200


@pytest.mark.parametrize("wrong", ["max_aeg=1", "max_age=x", "max_age=", "max_age=-1", "a%00=1"])
def test_invalid_limit_is_a_bad_request(client: Client, wrong: str) -> None:
    answer = client.get(f"{URL}?{wrong}")
    assert answer.status_code == 400
    assert b"max_age, max_overdue, max_failed" in answer.content
    assert b"aeg" not in answer.content


def test_view_allows_only_safe_methods(client: Client) -> None:
    assert client.head(URL).status_code == 200
    assert client.post(URL).status_code == 405


def test_response_contains_no_names(client: Client, pending: Any) -> None:
    ledger().update(last_error="private reason", host="private-host", due_at=LONG_AGO)
    limits = {"max_age": 0, "max_overdue": 0, "max_pending": 0, "max_pending_bytes": 0}
    answer = client.get(URL, limits)
    assert len(answer.json()["problems"]) == 4
    assert "private" not in answer.content.decode()
    assert pending.alias not in answer.content.decode()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.ERROR, "queued_storage"):
        yield caplog


def test_ledger_that_raises(client: Client, monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    def refuse() -> None:
        raise OperationalError(
            'connection to server at "db.internal", user "app": postgres://app:hush@db.internal/x'
        )

    monkeypatch.setattr(health.schema, "probe", refuse)
    answer = client.get(URL)
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["The ledger cannot be queried (OperationalError)."]
    assert "db.internal" in logged.text
    assert "hush" not in logged.text


def test_ledger_that_hangs(client: Client, monkeypatch: pytest.MonkeyPatch, logged: Any) -> None:
    released = threading.Event()

    monkeypatch.setattr(health.schema, "probe", lambda: released.wait(30))
    monkeypatch.setattr(check, "__defaults__", (Limits(), 0.05))
    try:
        answer = client.get(URL)
    finally:
        released.set()
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["The ledger did not respond within 0.05 seconds."]
    assert "did not respond" in logged.text


def test_missing_table(client: Client) -> None:
    table = ledger().model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    try:
        assert client.get(URL).status_code == 503
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")


def test_view_is_exempt_from_atomic_requests(client: Client, settings: Any) -> None:
    """Otherwise an unreachable database would raise before the view is called."""
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    seen: list[bool] = []

    def ask() -> None:
        seen.append(connection.in_atomic_block)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(health.schema, "probe", ask)
            assert client.get(URL).status_code == 200
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert seen == [False]


# django-health-check


def test_django_health_check(pending: Any, settings: Any, client: Client) -> None:
    pytest.importorskip("health_check")
    settings.ROOT_URLCONF = "tests.support.health_urls"
    answer = client.get("/", {"format": "json"})
    assert answer.status_code == 500
    [(label, text)] = answer.json().items()
    assert "QueuedFiles(max_age=10" in label
    assert text.startswith("Warning: The oldest pending file is 6")
    ledger().update(saved_at=DatabaseNow())
    answer = client.get("/", {"format": "json"})
    assert answer.status_code == 200
    assert list(answer.json().values()) == ["OK"]


def test_django_health_check_of_a_ledger_that_raises(
    settings: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("health_check")
    settings.ROOT_URLCONF = "tests.support.health_urls"

    def refuse(*args: Any) -> None:
        raise OperationalError("secret")

    monkeypatch.setattr(health.measures, "unsettled", refuse)
    answer = client.get("/", {"format": "json"})
    assert answer.status_code == 500
    assert list(answer.json().values()) == [
        "Unavailable: The ledger cannot be queried (OperationalError)."
    ]


def test_django_health_check_has_every_limit() -> None:
    pytest.importorskip("health_check")
    from queued_storage.health_check import QueuedFiles

    assert [field.name for field in fields(QueuedFiles) if field.name != "timeout"] == [
        field.name for field in fields(Limits)
    ]
