"""Previews of pictures."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from queued_storage.admin import preview
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from tests.admin.pages import LIST
from tests.support.scripted import file, row

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)  # runs the callbacks of a commit

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def test_the_preview_shows_the_local_copy(viewer: Client, storage: Any) -> None:
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
def test_an_evicted_picture_redirects_to_the_remote(viewer: Client, storage: Any) -> None:
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
def test_an_unsafe_picture_has_no_preview(
    viewer: Client, storage: Any, columns: dict[str, Any]
) -> None:
    name = storage.save("a.png", file(PNG))
    QueuedFile.objects.update(**columns)
    pk = row(storage, name).pk
    assert "queued-preview" not in viewer.get(f"{LIST}{pk}/change/").content.decode()
    assert viewer.get(f"{LIST}{pk}/preview/").status_code == 404


@pytest.mark.parametrize("columns", [{"alias": "gone"}, {"name": "missing.png"}])
def test_a_missing_picture_is_not_found(
    viewer: Client, storage: Any, columns: dict[str, Any]
) -> None:
    storage.save("a.png", file(PNG))
    QueuedFile.objects.update(**columns)
    assert viewer.get(f"{LIST}{QueuedFile.objects.get().pk}/preview/").status_code == 404


def test_a_picture_on_another_host_is_not_found(
    viewer: Client, storage: Any, settings: Settings
) -> None:
    name = storage.save("a.png", file(PNG))
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "LOCAL_PER_HOST": True, "HOST": "web-9"}
    assert viewer.get(f"{LIST}{row(storage, name).pk}/preview/").status_code == 404
