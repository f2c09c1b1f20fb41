"""The rows of the change list, and the page of one file."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.storage import storages
from django.test import Client
from django.utils import timezone

from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.admin.pages import LIST, add, run, staff, text_of
from tests.support.scripted import file, row

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)  # runs the callbacks of a commit


# Permissions


def test_pages_require_the_view_permission() -> None:
    [entry] = add()
    stranger = staff()
    for url in (LIST, f"{LIST}{entry.pk}/change/", f"{LIST}{entry.pk}/preview/"):
        assert stranger.get(url).status_code == 403


def test_rows_cannot_be_edited(admin_client: Client) -> None:
    [entry] = add()
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    change = f"{LIST}{entry.pk}/change/"
    assert admin_client.post(change, {"name": "other"}).status_code == 403
    page = admin_client.get(change).content.decode()
    assert 'type="submit" value="Save' not in page
    assert QueuedFile.objects.get().name == entry.name
    assert "delete_selected" not in admin_client.get(LIST).content.decode()


def test_sizes_and_ages_are_readable(viewer: Client) -> None:
    add(size=3 * 1024 * 1024, saved_at=timezone.now() - timedelta(hours=5))
    assert "3.0 MB 5 hours" in text_of(viewer, LIST)


def test_the_state_shows_error_and_progress(viewer: Client) -> None:
    add(state=State.FAILED, last_error="no such bucket <b>")
    add(state=State.TRANSFERRING, size=200, sent=50)
    page = viewer.get(LIST).content.decode()
    assert "no such bucket &lt;b&gt;" in page
    assert '<progress max="100" value="25"' in page


@committing
def test_failed_attempts_are_listed(viewer: Client, storage: Any) -> None:
    name = storage.save("a.txt", file())
    storages["disk"].delete(name)
    storage.queue.deliver()
    found = row(storage, name)
    assert found.state == State.FAILED
    text = text_of(viewer, f"{LIST}{found.pk}/change/")
    assert re.search(rf" 1 transferring {found.host} LocalFileMissing: .* does not exist", text)


def test_the_history_shows_who_requested_what(viewer: Client) -> None:
    [entry] = add(state=State.FAILED)
    run(staff("view_queuedfile", "retry_queuedfile"), "retry", [entry.pk])
    page = viewer.get(f"{LIST}{entry.pk}/change/").content.decode()
    assert f"{entry.pk}/history/" in page
    text = text_of(viewer, f"{LIST}{entry.pk}/history/")
    assert re.search(r"staff-1 Retry requested\.", text)
