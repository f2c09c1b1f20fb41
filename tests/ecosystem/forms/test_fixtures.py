"""dumpdata and loaddata."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from queued_storage.backends import QueuedStorage
from queued_storage.models import QueuedFile
from queued_storage.testing import FaultyStorage, drain

from .files import files, upload
from .library.models import Draft, Letter, Memo, Paper

State = QueuedFile.State
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])


def dump(path: Path, *labels: str) -> list[Any]:
    call_command("dumpdata", *labels, output=str(path), verbosity=0)
    return json.loads(path.read_text())


def load(path: Path) -> None:
    call_command("loaddata", str(path), verbosity=0)


def read(file: Any) -> bytes:
    with file.open() as opened:
        return opened.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump.json"


@BOTH
def test_dump_has_names_and_loading_touches_no_file(
    model: Any, path: Path, far: FaultyStorage
) -> None:
    model.objects.create(file=upload())
    drain()
    far.calls.clear()
    [row] = dump(path, f"library.{model._meta.model_name}")
    assert row["fields"]["file"] == "papers/a.txt"
    model.objects.all().delete()
    load(path)
    assert model.objects.get().file.url == "https://far.example/papers/a.txt"
    assert read(model.objects.get().file) == b"text"
    assert not far.calls
    assert QueuedFile.objects.count() == 1


@BOTH
def test_loading_over_existing_rows(model: Any, path: Path) -> None:
    paper = model.objects.create(file=upload("a.txt", b"old"))
    dump(path, "library")
    paper.file = upload("b.txt", b"new")
    paper.save()
    load(path)
    drain()
    assert read(model.objects.get().file) == b"old"
    assert sorted(files("far")) == ["papers/a.txt", "papers/b.txt"]


def without_a_ledger() -> None:
    """Delete all rows, as in a new database next to existing files."""
    QueuedFile.objects.all().delete()


@BOTH
def test_loading_local_files_with_an_empty_ledger(model: Any, path: Path) -> None:
    model.objects.create(file=upload())
    dump(path, "library")
    model.objects.all().delete()
    without_a_ledger()
    load(path)
    paper = model.objects.get()
    assert paper.file.url == "/media/papers/a.txt"
    assert read(paper.file) == b"text"
    assert drain() == {}
    assert files("far") == {}
    call_command("queued_storage", "backfill", verbosity=0)
    assert drain() == {}
    assert files("far") == {"papers/a.txt": b"text"}
    assert paper.file.url == "https://far.example/papers/a.txt"


@BOTH
def test_loading_remote_files_with_an_empty_ledger(
    model: Any, path: Path, storage: QueuedStorage, far: FaultyStorage
) -> None:
    model.objects.create(file=upload())
    drain()
    storage.local.delete("papers/a.txt")
    dump(path, "library")
    model.objects.all().delete()
    without_a_ledger()
    load(path)
    paper = model.objects.get()
    assert paper.file.url == "https://far.example/papers/a.txt"
    assert read(paper.file) == b"text"
    call_command("queued_storage", "adopt", verbosity=0)
    assert QueuedFile.objects.get().state == State.TRANSFERRED
    far.calls.clear()
    assert paper.file.size == 4
    assert paper.file.storage.exists(paper.file.name)
    assert not far.calls


@pytest.mark.parametrize("stage", ["pending", "transferred"])
def test_dump_that_includes_the_ledger(path: Path, stage: str, far: FaultyStorage) -> None:
    Paper.objects.create(file=upload())
    if stage == "transferred":
        drain()
    [before] = QueuedFile.objects.values()
    dump(path, "library", "queued_storage")
    Paper.objects.all().delete()
    without_a_ledger()
    load(path)
    [after] = QueuedFile.objects.values()
    assert shown(after) == shown(before)
    assert drain() == {}
    assert read(Paper.objects.get().file) == b"text"
    assert files("far") == {"papers/a.txt": b"text"}
    assert far.calls["save"] == 1


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row as JSON contains it, with times truncated to milliseconds."""
    times = {name: value for name, value in row.items() if hasattr(value, "microsecond")}
    cut = {
        name: value.replace(microsecond=value.microsecond // 1000 * 1000)
        for name, value in times.items()
    }
    return row | cut


def test_loading_a_name_without_a_file(path: Path) -> None:
    path.write_text(json.dumps([{"model": "library.paper", "fields": {"file": "papers/no.txt"}}]))
    load(path)
    paper = Paper.objects.get()
    assert not paper.file.storage.exists(paper.file.name)
    with pytest.raises(FileNotFoundError):
        paper.file.open()


@pytest.mark.parametrize("model", [Draft, Memo])
def test_loading_does_not_trigger_django_cleanup(model: Any, path: Path) -> None:
    draft = model.objects.create(file=upload("a.txt", b"old"))
    dump(path, "library")
    draft.file = "drafts/a.txt"
    draft.save()
    load(path)
    drain()
    assert files("far") == {"drafts/a.txt": b"old"}
