"""The guide to an upgrade from 0.8, followed literally with the settings of an old project."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError
from pytest_django import Settings

from queued_storage.conf import settings as queued_settings
from queued_storage.ledger.states import State
from queued_storage.testing import drain
from tests.support.command import on_default
from tests.support.testapp.models import Document
from tests.test_docs import names_of, section

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

GUIDE = section("upgrading", "Upgrade your project")
BLOCKS = [
    re.sub(r"^   ", "", code, flags=re.M)
    for code in re.findall(r"^ *```python\n(.*?)^ *```$", GUIDE, re.M | re.S)
]
BEFORE, AFTER = map(names_of, BLOCKS)
VERBS = re.findall(r"python manage\.py queued_storage ([a-z]+)", GUIDE)


def configure(settings: Settings, given: dict[str, Any]) -> None:
    """Use the settings of a project, but the app of these tests and its bucket."""
    for name, value in given.items():
        if name not in ("AWS_STORAGE_BUCKET_NAME", "BROKER_URL", "INSTALLED_APPS"):
            setattr(settings, name, value)
    # Without the background threads of the default queue
    settings.QUEUED_STORAGE = {"QUEUE": "queued_storage.queues.dummy.DummyQueue"}


def identifiers() -> set[str]:
    """The ids of the checks that fail, without those of storages in the fields of the test app."""
    found = run_checks(tags=["queued_storage"])
    return {str(each.id) for each in found if each.obj in (None, storages["default"])}


@pytest.fixture
def project(settings: Settings, aws: str, tmp_path: Path) -> Path:
    """The directory of the project's uploads; django-storages' settings name the bucket."""
    settings.MEDIA_ROOT = tmp_path / "media"
    shared = "django.core.cache.backends.db.DatabaseCache"
    settings.CACHES = {"default": {"BACKEND": shared, "LOCATION": "cache"}}
    return settings.MEDIA_ROOT


@pytest.mark.usefixtures("project")
def test_settings_before_the_upgrade_are_reported(settings: Settings) -> None:
    configure(settings, BEFORE)
    settings.STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": AFTER["STORAGES"]["staticfiles"],
    }
    assert "queued_storage.W016" in identifiers()


def test_only_what_the_guide_says_is_changed() -> None:
    assert BEFORE.keys() - AFTER.keys() == {"BROKER_URL", "DEFAULT_FILE_STORAGE"}
    assert AFTER.keys() - BEFORE.keys() == {"STORAGES"}
    assert AFTER["STORAGES"]["default"] == {"BACKEND": BEFORE["DEFAULT_FILE_STORAGE"]}
    assert set(BEFORE["INSTALLED_APPS"]) - set(AFTER["INSTALLED_APPS"]) == {"djcelery"}
    same = BEFORE.keys() & AFTER.keys() - {"INSTALLED_APPS"}
    assert {name: BEFORE[name] for name in same} == {name: AFTER[name] for name in same}


def test_old_and_new_files_after_the_upgrade(
    settings: Settings, project: Path, aws: str, s3_client: Any
) -> None:
    # What 0.8 has left: files on the remote with and without a local copy, and a local one.
    for name in ("both", "remote"):
        s3_client.put_object(Bucket=aws, Key=f"docs/{name}.txt", Body=name.encode())
    (project / "docs").mkdir(parents=True)
    for name in ("both", "local"):
        (project / "docs" / f"{name}.txt").write_bytes(name.encode())
    names = [f"docs/{name}.txt" for name in ("both", "remote", "local")]
    olds = [Document.objects.create(file=name) for name in names]

    configure(settings, AFTER)
    # The remote signs its URLs, which also was so with 0.8.
    assert identifiers() == {"queued_storage.W005"}
    storage: Any = storages["default"]
    assert (queued_settings.retries, queued_settings.retry_delay) == (3, 30)
    assert storage.get_cache_key("a.txt").startswith("media_")
    for old in olds:
        with old.file.open() as file:
            assert file.read().decode() in old.file.name

    assert VERBS == ["adopt", "backfill"]
    # The test app has other storages, too, so the one that is meant must be named.
    with pytest.raises(CommandError, match="1 file was skipped"):
        on_default("adopt")
    on_default("backfill")
    assert {storage.queued_file(old.file.name).state for old in olds[:2]} == {State.TRANSFERRED}
    assert storage.queued_file("docs/local.txt").state == State.PENDING

    new = Document.objects.create(file=ContentFile(b"new", "remote.txt"))
    assert new.file.name not in names
    assert drain(storage) == {}
    keys = [found["Key"] for found in s3_client.list_objects_v2(Bucket=aws)["Contents"]]
    assert {key for key in keys if not key.startswith(".queued")} == {*names, new.file.name}
