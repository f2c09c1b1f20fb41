"""ModelForms, without the admin."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousFileOperation, ValidationError
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.db import connection, transaction
from django.db.models.signals import post_save
from django.forms import ClearableFileInput, FileField, ImageField, ModelForm, modelform_factory
from django.test import Client, RequestFactory

from queued_storage.models import QueuedFile
from queued_storage.testing import FaultyStorage, drain

from .files import evict, files, orphans, state, upload
from .library.models import Letter, Note, Paper
from .urls import download

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])


def form_of(model: Any, instance: Any = None, **files: Any) -> ModelForm:
    form_class = modelform_factory(model, fields=["author", "file", "scan"])
    return form_class({"author": "Ada"}, files, instance=instance)


def test_our_fields_have_djangos_form_fields() -> None:
    fields = modelform_factory(Paper, fields=["file", "scan"]).base_fields
    assert [type(field) for field in fields.values()] == [FileField, ImageField]
    assert all(type(field.widget) is ClearableFileInput for field in fields.values())


@BOTH
def test_commit_false_delays_the_file_until_model_save(model: Any, far: FaultyStorage) -> None:
    form = form_of(model, file=upload())
    assert form.is_valid(), form.errors
    paper = form.save(commit=False)
    assert files("disk") == {}
    assert not QueuedFile.objects.exists()
    paper.save()
    assert files("disk") == {"papers/a.txt": b"text"}
    assert state(paper.file) == State.PENDING
    assert not far.calls


@BOTH
def test_invalid_form_saves_nothing(model: Any, png: bytes) -> None:
    form = form_of(model, file=upload(), scan=upload("a.png", png[:20]))
    assert list(form.errors) == ["scan"]
    assert files("disk") == {}
    assert not QueuedFile.objects.exists()


@BOTH
def test_image_in_a_form(model: Any, png: bytes) -> None:
    form = form_of(model, scan=SimpleUploadedFile("a.png", png, "image/png"))
    assert form.is_valid(), form.errors
    paper = form.save()
    assert paper.scan.storage.queued_file(paper.scan.name).content_type == "image/png"
    drain()
    assert files("far") == {"authors/Ada/a.png": png}


@BOTH
def test_widget_links_to_the_current_copy(model: Any) -> None:
    paper = form_of(model, file=upload()).save()
    assert 'href="/media/papers/a.txt"' in form_of(model, instance=paper).as_p()
    drain()
    assert 'href="https://far.example/papers/a.txt"' in form_of(model, instance=paper).as_p()


@BOTH
def test_form_with_a_new_file_keeps_the_old(model: Any) -> None:
    paper = form_of(model, file=upload("a.txt", b"old")).save()
    drain()
    form_of(model, instance=paper, file=upload("b.txt", b"new")).save()
    drain()
    assert files("far") == {"papers/a.txt": b"old", "papers/b.txt": b"new"}


@BOTH
def test_clearing_without_saving_changes_nothing(model: Any) -> None:
    paper = form_of(model, file=upload()).save()
    form = modelform_factory(model, fields=["file"])({"file-clear": "on"}, instance=paper)
    assert form.is_valid(), form.errors
    form.save(commit=False)
    again = model.objects.get()
    assert again.file.name == "papers/a.txt"
    assert again.file.storage.exists("papers/a.txt")


def test_full_clean_does_not_call_the_storage(far: FaultyStorage) -> None:
    note = Note(file=upload("a.txt"))
    note.full_clean()
    with pytest.raises(ValidationError, match="File extension"):
        Note(file=upload("a.exe")).full_clean()
    assert files("disk") == {}
    assert not QueuedFile.objects.exists()
    note.save()
    Note.objects.get().full_clean()
    drain()
    far.calls.clear()
    Note.objects.get().full_clean()
    assert not far.calls


def test_long_name_is_truncated_to_max_length() -> None:
    first, second = (
        Note.objects.create(file=ContentFile(content, f"{'n' * 40}.txt"))
        for content in (b"first", b"second")
    )
    for note in (first, second):
        assert len(note.file.name) <= 30
        assert note.file.name.endswith(".txt")
    assert first.file.name != second.file.name
    drain()
    assert files("far") == {first.file.name: b"first", second.file.name: b"second"}


def test_name_that_cannot_be_truncated_saves_nothing() -> None:
    with pytest.raises(SuspiciousFileOperation, match="max_length"):
        Note.objects.create(file=ContentFile(b"text", f"a.{'x' * 40}"))
    assert files("disk") == {}
    assert not QueuedFile.objects.exists()


@BOTH
def test_temporary_file_of_an_upload_is_moved(model: Any, disk: Path) -> None:
    with TemporaryUploadedFile("a.txt", "text/plain", 4, None) as uploaded:
        uploaded.write(b"text")
        uploaded.seek(0)
        inode = Path(uploaded.temporary_file_path()).stat().st_ino
        form_of(model, file=uploaded).save()
    assert (disk / "papers/a.txt").stat().st_ino == inode
    drain()
    assert files("far") == {"papers/a.txt": b"text"}


def test_failed_request_after_save_transfers_nothing(
    client: Client, far: FaultyStorage, upload_handler: str
) -> None:
    """With ATOMIC_REQUESTS, the local file remains, as with Django's own storage."""
    client.raise_request_exception = False
    assert client.post("/upload-and-fail/", {"file": upload()}).status_code == 500
    assert not Paper.objects.exists()
    assert not QueuedFile.objects.exists()
    assert drain() == {}
    assert files("far") == {}
    assert not far.calls
    assert files("disk") == {"papers/a.txt": b"text"}
    assert orphans("local") == ["papers/a.txt"]


def test_upload_succeeds_after_a_rolled_back_request(client: Client) -> None:
    client.raise_request_exception = False
    client.post("/upload-and-fail/", {"file": upload("a.txt", b"failed")})
    paper = Paper.objects.create(file=upload("a.txt", b"saved"))
    drain()
    assert files("far") == {paper.file.name: b"saved"}


@pytest.mark.parametrize("stage", ["pending", "transferred", "evicted"])
def test_file_response_closes_the_file(rf: RequestFactory, stage: str) -> None:
    paper = Paper.objects.create(file=upload())
    if stage != "pending":
        drain()
    if stage == "evicted":
        evict()
    response: Any = download(rf.get("/"), paper.pk)
    sent = response.file_to_stream
    assert not sent.closed
    assert b"".join(response.streaming_content) == b"text"
    response.close()
    assert sent.closed
    assert 'filename="a.txt"' in response["Content-Disposition"]


def test_failed_nested_transaction_rolls_back_its_upload(far: FaultyStorage) -> None:
    with transaction.atomic():
        form_of(Paper, file=upload("a.txt", b"stays")).save()
        with transaction.atomic():
            form_of(Paper, file=upload("b.txt", b"goes")).save()
            transaction.set_rollback(True)
    assert drain() == {}
    assert files("far") == {"papers/a.txt": b"stays"}
    assert Paper.objects.count() == QueuedFile.objects.count() == 1


@pytest.fixture
def not_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", False)


@pytest.fixture
def failing_save() -> Iterator[None]:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("A receiver failed after the save.")

    post_save.connect(fail, sender=Paper)
    yield
    post_save.disconnect(fail, sender=Paper)


@pytest.mark.usefixtures("not_atomic", "failing_save")
def test_admin_opens_a_transaction(admin: Client) -> None:
    admin.raise_request_exception = False
    sent = {"author": "Ada", "file": upload()}
    assert admin.post("/admin/library/paper/add/", sent).status_code == 500
    assert drain() == {}
    assert files("far") == {}
    assert not QueuedFile.objects.exists()


@pytest.mark.usefixtures("not_atomic")
def test_view_without_a_transaction_keeps_its_file(client: Client) -> None:
    assert client.post("/api/failing/", {"file": upload()}).status_code == 400
    assert drain() == {}
    assert files("far") == {"papers/a.txt": b"text"}
    assert Paper.objects.get().file.name == "papers/a.txt"
