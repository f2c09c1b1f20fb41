"""Mistakes of the first hour: what the checks say before the first file is saved."""

import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf.urls.static import static
from django.core.checks import run_checks
from django.core.files.storage import FileSystemStorage, Storage
from django.db import models
from django.test.utils import isolate_apps
from django.urls import path
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.backends import QueuedStorage
from queued_storage.checks import secrets
from queued_storage.runtime.documentation import DOCS
from tests.test_checks import FILES, QUEUED, messages, outside, s3, shared_cache, with_default

__all__ = ["shared_cache"]

pytestmark = pytest.mark.one_database


def found(*, deploy: bool = False) -> set[str]:
    gc.collect()  # storages of other tests, which the checks would look at
    given = run_checks(tags=["queued_storage"], include_deployment_checks=deploy)
    return {str(message.id).removeprefix("queued_storage.") for message in given}


# Local and remote


def test_swapped_sides(settings: Settings) -> None:
    with_default(settings, local=s3(querystring_auth=False), remote="far")
    assert found() == {"W011"}
    assert "'local' and 'remote' seem to be swapped" in messages("W011")


class Network(Storage):
    """A storage of the project that has no path()."""


def test_swapped_sides_of_other_classes(settings: Settings) -> None:
    network = f"{__name__}.Network"
    with_default(settings, local=network, remote="far")
    assert found() == {"W011"}
    with_default(settings, local="disk", remote=network)
    assert found() == set()
    with_default(settings, local=network, remote=s3(querystring_auth=False))
    assert found() == set()


def test_a_tier_may_begin_on_the_network(settings: Settings) -> None:
    with_default(settings, remote="tier")
    tier = {"BACKEND": QUEUED, "OPTIONS": {"local": s3(), "remote": "far"}}
    settings.STORAGES = settings.STORAGES | {"tier": tier}
    assert found() == set()


# Options of the remote


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"bucket": "media"},
            "Invalid setting 'bucket' for S3Storage. Did you mean 'bucket_name'?",
        ),
        ({"BUCKET_NAME": "media"}, "Did you mean 'bucket_name'?"),
        ({"xyzzy": 1}, "Invalid setting 'xyzzy' for S3Storage. See"),
    ],
)
@pytest.mark.parametrize("is_alias", [False, True])
def test_unknown_option_of_the_remote(
    settings: Settings, options: dict[str, Any], says: str, is_alias: bool
) -> None:
    entry = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"s3": entry}
    with_default(settings, remote="s3" if is_alias else entry, url_mode="direct")
    assert found() == {"E004"}
    assert says in messages("E004")


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("ftp.FTPStorage", "location"),
        ("sftpstorage.SFTPStorage", "host"),
        ("azure_storage.AzureStorage", "azure_container"),
        ("gcloud.GoogleCloudStorage", "bucket_name"),
        ("dropbox.DropboxStorage", "root_path"),
    ],
)
def test_options_are_known_without_the_library(
    settings: Settings, path: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"storages.backends.{path.partition('.')[0]}"
    before = module in sys.modules
    remote = {"BACKEND": f"storages.backends.{path}", "OPTIONS": {option: "x"}}
    with_default(settings, remote=remote, url_mode="direct")
    assert found() == set()
    assert (module in sys.modules) == before


# Secrets


def said_of(storage: Any) -> str:
    """What the check says of a model that is given this storage."""
    with isolate_apps("tests.support.testapp") as apps, pytest.MonkeyPatch.context() as patch:

        class Report(models.Model):
            file = models.FileField(storage=storage)

            class Meta:
                app_label = "testapp"

            def __str__(self) -> str:
                return str(self.file)

        patch.setattr(secrets, "apps", apps)
        return messages("E020")


SECRET = {"access_key": "k", "secret_key": "hunter2"}
INLINE = {
    "instance": lambda: {"remote": S3Storage(bucket_name="b", **SECRET)},
    "options": lambda: {"remote": FILES, "remote_options": SECRET},
    "dictionary": lambda: {"remote": {"BACKEND": FILES, "OPTIONS": SECRET}},
    "mirror": lambda: {"remote": "far", "mirrors": [{"BACKEND": FILES, "OPTIONS": SECRET}]},
}


@pytest.mark.parametrize("options", INLINE.values(), ids=INLINE)
def test_secret_that_makemigrations_would_write(options: Any) -> None:
    storage = QueuedStorage("disk", **options(), alias="reports")
    text = said_of(storage)
    assert "testapp.Report.file: its storage is given with 'access_key', 'secret_key'" in text
    assert "give the field a function" in text
    assert "hunter2" not in text
    assert said_of(lambda: storage) == ""


def test_password_in_a_url_is_a_secret() -> None:
    remote = {"BACKEND": FILES, "OPTIONS": {"location": "ftp://me:hunter2@host/"}}
    assert "given with 'location'" in said_of(QueuedStorage("disk", remote, alias="reports"))


def test_storage_without_secrets_may_be_inline() -> None:
    remote = S3Storage(bucket_name="b", endpoint_url="https://s3.example/")
    assert said_of(QueuedStorage("disk", remote, alias="reports")) == ""
    assert said_of(S3Storage(bucket_name="b", **SECRET)) == ""  # not of this package


# URLs of local copies

SERVED = SimpleNamespace(urlpatterns=[path("files/<path:name>", lambda request, name: None)])


def test_media_url_that_is_not_set(settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_URL = ""
    local = FileSystemStorage(tmp_path)
    with_default(settings, local=local)
    assert found() == {"W012"}
    assert "Set MEDIA_URL, for example to 'media/'" in messages("W012")
    with_default(settings, local=local, url_mode="stable")
    assert found() == set()


def test_media_url_that_the_urlconf_does_not_serve(settings: Settings) -> None:
    assert found() == set()
    settings.DEBUG = True
    assert found() == {"W013"}
    assert "'/media/', which the URLconf does not serve" in messages("W013")
    settings.ROOT_URLCONF = tuple(static("/media/", document_root="/srv"))
    assert found() == set()


def test_media_url_in_production(settings: Settings, tmp_path: Path) -> None:
    """Django's static() does nothing there, so it doesn't count during development either."""
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"DEPLOYMENT": "production"}
    assert found(deploy=True) == {"W014"}
    settings.DEBUG = True
    settings.ROOT_URLCONF = tuple(static("/media/", document_root="/srv"))
    assert found(deploy=True) == {"W014"}
    assert found() == set()
    shown = run_checks(tags=["queued_storage"], include_deployment_checks=True)
    [hint] = [str(each.hint) for each in shown if each.id == "queued_storage.W014"]
    assert hint.endswith("quickstart.html#go-to-production")  # which has the web server


def test_own_view_serves_media_in_production(settings: Settings, tmp_path: Path) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"DEPLOYMENT": "production"}
    settings.ROOT_URLCONF = tuple(SERVED.urlpatterns)
    with_default(settings, local=FileSystemStorage(tmp_path, base_url="/files/"))
    assert found(deploy=True) == set()
    with_default(settings, local=FileSystemStorage(tmp_path, base_url="https://cdn.example/"))
    assert found(deploy=True) == set()


# Production


def test_deploy_warns_on_a_development_machine(settings: Settings, tmp_path: Path) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with_default(settings, remote=s3(), local=outside(tmp_path))
    in_production = {"W001", "W005"}
    settings.DEBUG = True
    assert not found() & in_production
    assert found(deploy=True) >= {*in_production, "W010", "W014"}
    settings.DEBUG = False
    assert found() == in_production
    given = run_checks(tags=["queued_storage"], include_deployment_checks=True)
    assert len({(message.id, message.msg) for message in given}) == len(given)


# Hints


def test_every_hint_is_a_link(settings: Settings, tmp_path: Path) -> None:
    settings.DEBUG = True
    settings.QUEUED_STORAGE = {"CACHE": "nowhere", "QUEUE": "nowhere", "PERMISSION": "no.where"}
    with_default(settings, remote=s3(), task="nowhere")
    shown = run_checks(tags=["queued_storage"], include_deployment_checks=True)
    assert len(shown) > 5
    assert all(DOCS in str(message.hint) for message in shown)
