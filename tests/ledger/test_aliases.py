"""Aliases of storages in the ledger."""

import copy
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import dumps, loads
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage, storages
from django.core.files.storage.handler import StorageHandler
from django.core.management import call_command
from django.test import override_settings
from pytest_django import Settings

from queued_storage.backends import QueuedFileSystemStorage, QueuedStorage
from queued_storage.exceptions import UnknownAlias
from queued_storage.ledger.aliases import known_storages, storage_for
from queued_storage.queues.dummy import DummyQueue
from queued_storage.reporting.reasons import is_secret
from queued_storage.tasks import Transfer, TransferAndDelete

pytestmark = pytest.mark.one_database

S3 = "storages.backends.s3.S3Storage"
FSS = "django.core.files.storage.FileSystemStorage"
QUEUED = "queued_storage.backends.QueuedStorage"


@pytest.fixture(autouse=True)
def no_leftovers() -> None:
    """Collect the storages of other tests, so that only those of this test are found."""
    gc.collect()


def inline(**options: Any) -> QueuedStorage:
    # unknown="ask" makes it different from the default of STORAGES.
    return QueuedStorage(**{"local": "disk", "remote": "far", "unknown": "ask"} | options)


# The source of an alias


def test_the_option_wins() -> None:
    assert inline(alias="mine").alias == "mine"


def test_an_entry_of_storages_has_its_key() -> None:
    storage: Any = storages["default"]
    assert storage.alias == "default"
    assert storage_for("default") is storage


@pytest.mark.parametrize(
    "make",
    [
        lambda: StorageHandler()["default"],
        lambda: QueuedStorage(**django_settings.STORAGES["default"]["OPTIONS"]),
    ],
    ids=["handler", "entry"],
)
def test_a_second_instance_has_the_key(make: Any) -> None:
    """django-import-export makes one, for example."""
    second = make()
    assert second.alias == "default"
    assert second.deconstruct()[2]["alias"] == "default"
    assert second is not storages["default"]
    assert storage_for("default") is storages["default"]


def test_another_option_than_in_storages_makes_it_inline() -> None:
    options = django_settings.STORAGES["default"]["OPTIONS"]
    assert QueuedStorage(**options, delayed=True).alias.startswith("inline-")
    assert QueuedFileSystemStorage(**options).alias.startswith("inline-")


def test_each_entry_of_storages_has_its_key(settings: Settings) -> None:
    definition = {"BACKEND": QUEUED, "OPTIONS": {"local": "disk", "remote": "far"}}
    settings.STORAGES = {**settings.STORAGES, "one": definition, "two": definition}
    assert storages["one"].alias == "one"  # type: ignore[attr-defined]
    assert storages["two"].alias == "two"  # type: ignore[attr-defined]
    assert storage_for("two") is storages["two"]


def test_the_option_wins_in_storages_too(settings: Settings) -> None:
    options = {"local": "disk", "remote": "far", "alias": "old-name"}
    settings.STORAGES = {**settings.STORAGES, "new": {"BACKEND": QUEUED, "OPTIONS": options}}
    assert storages["new"].alias == "old-name"  # type: ignore[attr-defined]
    assert storage_for("old-name") is storages["new"]
    with pytest.raises(UnknownAlias):
        storage_for("new")


def test_one_made_inline_has_a_fingerprint() -> None:
    alias = inline().alias
    assert alias.startswith("inline-")
    assert len(alias) <= 64
    assert inline().alias == alias


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    script = (
        "import django; django.setup()\n"
        "from queued_storage.backends import QueuedStorage\n"
        f"print(QueuedStorage('disk', {FSS!r}, remote_options={{'location': '/a'}}).alias)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}",
    }
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=environment | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {inline(remote=FSS, remote_options={"location": "/a"}).alias + "\n"}


# Fingerprints

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"queue": DummyQueue()}, {"queue": DummyQueue()}),
    ({"task": Transfer}, {"task": TransferAndDelete}),
    ({"delayed": True}, {}),
    ({"cache_prefix": "x"}, {}),
    ({"remote": FSS, "remote_options": {"location": "/a", "base_url": "/b"}},
     {"remote": FSS, "remote_options": {"base_url": "/b", "location": "/a"}}),
    ({"remote": FSS, "remote_options": {"location": "/a"}},
     {"remote": FSS, "remote_options": {"location": Path("/a")}}),
    ({"remote": FileSystemStorage("/a")}, {"remote": FileSystemStorage("/a")}),
    ({"remote": "storages.backends.s3boto3.S3Boto3Storage"}, {"remote": S3}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_place_has_the_same_alias(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert inline(**one).alias == inline(**other).alias


OTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"remote": FSS, "remote_options": {"location": "/a"}},
     {"remote": FSS, "remote_options": {"location": "/b"}}),
    ({"remote": FileSystemStorage("/a")}, {"remote": FileSystemStorage("/b")}),
    ({"remote": FileSystemStorage}, {"remote": InMemoryStorage}),
    ({"remote": S3, "remote_options": {"bucket_name": "a"}},
     {"remote": S3, "remote_options": {"bucket_name": "b"}}),
    ({"remote": S3, "remote_options": {"endpoint_url": "https://a.example"}},
     {"remote": S3, "remote_options": {"endpoint_url": "https://b.example"}}),
    ({"local": "disk", "remote": "far"}, {"local": "far", "remote": "disk"}),
    ({"remote": {"BACKEND": FSS, "OPTIONS": {"location": "/a"}}},
     {"remote": {"BACKEND": FSS, "OPTIONS": {"location": "/b"}}}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_place_has_another_alias(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert inline(**one).alias != inline(**other).alias


SECRETS = [
    "access_key", "secret_key", "security_token", "session_token", "password", "passwd",
    "account_key", "sas_token", "connection_string", "credentials", "private_key", "pkey",
    "cloudfront_key", "cloudfront_key_id", "key", "app_secret", "oauth2_access_token",
    "cloudfront_signer", "token_credential",
]  # fmt: skip


@pytest.mark.parametrize("option", SECRETS)
def test_a_new_secret_does_not_change_the_alias(option: str) -> None:
    """rclone #7364: a changed option abandoned pending files."""
    assert is_secret(option)
    aliases = {inline(remote=S3, remote_options={option: value}).alias for value in ("a", "b")}
    assert len(aliases) == 1


@pytest.mark.parametrize(
    "option",
    ["bucket_name", "location", "endpoint_url", "container", "host", "keep_alive", "account_name",
     "region_name", "custom_domain", "base_url", "monkey", "key_prefix"],
)  # fmt: skip
def test_an_option_about_the_place_is_no_secret(option: str) -> None:
    assert not is_secret(option)


def test_a_new_password_keeps_the_alias() -> None:
    def alias(url: str) -> str:
        return inline(remote=S3, remote_options={"endpoint_url": url}).alias

    assert alias("ftp://me:old@host/a") == alias("ftp://me:new@host/a")
    assert alias("ftp://me:old@host/a") != alias("ftp://you:old@host/a")
    assert alias("https://host/a?sig=old") == alias("https://host/a?sig=new")


class Plain(Storage):
    """It is not decorated with `deconstructible`, so its arguments are unknown."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket


class Bare(Storage):
    """It takes no arguments."""


def test_two_indescribable_storages_need_an_alias() -> None:
    first, remote = inline(remote=Plain("a")), Plain("b")
    assert first.alias.startswith("inline-")
    with pytest.raises(ImproperlyConfigured, match="alias"):
        inline(remote=remote).alias  # noqa: B018
    named = inline(remote=remote, alias="plain"), inline(remote=remote, alias="plain")
    assert {storage.alias for storage in named} == {"plain"}


@pytest.mark.parametrize(
    "remote",
    [
        lambda place: partial(FileSystemStorage, place),
        lambda place: lambda: FileSystemStorage(place),
        lambda place: {"BACKEND": partial(FileSystemStorage, place)},
    ],
)
def test_two_storages_made_by_functions_need_an_alias(remote: Any) -> None:
    first = inline(remote=remote("/a"))
    assert first.alias.startswith("inline-")
    same = inline(remote=first._options["remote"])
    assert same.alias == first.alias
    with pytest.raises(ImproperlyConfigured, match="alias"):
        inline(remote=remote("/b")).alias  # noqa: B018
    assert inline(remote=remote("/b"), alias="function").alias == "function"
    call_command("check", fail_level="CRITICAL")


def test_one_indescribable_storage_needs_no_alias() -> None:
    remote = Plain("a")
    assert inline(remote=remote).alias == inline(remote=remote).alias
    assert inline(remote=Bare()).alias.startswith("inline-")


# Finding a storage


def test_an_unknown_alias_is_explained() -> None:
    with pytest.raises(UnknownAlias, match=r"'nowhere'.*STORAGES"):
        storage_for("nowhere")


def test_an_inline_storage_is_found_when_unused() -> None:
    storage = inline(alias="unused")
    assert storage_for("unused") is storage


def test_a_worker_finds_a_storage_without_references() -> None:
    storage = inline(alias="dropped")
    assert storage.alias == "dropped"
    del storage
    gc.collect()
    assert storage_for("dropped").alias == "dropped"


def test_a_worker_finds_each_variant_of_an_alias() -> None:
    variants = []
    for task in (Transfer, TransferAndDelete):
        storage = inline(alias="dropped twins", task=task)
        assert storage.alias == "dropped twins"
        variants.append(storage.variant)
        del storage
    gc.collect()
    found = [storage_for("dropped twins", variant).variant for variant in variants]
    assert found == variants


def test_a_refused_storage_replaces_no_other() -> None:
    storage = inline(alias="first")
    assert storage.alias == "first"
    with pytest.raises(ImproperlyConfigured, match="'first'"):
        _ = inline(alias="first", remote=FSS, remote_options={"location": "/b"}).alias
    del storage
    gc.collect()
    assert storage_for("first").alias == "first"


def test_a_storage_kept_for_workers_can_be_replaced() -> None:
    assert inline(alias="moved", remote=FSS, remote_options={"location": "/a"}).alias
    gc.collect()
    now = inline(alias="moved", remote=FSS, remote_options={"location": "/b"})
    assert now.alias == "moved"
    assert storage_for("moved") is now
    assert inline(remote=Plain("a")).alias
    gc.collect()
    assert inline(remote=Plain("b")).alias


def test_two_configurations_under_one_alias_are_refused() -> None:
    one = inline(alias="same")
    assert one.alias == "same"
    other = inline(alias="same", remote=FSS, remote_options={"location": "/b"})
    with pytest.raises(ImproperlyConfigured, match=r"'same'.*alias='…'"):
        other.alias  # noqa: B018
    assert storage_for("same") is one
    twin = inline(alias="same")
    assert twin.alias == "same"


def test_the_alias_of_another_key_is_refused(settings: Settings) -> None:
    stranger = inline(alias="default", remote=FSS, remote_options={"location": "/b"})
    with pytest.raises(ImproperlyConfigured, match="'default'"):
        stranger.alias  # noqa: B018
    assert inline(alias="default").alias == "default"
    assert storage_for("default") is storages["default"]


def test_override_settings_changes_the_storage(settings: Settings) -> None:
    before = storage_for("default")
    other = {"BACKEND": QUEUED, "OPTIONS": {"local": "far", "remote": "disk"}}
    with override_settings(STORAGES={**settings.STORAGES, "default": other}):
        during = storage_for("default")
        assert during is storages["default"] is not before
        assert [known for known in known_storages() if known.alias == "default"] == [during]
    assert storage_for("default") is storages["default"]


def test_a_broken_storage_of_others_is_ignored(settings: Settings) -> None:
    settings.STORAGES = {
        **settings.STORAGES,
        "broken": {"BACKEND": "no.such.Storage"},
        "cloud": {"BACKEND": S3, "OPTIONS": {"no_such_option": 1}},
    }
    assert storage_for("default") is storages["default"]
    assert storages["default"] in known_storages()


def test_a_storage_that_cannot_be_imported_is_ignored(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_a_variable.py").write_text("import os\nos.environ['NO_SUCH_VARIABLE']\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings.STORAGES = {
        "broken": {"BACKEND": "needs_a_variable.Storage"},
        "empty": {},
        **settings.STORAGES,
    }
    assert storages["default"].alias == "default"  # type: ignore[attr-defined]
    assert storage_for("default") is storages["default"]
    assert storages["default"] in known_storages()


def test_a_subclass_is_known(settings: Settings) -> None:
    preset = {
        "BACKEND": "queued_storage.backends.QueuedFileSystemStorage",
        "OPTIONS": {"remote": "far"},
    }
    settings.STORAGES = {**settings.STORAGES, "preset": preset}
    storage = storage_for("preset")
    assert isinstance(storage, QueuedFileSystemStorage)


def test_the_lazy_default_storage_is_accepted() -> None:
    from django.core.files.storage import default_storage

    outer = QueuedStorage(local="disk", remote=default_storage, alias="outer")
    assert outer.alias == "outer"
    assert storage_for("outer") is outer


def test_storages_can_be_made_during_a_search(settings: Settings) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)
            stop.set()

    def make_some() -> None:
        made = [inline() for _number in range(50)]
        assert made[0].alias == made[-1].alias

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=guarded, args=(work,))
            for work in (make_some, make_some, known_storages, lambda: storage_for("default"))
        ]
        for thread in threads:
            thread.start()
        stop.wait(1)
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []


def test_a_misconfigured_storage_hides_no_other() -> None:
    first = inline(alias="clash", remote=FSS, remote_options={"location": "/a"})
    assert first.alias == "clash"
    second = inline(alias="clash", remote=FSS, remote_options={"location": "/b"})
    known = known_storages()
    assert first in known
    assert second not in known
    with pytest.raises(ImproperlyConfigured, match="clash"):
        known_storages(strict=True)


def test_a_storage_that_cannot_be_made_is_ignored(settings: Settings) -> None:
    settings.STORAGES = {
        "first": {"BACKEND": QUEUED, "OPTIONS": {"local": "disk"}},
        **settings.STORAGES,
        "last": {"BACKEND": QUEUED, "OPTIONS": {"no_such_option": 1}},
    }
    assert storages["default"].alias == "default"
    assert storage_for("default") is storages["default"]
    assert storages["default"] in known_storages()
    with pytest.raises(UnknownAlias, match=r"'last'.*TypeError.*check"):
        storage_for("last")
    with pytest.raises(ImproperlyConfigured, match="remote"):
        known_storages(strict=True)


def test_a_conflict_of_others_hides_no_variant() -> None:
    kept = inline(alias="twins", task=Transfer)
    frees = inline(alias="twins", task=TransferAndDelete)
    first = inline(alias="clash")
    second = inline(alias="clash", remote=FSS, remote_options={"location": "/b"})
    assert kept.alias == frees.alias
    assert first.alias == "clash"
    assert storage_for("twins", frees.variant) is frees
    assert storage_for("twins", kept.variant) is kept
    late = inline(alias="late")
    assert storage_for("late") is late
    del second


# Copies


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda it: loads(dumps(it))])
def test_a_copy_has_the_alias_of_its_original(copied: Callable[[Any], Any]) -> None:
    assert copied(storages["default"]).alias == "default"
    assert copied(storages["default"]).deconstruct()[2]["alias"] == "default"
    inline_one = inline()
    twin = copied(inline_one)
    assert twin.alias == inline_one.alias
    assert storage_for(twin.alias) in {twin, inline_one}


def test_a_copy_from_another_process_is_found_again(tmp_path: Path) -> None:
    state = dumps(inline(remote=FSS, remote_options={"location": tmp_path}))
    gc.collect()
    twin = loads(state)
    assert storage_for(twin.alias) is twin


# Migrations

MIGRATION = """
from django.db import migrations, models
import queued_storage.backends

class Migration(migrations.Migration):
    operations = [
        migrations.AddField(
            "document",
            "old",
            models.FileField(
                storage=queued_storage.backends.QueuedStorage("disk", "disk", alias={alias!r})
            ),
        )
    ]
"""


@pytest.mark.parametrize("alias", ["default", "inline-now"])
def test_a_storage_in_a_migration_takes_no_alias(alias: str) -> None:
    module: dict[str, Any] = {"__name__": "shop.migrations.0001_initial"}
    exec(MIGRATION.format(alias=alias), module)
    historical = module["Migration"].operations[0].field.storage
    assert historical not in known_storages(strict=True)
    assert historical.alias == alias  # a data migration uses the same rows
    now = storages["default"] if alias == "default" else inline(alias=alias)
    assert now.alias == alias
    assert storage_for(alias) is now
    assert known_storages(strict=True)
