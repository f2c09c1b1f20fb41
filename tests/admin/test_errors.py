"""The errors on the dashboard, and the button that retries their files."""

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.storage import storages
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from queued_storage.admin import actions, errors
from queued_storage.ledger.sql.clock import DatabaseNow
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.transfers.executor import Executor
from tests.admin.pages import add, staff, text_of
from tests.support.scripted import file
from tests.support.waiting import until

pytestmark = pytest.mark.django_db

DASHBOARD = "/admin/queued_storage/queuedfile/dashboard/"
RETRY = "/admin/queued_storage/queuedfile/retry/"


@pytest.fixture
def operator(db: None) -> Client:
    return staff("view_queuedfile", "retry_queuedfile")


def wait(count: int = 1, error: str = "OSError: no", **columns: Any) -> list[QueuedFile]:
    later = timezone.now() + timedelta(seconds=400)
    defaults = {"state": State.PENDING, "due_at": later, "last_error": error, "attempts": 3}
    return add(count, **defaults | columns)


def keys(client: Client) -> list[str]:
    html = client.get(DASHBOARD).content.decode()
    return re.findall(r'name="group" value="(\w+)"', html)


def retry(client: Client, key: str) -> list[str]:
    answer = client.post(RETRY, {"group": key}, follow=True)
    assert answer.redirect_chain == [(DASHBOARD, 302)]
    return [str(message) for message in answer.context["messages"]]


def test_errors_with_counts_and_next_attempts(viewer: Client) -> None:
    wait(3)
    add(1200, State.FAILED, last_error="KeyError: <b>")
    shown = text_of(viewer, DASHBOARD)
    assert "KeyError: &lt;b&gt; default failed 1,200 none" in shown
    assert "OSError: no default waiting after an error 3 in 6 minutes" in shown
    assert "waiting after an error 3" in shown
    assert "Retry all" not in shown


def test_links_find_the_files_of_an_error(viewer: Client) -> None:
    wait(3)
    wait(2, alias="archive")
    add(4, State.FAILED, last_error="OSError: no")
    html = viewer.get(DASHBOARD).content.decode()
    links = re.findall(r'href="([^"]+)" id="queued-error-\w+">(\d+)', html)
    assert sorted(number for _url, number in links) == ["2", "3", "4"]
    for url, number in links:
        assert viewer.get(unescape(url)).context["cl"].result_count == int(number)


def test_more_errors_than_are_shown(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        wait(1, f"Error{number}")
    monkeypatch.setattr(errors, "SHOWN", 2)
    assert "Errors 2 of 3" in text_of(viewer, DASHBOARD)
    html = viewer.get(DASHBOARD).content.decode()
    [url] = re.findall(r'href="([^"]+)" id="queued-all-errors"', html)
    everything = viewer.get(unescape(url)).content.decode()
    assert len(re.findall('id="queued-error-', everything)) == 3
    assert "queued-all-errors" not in everything
    [updates] = re.findall(r'data-url="([^"]+)"', everything)
    assert len(re.findall('id="queued-error-', viewer.get(unescape(updates)).content.decode())) == 3
    monkeypatch.setattr(errors, "READ", 2)
    assert "waiting after an error 2+" in text_of(viewer, DASHBOARD)


def test_all_files_of_an_error_are_retried(operator: Client) -> None:
    wait(3)
    others = wait(2, "KeyError")
    [first, _second] = keys(operator)
    assert retry(operator, first) == ["3 files will be retried."]
    now = QueuedFile.objects.filter(due_at__lte=DatabaseNow())
    assert set(now.values_list("last_error", "attempts")) == {("OSError: no", 0)}
    assert QueuedFile.objects.exclude(pk__in=now).count() == len(others)
    assert LogEntry.objects.count() == 3


def test_an_error_of_very_many_files(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are retried as one request may change."""
    wait(5)
    monkeypatch.setattr(errors, "MAX_ROWS", 3)
    monkeypatch.setattr(actions, "MAX_ROWS", 3)
    [key] = keys(operator)
    assert retry(operator, key) == ["3 files will be retried."]
    assert retry(operator, key) == ["2 files will be retried."]


def test_failed_files_are_retried(operator: Client) -> None:
    add(2, State.FAILED, last_error="OSError: no")
    [key] = keys(operator)
    assert retry(operator, key) == ["2 files will be retried."]
    assert QueuedFile.objects.filter(state=State.PENDING).count() == 2


def test_an_error_that_is_gone(operator: Client) -> None:
    wait()
    [key] = keys(operator)
    QueuedFile.objects.all().delete()
    assert retry(operator, key) == ["None of the selected files can be retried."]


def test_a_retry_requires_its_permission_and_a_post(operator: Client, viewer: Client) -> None:
    assert viewer.post(RETRY, {"group": "x"}).status_code == 403
    assert staff("retry_queuedfile").post(RETRY, {"group": "x"}).status_code == 403
    assert operator.get(RETRY).status_code == 405
    assert Client().post(RETRY, {"group": "x"}).status_code == 302


# A wrong key


@pytest.fixture
def wrong_key(settings: Settings, s3_options: dict[str, Any]) -> None:
    options = s3_options | {"access_key": "unknown"}
    far = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": far}


@pytest.mark.one_database
@pytest.mark.django_db(transaction=True)
def test_a_wrong_key_is_named_within_seconds(wrong_key: None) -> None:
    client = staff("view_queuedfile", "steer_remote")
    storage: Any = storages["default"]
    storage.save("a.txt", file())
    worker = Executor(1, 0.1, lambda: [storage.alias])
    worker.start()
    try:
        until(lambda: "has refused files" in text_of(client, DASHBOARD), timeout=10)
    finally:
        assert worker.stop(60)
    shown = text_of(client, DASHBOARD)
    assert "InvalidAccessKeyId" in shown
    assert "Check the access key of the storage" in shown
    assert "run: manage.py queued_storage check-remote default. Then probe it here." in shown
    assert "Probe now" in shown
