"""django-import-export."""

import re
from typing import Any

import pytest
import tablib
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from import_export.resources import modelresource_factory
from import_export.tmp_storages import MediaStorage

from queued_storage.backends import QueuedStorage
from queued_storage.models import QueuedFile
from queued_storage.testing import FaultyStorage, drain

from .files import files, upload
from .library.models import Draft, Letter, Memo, Paper

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])


def export(model: Any) -> list[dict[str, str]]:
    return modelresource_factory(model)().export().dict


def load(model: Any, *rows: dict[str, Any]) -> Any:
    dataset = tablib.Dataset(headers=list(rows[0]))
    for row in rows:
        dataset.append(list(row.values()))
    return modelresource_factory(model)().import_data(dataset, raise_errors=True)


@BOTH
def test_export_has_names_before_and_after_the_transfer(model: Any, far: FaultyStorage) -> None:
    model.objects.create(file=upload())
    [before] = export(model)
    assert (before["file"], before["scan"]) == ("papers/a.txt", "")
    assert not far.calls
    drain()
    far.calls.clear()
    assert export(model) == [before]
    assert not far.calls


@BOTH
def test_importing_an_export_keeps_the_file_names(model: Any, far: FaultyStorage) -> None:
    model.objects.create(file=upload())
    drain()
    rows = export(model)
    model.objects.all().delete()
    far.calls.clear()
    load(model, *rows)
    paper = model.objects.get()
    assert paper.file.name == "papers/a.txt"
    assert paper.file.url == "https://far.example/papers/a.txt"
    assert QueuedFile.objects.count() == 1
    assert not far.calls


@BOTH
@pytest.mark.parametrize("side", ["local", "remote"])
def test_import_of_names_without_a_row(model: Any, side: str, storage: QueuedStorage) -> None:
    getattr(storage, side).save("papers/old.txt", upload("old.txt", b"old"))
    load(model, {"id": "", "author": "Ada", "file": "papers/old.txt", "scan": ""})
    paper = model.objects.get()
    base = {"local": "/media/", "remote": "https://far.example/"}[side]
    assert paper.file.url == f"{base}papers/old.txt"
    with paper.file.open() as file:
        assert file.read() == b"old"


def test_import_accepts_names_without_a_file(storage: QueuedStorage) -> None:
    """With any storage, an import does not check whether files exist."""
    load(Paper, {"id": "", "author": "Ada", "file": "papers/no.txt", "scan": ""})
    assert not storage.exists(Paper.objects.get().file.name)


def test_dry_run_changes_nothing(storage: QueuedStorage) -> None:
    paper = Paper.objects.create(file=upload())
    rows = [{"id": paper.pk, "author": "Ada", "file": "papers/b.txt", "scan": ""}]
    dataset = tablib.Dataset(*[list(row.values()) for row in rows], headers=list(rows[0]))
    modelresource_factory(Paper)().import_data(dataset, dry_run=True, raise_errors=True)
    assert Paper.objects.get().file.name == "papers/a.txt"
    assert QueuedFile.objects.get().state == State.PENDING


@pytest.mark.parametrize("model", [Draft, Memo], ids=["our field", "Django's field"])
def test_import_of_another_name_deletes_the_old_file(
    model: Any,
) -> None:
    draft = model.objects.create(file=upload("a.txt", b"old"))
    other = model.objects.create(file=upload("b.txt", b"new"))
    drain()
    load(model, {"id": draft.pk, "title": "x", "file": other.file.name})
    assert drain() == {}
    assert files("far") == {"drafts/b.txt": b"new"}


@pytest.mark.parametrize("model", [Draft, Memo], ids=["our field", "Django's field"])
def test_import_with_an_error_deletes_nothing(model: Any) -> None:
    draft = model.objects.create(file=upload("a.txt", b"old"))
    drain()
    rows = [[draft.pk, "x", "drafts/other.txt"], ["no number", "y", ""]]
    dataset = tablib.Dataset(*rows, headers=["id", "title", "file"])
    result = modelresource_factory(model)().import_data(dataset, use_transactions=True)
    assert result.has_errors()
    drain()
    assert model.objects.get().file.name == "drafts/a.txt"
    assert files("far") == {"drafts/a.txt": b"old"}


# The admin, whose import has two steps


def admin_import(admin: Client, *, between: Any = lambda: None) -> None:
    """Upload a CSV, read the preview, and confirm the import."""
    csv = b"id,author,file,scan\n,Ada,papers/a.txt,\n"
    sent = {"import_file": SimpleUploadedFile("p.csv", csv, "text/csv"), "format": "0"}
    html = admin.post("/admin/library/paper/import/", sent).content.decode()
    hidden = dict(re.findall(r'<input type="hidden" name="(?!csrf)(\w+)" value="(.*?)"', html))
    assert "import_file_name" in hidden, html
    between()
    answer = admin.post("/admin/library/paper/process_import/", hidden, follow=True)
    assert "Import finished" in answer.content.decode()


def test_admin_import_does_not_call_the_storage(admin: Client, far: FaultyStorage) -> None:
    Letter.objects.create(file=upload())
    admin_import(admin)
    assert Paper.objects.get().file.url == "/media/papers/a.txt"
    assert QueuedFile.objects.count() == 1
    assert not far.calls


def test_admin_import_with_media_storage(admin: Client, settings: Any, far: FaultyStorage) -> None:
    """MediaStorage creates its own storage from STORAGES. Its files have the same alias, so any
    worker uploads and deletes them."""
    settings.IMPORT_EXPORT_TMP_STORAGE_CLASS = MediaStorage
    seen: list[QueuedFile] = []

    def between() -> None:
        seen.extend(QueuedFile.objects.all())
        assert drain(storages["default"]) == {}

    admin_import(admin, between=between)
    assert Paper.objects.count() == 1
    [row] = seen
    assert row.alias == "default"
    assert row.name.startswith("django-import-export/")
    assert drain(storages["default"]) == {}
    assert files("disk") == files("far") == {}
    assert not QueuedFile.objects.exists()


def test_admin_import_with_a_separate_storage(
    admin: Client, settings: Any, far: FaultyStorage
) -> None:
    settings.IMPORT_EXPORT_TMP_STORAGE_CLASS = MediaStorage
    settings.STORAGES = settings.STORAGES | {"import_export": settings.STORAGES["disk"]}
    kept: list[str] = []
    admin_import(admin, between=lambda: kept.extend(files("disk")))
    assert len(kept) == 1
    assert Paper.objects.count() == 1
    assert files("disk") == {}
    assert not QueuedFile.objects.exists()
    assert not far.calls


def test_admin_export(admin: Client, far: FaultyStorage) -> None:
    paper = Paper.objects.create(file=upload())
    drain()
    far.calls.clear()
    sent = {"format": "0", "resource": "", "paperresource_id": "on"}
    sent |= {f"paperresource_{name}": "on" for name in ("author", "file", "scan")}
    answer = admin.post("/admin/library/paper/export/", sent)
    assert b"papers/a.txt" in answer.content, answer.content
    assert answer.content.startswith(b"id,author,file,scan")
    assert paper.file.name == "papers/a.txt"
    assert not far.calls
