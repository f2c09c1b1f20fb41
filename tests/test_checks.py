import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, storages
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.checks import deployments, registration

pytestmark = pytest.mark.one_database

SHARED_CACHE = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"}
FILES = "django.core.files.storage.FileSystemStorage"
QUEUED = "queued_storage.backends.QueuedStorage"


def ids() -> set[str]:
    return {str(message.id) for message in run_checks(tags=["queued_storage"])}


def messages(identifier: str) -> str:
    return "\n".join(
        f"{message.msg} {message.hint}"
        for message in run_checks(tags=["queued_storage"])
        if message.id == f"queued_storage.{identifier}"
    )


def with_default(settings: Settings, **options: Any) -> None:
    options = {"local": "disk", "remote": "far"} | options
    settings.STORAGES = settings.STORAGES | {"default": {"BACKEND": QUEUED, "OPTIONS": options}}


@pytest.fixture(autouse=True, scope="module")
def no_storages_of_other_tests() -> None:
    """The checks look at every storage that lives, also in a cycle of objects."""
    gc.collect()


@pytest.fixture(autouse=True)
def shared_cache(settings: Settings) -> None:
    settings.CACHES = {"default": SHARED_CACHE}


def test_valid_project_has_no_messages() -> None:
    assert ids() == set()


def test_unknown_key_suggests_the_nearest(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"RETRYS": 3}
    assert ids() == {"queued_storage.E001"}
    assert "'RETRIES'" in messages("E001")


def test_invalid_value(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"LEASE": "long"}
    assert "LEASE" in messages("E001")


def test_two_storages_with_one_alias(settings: Settings, tmp_path: Any) -> None:
    first = QueuedStorage("disk", FileSystemStorage(tmp_path / "a"), alias="twice")
    assert first.alias == "twice"
    second = QueuedStorage("disk", FileSystemStorage(tmp_path / "b"), alias="twice")
    assert "'twice'" in messages("E003")
    assert "alias=" in messages("E003")
    del first, second


def test_two_keys_with_one_alias(settings: Settings) -> None:
    with_default(settings, alias="same")
    settings.STORAGES = settings.STORAGES | {
        "other": {"BACKEND": QUEUED, "OPTIONS": {"local": "far", "remote": "disk", "alias": "same"}}
    }
    assert "'same'" in messages("E003")


@pytest.mark.parametrize(
    "remote",
    ["nowhere", "no.such.Storage", "django.core.files.storage.NoStorage", "storages.nothing.Here"],
)
def test_side_that_does_not_exist(settings: Settings, remote: str) -> None:
    with_default(settings, remote=remote)
    assert remote in messages("E004")


@pytest.mark.parametrize(
    ("side", "says"),
    [
        ({"BACKEND": FILES, "OPTIONS": {"nonsense": 1}}, "nonsense"),
        ({"BACKEND": "tests.support.testapp.models.Document"}, "Document"),
        ({"OPTIONS": {}}, "not a storage"),
        (5, "not a storage"),
    ],
)
@pytest.mark.parametrize("name", ["local", "remote"])
def test_side_that_cannot_be_created(settings: Settings, name: str, side: Any, says: str) -> None:
    with_default(settings, **{name: side})
    assert ids() == {"queued_storage.E004"}
    assert says in messages("E004")


class Talkative(FileSystemStorage):
    def __init__(self, **options: Any) -> None:
        raise ValueError(f"cannot connect with {options}")


@pytest.mark.parametrize("name", ["local", "remote"])
def test_no_check_repeats_a_secret(settings: Settings, name: str) -> None:
    options = {"host": "h", "password": "hunter2"}
    with_default(settings, **{name: {"BACKEND": f"{__name__}.Talkative", "OPTIONS": options}})
    assert "'host': 'h'" in messages("E004")
    assert "hunter2" not in messages("E004")


@pytest.mark.parametrize("name", ["local", "remote"])
def test_side_whose_module_raises(
    settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "from django.core.exceptions import ImproperlyConfigured"
    lines += "\nraise ImproperlyConfigured('Its library is missing.')"
    (tmp_path / "broken_storages.py").write_text(lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    with_default(settings, **{name: "broken_storages.Storage"})
    assert ids() == {"queued_storage.E004"}
    assert "Its library is missing." in messages("E004")


def test_missing_library_names_the_extra(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_default(settings, remote="storages.backends.s3.S3Storage")
    monkeypatch.setattr(registration, "find_spec", lambda module: None)
    assert "pip install 'django-queued-storage[s3]'" in messages("E004")


@pytest.mark.parametrize("how", ["alias", "path", "location"])
def test_local_and_remote_in_the_same_location(settings: Settings, how: str) -> None:
    file_system = "django.core.files.storage.FileSystemStorage"
    location = {"location": settings.STORAGES["disk"]["OPTIONS"]["location"]}
    options: dict[str, dict[str, Any]] = {
        "alias": {"remote": "disk"},
        "path": {"remote": file_system, "remote_options": location},
        "location": {"remote": FileSystemStorage(str(location["location"]) + "/../disk")},
    }
    with_default(settings, **options[how])
    assert "same location" in messages("E005")


def test_local_and_remote_in_the_same_bucket(settings: Settings) -> None:
    s3 = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": "media"}}
    with_default(settings, local=s3, remote=s3)
    assert "same location" in messages("E005")


MEMORY = "django.core.files.storage.InMemoryStorage"


def test_two_memories_are_two_places(settings: Settings) -> None:
    with_default(settings, local=MEMORY, remote=MEMORY)
    assert ids() == set()
    settings.STORAGES = settings.STORAGES | {"one": {"BACKEND": MEMORY}}
    with_default(settings, local="one", remote="one")
    assert ids() == {"queued_storage.E005"}


@pytest.mark.parametrize("how", ["subclass", "link"])
def test_other_way_to_the_same_directory(settings: Settings, how: str, tmp_path: Path) -> None:
    class Sub(FileSystemStorage):
        pass

    disk = Path(settings.STORAGES["disk"]["OPTIONS"]["location"])
    disk.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(disk)
    ways = {"subclass": Sub(disk), "link": FileSystemStorage(tmp_path / "link")}
    with_default(settings, remote=ways[how])
    assert ids() == {"queued_storage.E005"}


def test_same_bucket_with_differing_options(settings: Settings) -> None:
    here = s3(location="a/", region_name="eu-west-1", querystring_auth=False)
    with_default(settings, local=here, remote=s3(location="a", access_key="k", secret_key="s"))
    assert ids() == {"queued_storage.E005"}
    with_default(settings, local=here, remote=s3(location="b", querystring_auth=False))
    assert ids() == set()


def test_storage_that_is_its_own_remote(settings: Settings) -> None:
    with_default(settings, remote="default")
    assert ids() == {"queued_storage.E005"}
    assert "leads back" in messages("E005")


def test_two_storages_in_a_circle(settings: Settings) -> None:
    with_default(settings, remote="other")
    other = {"BACKEND": QUEUED, "OPTIONS": {"local": "far", "remote": "default"}}
    settings.STORAGES = settings.STORAGES | {"other": other}
    assert ids() == {"queued_storage.E005"}
    assert "default: " in messages("E005")
    assert "other: " in messages("E005")


@pytest.mark.parametrize("is_shared", [True, False])
def test_tiers(settings: Settings, is_shared: bool, tmp_path: Path) -> None:
    with_default(settings, remote="tier")
    local = "disk" if is_shared else outside(tmp_path)
    tier = {"BACKEND": QUEUED, "OPTIONS": {"local": local, "remote": "far"}}
    settings.STORAGES = settings.STORAGES | {"tier": tier}
    assert ids() == ({"queued_storage.E005"} if is_shared else set())
    assert "tier: " not in messages("E005")


@pytest.mark.parametrize("outer", ["local", "remote"])
def test_side_inside_the_other(settings: Settings, outer: str, tmp_path: Path) -> None:
    inner = "remote" if outer == "local" else "local"
    sides: dict[str, Any] = {
        outer: FileSystemStorage(tmp_path),
        inner: FileSystemStorage(tmp_path / "deep" / "deeper", base_url="https://far.example/"),
    }
    with_default(settings, **sides)
    assert ids() == {"queued_storage.E014"}


def test_queue_that_cannot_be_imported(settings: Settings) -> None:
    with_default(settings, queue="queued_storage.queues.pigeons.PigeonQueue")
    assert "pigeons" in messages("E006")


def test_queue_with_an_unknown_option(settings: Settings) -> None:
    queue = {"BACKEND": "queued_storage.queues.threads.ThreadQueue", "OPTIONS": {"thread": 1}}
    settings.QUEUED_STORAGE = {"QUEUE": queue}
    assert "thread" in messages("E006")


def test_task_that_is_not_a_task(settings: Settings) -> None:
    with_default(settings, task="queued_storage.tasks.Any")
    assert "Transfer" in messages("E007")


def test_cache_that_does_not_exist(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"CACHE": "fast"}
    assert "'fast'" in messages("E008")


@pytest.mark.parametrize(
    ("given", "debug", "complains"),
    [({"CACHE": "default"}, True, True), ({}, False, True), ({}, True, False)],
)
def test_cache_that_is_local_to_each_process(
    settings: Settings, given: dict[str, str], debug: bool, complains: bool
) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.QUEUED_STORAGE = given
    settings.DEBUG = debug
    assert ("queued_storage.W001" in ids()) is complains


def test_no_cache(settings: Settings) -> None:
    settings.QUEUED_STORAGE = {"CACHE": None}
    assert ids() == set()


def test_local_storage_that_overwrites(settings: Settings, tmp_path: Any) -> None:
    with_default(settings, local=FileSystemStorage(tmp_path, allow_overwrite=True))
    assert "allow_overwrite" in messages("W002")


def test_ledger_in_another_database_than_the_models(settings: Settings) -> None:
    assert storages["default"].alias == "default"
    settings.QUEUED_STORAGE = {"DATABASE": "ledger"}
    assert "rolled-back" in messages("W003")


def test_app_that_is_not_installed() -> None:
    program = """
import django
from django.conf import settings
settings.configure(
    STORAGES={"default": {"BACKEND": "queued_storage.backends.QueuedStorage",
                          "OPTIONS": {"local": "disk", "remote": "far"}},
              "disk": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
              "far": {"BACKEND": "django.core.files.storage.InMemoryStorage"}})
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage, storages
from django.core.checks import run_checks
default_storage.delayed
print([message.id for message in run_checks()])
try:
    default_storage.save("a.txt", ContentFile(b"a"))
except Exception as error:
    print(type(error).__name__, error, storages["disk"].exists("a.txt"))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, second = result.stdout.splitlines()
    assert "queued_storage.E002" in first
    assert second.startswith("ImproperlyConfigured A queued storage is used, but")
    assert second.endswith("False")


S3 = "storages.backends.s3.S3Storage"


def s3(**options: Any) -> dict[str, Any]:
    return {"BACKEND": S3, "OPTIONS": {"bucket_name": "media"} | options}


@pytest.mark.parametrize("way", ["signed", "stable", "proxied"])
def test_url_mode_without_the_urls(settings: Settings, way: str, tmp_path: Path) -> None:
    with_default(settings, url_mode=way, local=outside(tmp_path))
    assert ids() == set()
    settings.ROOT_URLCONF = "tests.support.health_urls"
    assert "'queued_storage.urls'" in messages("E010")
    with_default(settings, url_mode="direct")
    assert ids() == set()
    with_default(settings, url_mode=way, local=outside(tmp_path))
    del settings.ROOT_URLCONF
    assert ids() == set()


def test_unknown_url_mode() -> None:
    ways = "'direct', 'signed', 'stable' or 'proxied'"
    with pytest.raises(ImproperlyConfigured, match=f"must be one of {ways}"):
        QueuedStorage("disk", "far", url_mode="secret")  # type: ignore[arg-type]


def outside(tmp_path: Path) -> dict[str, Any]:
    backend = "django.core.files.storage.FileSystemStorage"
    return {"BACKEND": backend, "OPTIONS": {"location": tmp_path, "base_url": "/media/"}}


@pytest.mark.parametrize("hook", ["tests.nowhere.hook", "tests.test_checks.SHARED_CACHE"])
def test_permission_that_is_not_callable(settings: Settings, hook: str) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"PERMISSION": "tests.test_checks.ids"}
    assert ids() == set()
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"PERMISSION": hook}
    assert ids() == {"queued_storage.E011"}


def test_signing_remote_with_public_local_files(settings: Settings) -> None:
    with_default(settings, remote=s3())
    assert ids() == {"queued_storage.W005"}
    assert "url_mode='signed'" in messages("W005")
    settings.DEBUG = True
    assert "queued_storage.W005" not in ids()


GCLOUD = {"BACKEND": "storages.backends.gcloud.GoogleCloudStorage", "OPTIONS": {}}
AZURE = {"BACKEND": "storages.backends.azure_storage.AzureStorage", "OPTIONS": {}}


@pytest.mark.parametrize(
    ("remote", "others", "signs"),
    [
        (s3(querystring_auth=False), {}, False),
        (s3(), {"AWS_QUERYSTRING_AUTH": False}, False),
        (s3(querystring_auth=True), {"AWS_QUERYSTRING_AUTH": False}, True),
        (s3(custom_domain="cdn.example"), {}, False),
        (s3(), {"AWS_S3_CUSTOM_DOMAIN": "cdn.example"}, False),
        (s3(custom_domain="cdn.example", cloudfront_key="key"), {}, True),
        ("storages.backends.s3boto3.S3Boto3Storage", {}, True),
        (GCLOUD, {}, True),
        (GCLOUD, {"GS_QUERYSTRING_AUTH": False}, False),
        (GCLOUD, {"GS_DEFAULT_ACL": "publicRead"}, False),
        (AZURE, {}, False),
        (AZURE, {"AZURE_URL_EXPIRATION_SECS": 60}, True),
        ("far", {}, False),
    ],
)
def test_remotes_that_sign(
    settings: Settings, remote: Any, others: dict[str, Any], signs: bool
) -> None:
    for name, value in others.items():
        setattr(settings, name, value)
    with_default(settings, remote=remote)
    assert ("queued_storage.W005" in ids()) == signs


@pytest.mark.parametrize("way", ["direct", "stable", "proxied"])
def test_explicit_url_mode_silences_the_warning(settings: Settings, way: str) -> None:
    with_default(settings, remote=s3(), url_mode=way)
    assert ids() == set()


@pytest.mark.parametrize("url", [None, "/"])
def test_local_files_without_urls_are_not_public(
    settings: Settings, url: str | None, tmp_path: Path
) -> None:
    settings.MEDIA_URL = ""
    local = outside(tmp_path)
    local["OPTIONS"]["base_url"] = url
    with_default(settings, remote=s3(), local=local)
    assert ids() == {"queued_storage.W012"}


def test_signed_urls_of_files_in_media_root(settings: Settings, tmp_path: Path) -> None:
    with_default(settings, url_mode="signed")
    assert ids() == {"queued_storage.W006"}
    with_default(settings, url_mode="signed", local=outside(tmp_path))
    assert ids() == set()
    settings.MEDIA_ROOT = tmp_path.parent
    assert ids() == {"queued_storage.W006"}


def test_checks_import_no_library(settings: Settings) -> None:
    with_default(settings, remote=GCLOUD)
    ids()
    assert "storages.backends.gcloud" not in sys.modules


@pytest.mark.parametrize(
    ("mode", "is_fine"),
    [
        (None, False),
        ("DEFERRED", False),
        ("deferred", False),
        ("immediate", True),
        ("EXCLUSIVE", True),
    ],
)
def test_sqlite_without_the_lock(monkeypatch: Any, mode: str | None, is_fine: bool) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("SQLite only")
    monkeypatch.setitem(connection.settings_dict, "NAME", "/srv/site/db.sqlite3")
    options = {"transaction_mode": mode} if mode else {}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert ids() == (set() if is_fine else {"queued_storage.W007"})
    if not is_fine:
        assert "DATABASES['default'], set 'OPTIONS': {'transaction_mode'" in messages("W007")


def test_sqlite_in_memory_needs_no_options(monkeypatch: Any) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("SQLite only")
    monkeypatch.setitem(connection.settings_dict, "NAME", ":memory:")
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})
    assert ids() == set()


@pytest.mark.django_db(transaction=True)
def test_files_at_another_place(settings: Settings, tmp_path: Path) -> None:
    storage: Any = storages["default"]
    name = storage.save("a.txt", ContentFile(b"bytes"))
    assert storage.queue.deliver() == {}
    assert ids() == set()
    with_default(settings, remote=FILES, remote_options={"location": str(tmp_path)})
    text = messages("W008")
    for part in ("'default'", str(tmp_path), "remotes accept default", "/moving.html#"):
        assert part in text
    with pytest.raises(CommandError, match="remotes accept default"):
        call_command("queued_storage", "status", "--check")
    call_command("queued_storage", "remotes", "accept", "default")
    assert ids() == set()
    assert storages["default"].exists(name)


def test_the_database_of_files_is_only_asked_if_it_answers() -> None:
    """pytest-django forbids queries in this test."""
    assert not messages("W008")


def deployment_messages() -> list[str]:
    found = run_checks(tags=["queued_storage"], include_deployment_checks=True)
    return [message.msg for message in found if message.id == "queued_storage.W010"]


def test_deployment_without_a_name(settings: Settings) -> None:
    assert len(deployment_messages()) == 1
    assert "queued_storage.W010" not in ids()  # only with --deploy
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "DEPLOYMENT": "production"}
    assert not deployment_messages()


def test_deployment_needs_no_name_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = QueuedStorage(local="disk", remote=InMemoryStorage(), alias="memory")
    monkeypatch.setattr(deployments, "storages", lambda: [storage])
    assert not deployment_messages()


def test_deployment_without_a_name_while_developing(settings: Settings) -> None:
    settings.DEBUG = True
    assert "queued_storage.W010" not in ids()
    assert len(deployment_messages()) == 1


PRESET = "queued_storage.backends.QueuedS3BotoStorage"


@pytest.mark.parametrize(
    ("backend", "expected"), [(FILES, {"queued_storage.W016"}), (QUEUED, set())]
)
def test_default_file_storage_is_ignored_by_django(
    settings: Settings, backend: str, expected: set[str]
) -> None:
    settings.DEFAULT_FILE_STORAGE = PRESET
    if backend == FILES:
        settings.STORAGES = settings.STORAGES | {"default": {"BACKEND": FILES}}
    assert ids() == expected


@pytest.mark.parametrize("path", [None, FILES, "no.such.Storage", "media"])
def test_default_file_storage_of_others_is_their_own(settings: Settings, path: Any) -> None:
    settings.DEFAULT_FILE_STORAGE = path
    settings.STORAGES = settings.STORAGES | {"default": {"BACKEND": FILES}}
    assert ids() == set()
