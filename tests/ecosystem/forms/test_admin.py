import re
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from queued_storage.models import QueuedFile
from queued_storage.testing import Fault, FaultyStorage, drain
from tests.support.services import S3Server

from .files import files, state, upload
from .library.models import Draft, Letter, Note, Paper

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])


def page(model: Any, instance: Any = None) -> str:
    start = f"/admin/library/{model._meta.model_name}/"
    return f"{start}{instance.pk}/change/" if instance else f"{start}add/"


def send(admin: Client, address: str, **fields: Any) -> Any:
    return admin.post(address, {"author": "Ada", "title": "Draft"} | fields)


def shown_link(admin: Client, instance: Any) -> str:
    """Return the URL that the widget links to."""
    html = admin.get(page(type(instance), instance)).content.decode()
    return re.search(r'Currently: <a href="(.*?)"', html)[1]


@BOTH
def test_upload_is_saved_immediately_and_transferred_later(
    model: Any, admin: Client, far: FaultyStorage, upload_handler: str
) -> None:
    answer = send(admin, page(model), file=upload("a.txt", b"of the admin"))
    assert answer.status_code == 302
    paper = model.objects.get()
    assert paper.file.name == "papers/a.txt"
    assert files("disk") == {"papers/a.txt": b"of the admin"}
    assert state(paper.file) == State.PENDING
    assert not far.calls
    assert drain() == {}
    assert files("far") == {"papers/a.txt": b"of the admin"}


@BOTH
def test_upload_while_the_remote_is_down(model: Any, admin: Client, far: FaultyStorage) -> None:
    far.fault = Fault.REFUSE
    assert send(admin, page(model), file=upload()).status_code == 302
    paper = model.objects.get()
    assert shown_link(admin, paper) == "/media/papers/a.txt"
    assert not far.calls


@BOTH
def test_image_name_from_a_callable(
    model: Any, admin: Client, far: FaultyStorage, png: bytes
) -> None:
    send(admin, page(model), scan=upload("a.png", png))
    paper = model.objects.get()
    assert paper.scan.name == "authors/Ada/a.png"
    assert (paper.scan.width, paper.scan.height) == (3, 2)
    paper.scan.close()
    assert not far.calls
    drain()
    assert files("far") == {"authors/Ada/a.png": png}


@BOTH
def test_widget_links_to_local_then_remote_copy(model: Any, admin: Client) -> None:
    paper = model.objects.create(file=upload())
    assert shown_link(admin, paper) == "/media/papers/a.txt"
    drain()
    assert shown_link(admin, paper) == "https://far.example/papers/a.txt"


def test_list_links_files_without_calling_the_remote(admin: Client, far: FaultyStorage) -> None:
    Paper.objects.create(file=upload("a.txt"))
    drain()
    Paper.objects.create(file=upload("b.txt"))
    far.calls.clear()
    html = admin.get("/admin/library/paper/").content.decode()
    assert '"https://far.example/papers/a.txt"' in html
    assert '"/media/papers/b.txt"' in html
    assert not far.calls


def test_list_queries_pending_and_caches_transferred_files(
    admin: Client,
) -> None:
    def queries_of_the_ledger() -> int:
        with CaptureQueriesContext(connection) as seen:
            admin.get("/admin/library/paper/")
        return sum("queued_storage_queuedfile" in query["sql"] for query in seen)

    for _number in range(3):
        Paper.objects.create(file=upload())
    assert queries_of_the_ledger() == 3
    drain()
    assert queries_of_the_ledger() == 3
    assert queries_of_the_ledger() == 0


@BOTH
def test_error_in_another_field_saves_nothing(
    model: Any, admin: Client, upload_handler: str
) -> None:
    answer = send(admin, page(model), author="", file=upload())
    assert answer.status_code == 200
    assert "This field is required." in answer.content.decode()
    assert (files("disk"), QueuedFile.objects.count(), model.objects.count()) == ({}, 0, 0)


@BOTH
def test_change_without_a_file_keeps_the_old(model: Any, admin: Client) -> None:
    paper = model.objects.create(file=upload())
    drain()
    send(admin, page(model, paper), author="Bob")
    paper.refresh_from_db()
    assert (paper.author, paper.file.name) == ("Bob", "papers/a.txt")
    assert state(paper.file) == State.TRANSFERRED


@BOTH
def test_second_upload_gets_a_different_name(model: Any, admin: Client) -> None:
    paper = model.objects.create(file=upload("a.txt", b"old"))
    drain()
    send(admin, page(model, paper), file=upload("a.txt", b"new"))
    drain()
    paper.refresh_from_db()
    assert paper.file.name != "papers/a.txt"
    assert files("far") == {"papers/a.txt": b"old", paper.file.name: b"new"}


@BOTH
def test_clearing_leaves_the_file_as_django_does(model: Any, admin: Client) -> None:
    paper = model.objects.create(file=upload())
    drain()
    send(admin, page(model, paper), **{"file-clear": "on"})
    drain()
    paper.refresh_from_db()
    assert not paper.file
    assert files("disk") == files("far") == {"papers/a.txt": b"text"}


def test_clearing_with_django_cleanup_deletes_both_copies(
    admin: Client, far: FaultyStorage
) -> None:
    draft = Draft.objects.create(file=upload())
    drain()
    far.calls.clear()
    send(admin, page(Draft, draft), **{"file-clear": "on"})
    assert files("disk") == {}
    assert not far.calls
    drain()
    assert files("far") == {}
    draft.refresh_from_db()
    assert not draft.file
    assert not QueuedFile.objects.exists()


@pytest.mark.parametrize("model", [Paper, Letter, Draft])
def test_clearing_and_uploading_together_is_an_error(
    model: Any, admin: Client, upload_handler: str
) -> None:
    paper = model.objects.create(file=upload("a.txt", b"old"))
    drain()
    before = paper.file.name
    answer = send(admin, page(model, paper), file=upload("b.txt", b"new"), **{"file-clear": "on"})
    assert "submit a file or check the clear checkbox, not both" in answer.content.decode()
    drain()
    paper.refresh_from_db()
    assert paper.file.name == before
    assert files("disk") == files("far") == {before: b"old"}
    assert QueuedFile.objects.get().name == before


def test_form_rejects_a_name_over_max_length(admin: Client) -> None:
    answer = admin.post(page(Note), {"file": upload(f"{'n' * 40}.txt")})
    assert "has at most 30 characters" in answer.content.decode()
    assert files("disk") == {}


def test_upload_to_s3_is_linked_there(admin: Client, settings: Any) -> None:
    with S3Server() as server:
        client = server.client()
        client.create_bucket(Bucket="media")
        settings.STORAGES = settings.STORAGES | {
            "far": {
                "BACKEND": "storages.backends.s3.S3Storage",
                "OPTIONS": server.options("media"),
            }
        }
        send(admin, page(Paper), file=upload("a.txt", b"to S3"))
        paper = Paper.objects.get()
        assert shown_link(admin, paper) == "/media/papers/a.txt"
        assert drain(storages["default"]) == {}
        link = shown_link(admin, paper).replace("&amp;", "&")
        assert link.startswith(f"{server.endpoint_url}/media/papers/a.txt?")
        found = client.get_object(Bucket="media", Key="papers/a.txt")
        assert found["Body"].read() == b"to S3"
        assert found["ContentType"] == "text/plain"
        client.close()


def test_deleting_a_model_keeps_its_file(admin: Client, disk: Path) -> None:
    paper = Paper.objects.create(file=upload())
    drain()
    admin.post(f"/admin/library/paper/{paper.pk}/delete/", {"post": "yes"})
    drain()
    assert not Paper.objects.exists()
    assert (disk / "papers/a.txt").exists()
    assert QueuedFile.objects.get().state == State.TRANSFERRED
