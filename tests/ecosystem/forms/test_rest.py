import json
from typing import Any

import pytest
from django.core.files.storage import storages
from django.test import Client
from rest_framework.test import APIClient

from queued_storage.models import QueuedFile
from queued_storage.testing import FaultyStorage, drain
from tests.support.services import S3Server

from .files import files, state, upload
from .library.models import Draft, Letter, Note, Paper

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])


@pytest.fixture
def api() -> APIClient:
    return APIClient()


def place(model: Any, instance: Any = None) -> str:
    start = f"/api/{model._meta.model_name}s/"
    return f"{start}{instance.pk}/" if instance else start


@BOTH
def test_multipart_upload(
    model: Any, api: APIClient, far: FaultyStorage, upload_handler: str, png: bytes
) -> None:
    answer = api.post(place(model), {"file": upload(), "scan": upload("a.png", png)})
    assert answer.status_code == 201, answer.data
    paper = model.objects.get()
    assert files("disk") == {"papers/a.txt": b"text", "authors/nobody/a.png": png}
    assert state(paper.file) == state(paper.scan) == State.PENDING
    assert not far.calls
    assert drain() == {}
    assert files("far") == files("disk")


def test_raw_upload(client: Client, far: FaultyStorage) -> None:
    answer = client.put("/raw/a.txt", b"text", content_type="text/plain")
    assert answer.status_code == 201
    assert answer.json()["file"] == "/media/papers/a.txt"
    assert files("disk") == {"papers/a.txt": b"text"}
    assert not far.calls
    drain()
    assert files("far") == {"papers/a.txt": b"text"}


def test_upload_larger_than_the_memory_limit(api: APIClient) -> None:
    """Django's default upload handlers write it to a temporary file."""
    large = bytes(range(256)) * 12_000  # 3 MB
    api.post(place(Paper), {"file": upload("a.txt", large)})
    row = QueuedFile.objects.get()
    assert (row.size, row.checksum) == (len(large), "")  # it was moved, not read
    assert drain() == {}
    assert files("far") == {"papers/a.txt": large}


@BOTH
def test_url_in_the_response_follows_the_file(model: Any, api: APIClient) -> None:
    answer = api.post(place(model), {"file": upload()})
    assert answer.json()["file"] == "http://testserver/media/papers/a.txt"
    drain()
    [paper] = api.get(place(model)).json()
    assert paper["file"] == "https://far.example/papers/a.txt"
    assert paper["scan"] is None


def test_use_url_false_always_returns_the_name(api: APIClient) -> None:
    answer = api.post(place(Note), {"file": upload()})
    assert answer.json()["file"] == "notes/a.txt"
    drain()
    [note] = api.get(place(Note)).json()
    assert note["file"] == "notes/a.txt"


def test_uploaded_files_use_url_setting_returns_the_name(api: APIClient, settings: Any) -> None:
    settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | {"UPLOADED_FILES_USE_URL": False}
    assert api.post(place(Paper), {"file": upload()}).json()["file"] == "papers/a.txt"


@pytest.mark.parametrize(
    ("model", "fields", "field"),
    [
        (Paper, {"author": "x" * 51}, "author"),
        (Paper, {"scan": ("a.png", b"no picture")}, "scan"),
        (Paper, {"scan": ("a.png", b"")}, "scan"),
        (Note, {"code": "x" * 11}, "code"),
        (Note, {"file": ("a.exe", b"of the wrong kind")}, "file"),
        (Note, {"file": (f"{'n' * 40}.txt", b"too long a name")}, "file"),
    ],
)
def test_failed_validation_saves_nothing(
    api: APIClient, upload_handler: str, model: Any, fields: dict[str, Any], field: str
) -> None:
    given = {
        name: upload(*value) if isinstance(value, tuple) else value
        for name, value in fields.items()
    }
    answer = api.post(place(model), {"file": upload()} | given)
    assert (answer.status_code, list(answer.json())) == (400, [field])
    assert (files("disk"), QueuedFile.objects.count(), model.objects.count()) == ({}, 0, 0)


def test_string_instead_of_a_file_is_rejected(api: APIClient) -> None:
    Paper.objects.create(file=upload())
    answer = api.post(place(Paper), {"file": "papers/a.txt"}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["file"])
    assert Paper.objects.count() == 1


def test_duplicate_value_of_a_unique_field_saves_nothing(api: APIClient) -> None:
    assert api.post(place(Note), {"file": upload(), "code": "one"}).status_code == 201
    before = files("disk")
    answer = api.post(place(Note), {"file": upload("b.txt"), "code": "one"})
    assert (answer.status_code, list(answer.json())) == (400, ["code"])
    assert files("disk") == before
    assert QueuedFile.objects.count() == 1


def test_error_after_save_transfers_nothing(
    api: APIClient, far: FaultyStorage, upload_handler: str
) -> None:
    """With ATOMIC_REQUESTS, the local file remains, as with Django's own storage."""
    answer = api.post("/api/failing/", {"file": upload()})
    assert answer.status_code == 400
    assert not Paper.objects.exists()
    assert not QueuedFile.objects.exists()
    drain()
    assert files("far") == {}
    assert not far.calls


def test_patch_with_a_file_replaces_the_old(api: APIClient) -> None:
    paper = Paper.objects.create(file=upload("a.txt", b"old"))
    drain()
    answer = api.patch(place(Paper, paper), {"file": upload("b.txt", b"new")})
    assert answer.json()["file"] == "http://testserver/media/papers/b.txt"
    drain()
    assert files("far") == {"papers/a.txt": b"old", "papers/b.txt": b"new"}


def test_patch_without_a_file_keeps_the_old(api: APIClient) -> None:
    paper = Paper.objects.create(file=upload())
    drain()
    answer = api.patch(place(Paper, paper), {"author": "Ada"})
    assert answer.json()["file"] == "https://far.example/papers/a.txt"
    assert QueuedFile.objects.count() == 1


def test_delete_with_django_cleanup_deletes_both_copies(api: APIClient, far: FaultyStorage) -> None:
    draft = Draft.objects.create(file=upload())
    drain()
    far.calls.clear()
    assert api.delete(place(Draft, draft)).status_code == 204
    assert files("disk") == {}
    assert not far.calls
    drain()
    assert files("far") == {}


def test_urls_on_s3(api: APIClient, settings: Any) -> None:
    with S3Server() as server:
        client = server.client()
        client.create_bucket(Bucket="media")
        s3 = "storages.backends.s3.S3Storage"
        settings.STORAGES = settings.STORAGES | {
            "far": {"BACKEND": s3, "OPTIONS": server.options("media")}
        }
        answer = api.post(place(Paper), {"file": upload("a.txt", b"to S3")})
        assert answer.json()["file"] == "http://testserver/media/papers/a.txt"
        assert drain(storages["default"]) == {}
        [paper] = json.loads(api.get(place(Paper)).content)
        assert paper["file"].startswith(f"{server.endpoint_url}/media/papers/a.txt?")
        assert client.get_object(Bucket="media", Key="papers/a.txt")["Body"].read() == b"to S3"
        client.close()
