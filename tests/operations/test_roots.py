"""Locations that hold more than uploaded files."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.core.management import CommandError
from django.db import connections
from django.utils import timezone
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import Content
from queued_storage.operations.roots import danger_of, require_safe_root
from tests.support import testapp
from tests.support.command import run
from tests.support.scripted import ScriptedStorage, disk, file, make
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)


def reason_of(location: Any) -> str:
    danger = danger_of(FileSystemStorage(location))
    return danger.reason if danger else ""


def test_usual_locations() -> None:
    for storage in (disk(), ScriptedStorage(), InMemoryStorage()):
        assert danger_of(storage) is None


@pytest.mark.parametrize("location", ["", ".", "./", None, Path()])
def test_no_location(settings: Settings, location: Any) -> None:
    settings.MEDIA_ROOT = ""
    danger = danger_of(FileSystemStorage(location))
    assert danger
    assert danger.is_unset
    assert "MEDIA_ROOT" in danger.reason


@pytest.mark.parametrize("above", ["", "..", "link"])
def test_location_of_base_dir(settings: Settings, above: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "link").symlink_to(tmp_path)
    settings.BASE_DIR = str(project)
    assert "BASE_DIR" in reason_of(project / above)
    assert reason_of(project / "media") == ""
    assert reason_of(tmp_path / "project-media") == ""


def test_location_of_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite = "django.db.backends.sqlite3"
    for name in (tmp_path / "db.sqlite3", f"file:{tmp_path}/db.sqlite3?mode=ro"):
        databases = {"default": {"ENGINE": sqlite, "NAME": name}}
        monkeypatch.setitem(vars(connections), "settings", databases)
        assert "the database" in reason_of(tmp_path)
    databases = {"default": {"ENGINE": sqlite, "NAME": ":memory:"}}
    monkeypatch.setitem(vars(connections), "settings", databases)
    assert reason_of(tmp_path) == ""


def test_location_of_loaded_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds" in reason_of(Path(testapp.__file__).parent)
    assert "holds" in reason_of(sys.prefix)
    assert "holds" in reason_of("/")
    module = ModuleType("shop")
    module.__file__ = str(tmp_path / "shop" / "views.py")
    monkeypatch.setitem(sys.modules, "shop", module)
    assert "views.py" in reason_of(tmp_path)


def test_what_only_poses_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        """As cffi puts its libraries among the modules."""

        @property
        def __class__(self) -> type[ModuleType]:  # type: ignore[override]
            return ModuleType

    monkeypatch.setitem(sys.modules, "shop.lib", Library())  # type: ignore[arg-type]
    assert reason_of(tmp_path) == ""


def test_location_on_the_path_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    assert "sys.path" in reason_of(tmp_path)


def test_code_that_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "scripts.py").write_text("")
    assert "'scripts.py'" in reason_of(tmp_path)


def test_uploaded_code_is_no_danger(tmp_path: Path) -> None:
    storage = make(local=FileSystemStorage(tmp_path))
    storage.save("script.py", file())
    (tmp_path / "other.py").write_text("")
    Document.objects.create(file="other.py")
    assert reason_of(tmp_path) == ""


def test_sides_that_share_files() -> None:
    storage = make(remote=FileSystemStorage(Path(disk().location) / "remote"))
    for side in ("local", "remote"):
        with pytest.raises(ImproperlyConfigured, match="contains the other"):
            require_safe_root(storage, side)


@pytest.mark.parametrize(
    "verb",
    [
        ["orphans", "local", "--delete", "--yes"],
        ["orphans", "local"],
        ["orphans", "remote"],
        ["backfill", "--under", "."],
        ["adopt", "--under", "."],
        ["prune", "--all", "--yes"],
    ],
)
def test_root_that_holds_the_project(settings: Settings, verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_text("")
    (tmp_path / "db.sqlite3").write_text("")
    settings.BASE_DIR = tmp_path
    root, other = FileSystemStorage(tmp_path), FileSystemStorage(disk().location)
    sides = (other, root) if "remote" in verb or "adopt" in verb else (root, other)
    storage = make(local=sides[0], remote=sides[1])
    ledger().record_remote(
        storage.alias, "lost.txt", *_content_and_time(), is_local=True, verified="size"
    )
    with pytest.raises(CommandError, match="BASE_DIR"):
        run(*verb, "--storage", storage.alias)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.sqlite3", "manage.py"]
    assert ledger().count() == 1


def _content_and_time() -> tuple[Any, Any]:
    return Content(1, ""), timezone.now()
