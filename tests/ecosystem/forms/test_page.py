"""The examples and versions in docs/forms.md."""

import ast
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.db.models.signals import post_delete
from django.test import Client

from queued_storage.models import QueuedFile
from queued_storage.testing import drain

from . import settings as settings_of_the_tests
from .files import files, upload
from .library.models import Letter, Paper

PAGE = (Path(__file__).parents[3] / "docs" / "forms.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
BOTH = pytest.mark.parametrize("model", [Paper, Letter], ids=["our fields", "Django's fields"])


def example(word: str, **names: Any) -> dict[str, Any]:
    """Run the example that contains this word, and return the names that it defines."""
    [source] = [source for source in EXAMPLES if word in source]
    exec(compile(source, "docs/forms.md", "exec"), names)
    return names


def test_versions_match_the_installed_packages() -> None:
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|$", PAGE, re.M))
    assert len(rows) == 5
    for package, written in rows.items():
        assert f"{version(package)}.".startswith(f"{written}."), package
    assert re.findall(r"in version ([\d.]+):$", PAGE, re.M) == [rows["django-cleanup"]]


@BOTH
def test_receiver_deletes_the_file_with_the_model(model: Any) -> None:
    names = example("post_delete", Paper=model)
    try:
        paper = model.objects.create(file=upload())
        model.objects.create()  # without a file
        drain()
        with transaction.atomic():
            model.objects.all().delete()
            transaction.set_rollback(True)
        assert drain() == {}
        assert files("disk") == files("far") == {"papers/a.txt": b"text"}
        model.objects.all().delete()
    finally:
        assert post_delete.disconnect(names["delete_file"], sender=model)
    assert paper.file.name == "papers/a.txt"
    assert drain() == {}
    assert files("disk") == files("far") == {}
    assert not QueuedFile.objects.exists()


@BOTH
def test_duplicate_copies_the_file(model: Any) -> None:
    one = model.objects.create(file=upload())
    two = example("def duplicate", Paper=model)["duplicate"](one)
    assert two.file.name.startswith("papers/a_")
    drain()
    assert files("far") == {one.file.name: b"text", two.file.name: b"text"}


@BOTH
def test_files_are_saved_before_a_bulk_update(model: Any) -> None:
    papers = [model.objects.create() for _number in range(2)]
    contents = [upload("a.txt", b"one"), upload("b.txt", b"two")]
    example("def attach", Paper=model)["attach"](papers, contents)
    drain()
    assert files("far") == {"papers/a.txt": b"one", "papers/b.txt": b"two"}
    assert [paper.file.name for paper in model.objects.order_by("pk")] == sorted(files("far"))


@BOTH
def test_serializer_returns_the_name(model: Any) -> None:
    serializer = example("ModelSerializer", Paper=model)["PaperSerializer"]
    assert serializer(model.objects.create(file=upload())).data["file"] == "papers/a.txt"


def test_settings_of_import_export(settings: Any, tmp_path: Path, admin: Client) -> None:
    names = example("IMPORT_EXPORT_TMP_STORAGE_CLASS")
    own = names["STORAGES"]["import_export"]
    own["OPTIONS"]["location"] = tmp_path
    settings.STORAGES = settings.STORAGES | {"import_export": own}
    settings.IMPORT_EXPORT_TMP_STORAGE_CLASS = names["IMPORT_EXPORT_TMP_STORAGE_CLASS"]
    table = upload("p.csv", b"id,author,file,scan\n,Ada,,\n")
    answer = admin.post("/admin/library/paper/import/", {"import_file": table, "format": "0"})
    assert answer.status_code == 200
    assert [path.name for path in tmp_path.iterdir()] == ["django-import-export"]
    assert files("disk") == {}


def test_settings_match_the_page() -> None:
    [source] = [source for source in EXAMPLES if "DATABASES" in source]
    [assignment] = ast.parse(source).body
    shown = ast.literal_eval(assignment.value)["default"]
    used = settings_of_the_tests.DATABASES["default"]
    assert used["ATOMIC_REQUESTS"] is shown["ATOMIC_REQUESTS"] is True
