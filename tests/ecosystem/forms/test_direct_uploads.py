"""Files that browsers send to the remote themselves, beside those of a queued storage."""

import contextlib
import io
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage
from django.core.management import call_command
from django.forms import modelform_factory
from django.test import Client
from storages.backends.s3 import S3Storage

from queued_storage.backends import QueuedStorage
from queued_storage.models import QueuedFile
from queued_storage.testing import drain
from tests.ecosystem.forms.library.models import Upload
from tests.support import services
from tests.support.services import S3Server

DATA = b"sent by a browser"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    services.require("s3")
    with S3Server() as server:
        yield server


@pytest.fixture
def direct(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Storage]:
    """The remote of ``queued``, which the field of the uploads uses directly."""
    bucket = f"bucket-{uuid.uuid4().hex}"
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=bucket)
        storage = S3Storage(**server.options(bucket))
        monkeypatch.setattr(Upload._meta.get_field("file"), "storage", storage)
        yield storage
        client.delete_bucket(Bucket=bucket)  # SeaweedFS also deletes buckets that are not empty


@pytest.fixture
def queued(direct: S3Storage, tmp_path: Any) -> QueuedStorage:
    return QueuedStorage(FileSystemStorage(tmp_path), direct, alias=uuid.uuid4().hex)


def post(client: Client, step: str, **data: Any) -> dict[str, Any]:
    answer = client.post(f"/api/uploads/{step}/", data, content_type="application/json")
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def send(url: str, method: str, data: bytes) -> str:
    """Do what the script in the browser does; return the ETag of the answer."""
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method)) as answer:
        return answer.headers.get("ETag", "")


def upload(client: Client) -> str:
    """Send a file to the remote, and then its name in a form. Return the name."""
    begun = post(
        client,
        "upload-initialize",
        field_id=str(Upload._meta.get_field("file")),
        file_name="a.txt",
        file_size=len(DATA),
        content_type="text/plain",
    )
    [part] = begun["parts"]
    etag = send(part["upload_url"], "PUT", DATA)
    signature = begun["upload_signature"]
    sent = {"part_number": 1, "size": len(DATA), "etag": etag}
    upload_id = begun["upload_id"]
    completion = post(
        client, "upload-complete", upload_signature=signature, upload_id=upload_id, parts=[sent]
    )
    send(completion["complete_url"], "POST", completion["body"].encode())
    value = post(client, "finalize", upload_signature=signature)["field_value"]
    form = modelform_factory(Upload, fields=["file"])({"file": value})
    assert form.is_valid(), form.errors
    return str(form.save().file.name)


def run(storage: QueuedStorage, verb: str, *args: str) -> str:
    out = io.StringIO()
    call_command("queued_storage", verb, *args, "--storage", storage.alias, stdout=out, stderr=out)
    return out.getvalue()


def read(storage: Storage, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def row_of(storage: QueuedStorage, name: str) -> list[QueuedFile]:
    return list(QueuedFile.objects.filter(alias=storage.alias, name=name))


def test_the_queued_storage_serves_an_upload_once_it_is_adopted(
    client: Client, direct: S3Storage, queued: QueuedStorage
) -> None:
    name = upload(client)
    assert read(direct, name) == read(queued, name) == DATA  # which asks the remote each time
    assert not row_of(queued, name)
    assert "1 file" in run(queued, "adopt", name, "--content")
    assert read(queued, name) == DATA
    assert queued.url(name).partition("?")[0] == direct.url(name).partition("?")[0]
    assert [row.state for row in row_of(queued, name)] == [QueuedFile.State.TRANSFERRED]


def test_an_upload_is_an_orphan_if_no_model_has_it(
    client: Client, direct: S3Storage, queued: QueuedStorage
) -> None:
    name = upload(client)
    assert name not in run(queued, "orphans", "remote", "--older-than", "0s")
    Upload.objects.all().delete()  # which leaves the file
    assert name in run(queued, "orphans", "remote", "--older-than", "0s")


def test_a_save_does_not_overwrite_an_upload(
    client: Client, direct: S3Storage, queued: QueuedStorage
) -> None:
    name = upload(client)
    saved = queued.save(name, ContentFile(b"saved by the project"))
    assert drain(queued) == {}
    assert read(direct, name) == DATA
    assert read(queued, saved) == b"saved by the project"
    assert [row.is_remote for row in row_of(queued, saved)] == [True]


def test_an_adopted_upload_is_deleted_as_any_other_file(
    client: Client, direct: S3Storage, queued: QueuedStorage
) -> None:
    name = upload(client)
    run(queued, "adopt", name)
    queued.delete(name)
    assert drain(queued) == {}
    assert not direct.exists(name)
