"""Storages inside the location of another one."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, storages
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.operations.inventory import names_of, orphans
from queued_storage.operations.neighbors import directories_of_others
from tests.support.command import on_default
from tests.support.scripted import ScriptedStorage, disk, file, make

pytestmark = pytest.mark.django_db(transaction=True)

FILES = "django.core.files.storage.FileSystemStorage"
S3 = "storages.backends.s3.S3Storage"


def add(settings: Settings, key: str, backend: str, **options: Any) -> Any:
    entry = {"BACKEND": backend, "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {key: entry}
    return storages[key]


def test_files_of_other_storages_are_no_orphans(settings: Settings) -> None:
    inner = add(settings, "inner", FILES, location=Path(disk().location) / "static" / "css")
    storage = storages["default"]
    inner.save("a.css", file())
    storage.local.save("static/b.txt", file())
    storage.local.save("c.txt", file())
    assert directories_of_others(storage.local) == ("static/css/",)
    found = orphans(storage, "local", timedelta(0))  # type: ignore[arg-type]
    assert sorted(orphan.name for orphan in found) == ["c.txt", "static/b.txt"]
    assert on_default("backfill", "--under", ".").startswith("2 files were recorded")


def test_remote_of_another_queued_storage(settings: Settings) -> None:
    other = make(remote=ScriptedStorage("disk/archive"), local=ScriptedStorage("other"))
    assert other.alias
    storage = storages["default"]
    other.remote.save("only-copy.txt", file())
    storage.local.save("c.txt", file())
    assert list(names_of(storage, "local")) == ["c.txt"]  # type: ignore[arg-type]


def test_other_location_in_one_bucket(settings: Settings) -> None:
    add(settings, "static", S3, bucket_name="media", location="static")
    add(settings, "other", S3, bucket_name="other", location="b")
    assert directories_of_others(S3Storage(bucket_name="media")) == ("static/",)
    assert directories_of_others(S3Storage(bucket_name="media", location="static")) == ()
    assert directories_of_others(S3Storage(bucket_name="media", location="sta")) == ()


def test_one_location_for_several_storages(settings: Settings) -> None:
    same = add(settings, "same", FILES, location=disk().location)
    assert directories_of_others(same) == ()
    assert directories_of_others(FileSystemStorage(disk().location)) == ()


def test_link_to_a_directory_below(settings: Settings, tmp_path: Path) -> None:
    (Path(disk().location) / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(Path(disk().location) / "deep")
    add(settings, "inner", FILES, location=tmp_path / "link")
    assert directories_of_others(disk()) == ("deep/",)
