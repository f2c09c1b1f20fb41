"""The places of storages, and the names of one file in two of them."""

import types
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage
from storages.backends.s3 import S3Storage

from queued_storage.testing import FaultyStorage
from queued_storage.transfers.places import Place, place_of


def s3(**options: Any) -> S3Storage:
    return S3Storage(**{"bucket_name": "media", "access_key": "a", "secret_key": "b"} | options)


def file_system(location: Path) -> FileSystemStorage:
    return FileSystemStorage(location)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"access_key": "c"},
        {"default_acl": "private"},
        {"endpoint_url": "https://s3.eu-central-1.amazonaws.com"},
        {"custom_domain": "cdn.example"},
    ],
    ids=str,
)
def test_storages_of_one_bucket_share_it(options: dict[str, Any]) -> None:
    assert place_of(s3(**options)).name_in(place_of(s3()), "a.txt") == "a.txt"


@pytest.mark.parametrize(
    "options", [{"bucket_name": "other"}, {"endpoint_url": "https://minio.example"}], ids=str
)
def test_other_buckets_are_other_places(options: dict[str, Any]) -> None:
    assert place_of(s3(**options)).name_in(place_of(s3()), "a.txt") is None


def test_names_follow_from_nested_folders() -> None:
    outer, inner = place_of(s3()), place_of(s3(location="users/"))
    beside = place_of(s3(location="user"))
    assert inner.name_in(outer, "a.txt") == "users/a.txt"
    assert outer.name_in(inner, "users/d/a.txt") == "d/a.txt"
    assert outer.name_in(inner, "other/a.txt") is None
    assert inner.name_in(beside, "a.txt") is None


def test_a_link_leads_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    link, real, top = (place_of(file_system(tmp_path / each)) for each in ("link", "real", ""))
    assert link.name_in(real, "a.txt") == "a.txt"
    assert link.name_in(top, "a.txt") == "real/a.txt"


def test_each_memory_is_a_place() -> None:
    one = InMemoryStorage()
    assert place_of(one).name_in(place_of(one), "a.txt") == "a.txt"
    assert place_of(one).name_in(place_of(InMemoryStorage()), "a.txt") is None


def test_a_wrapper_has_the_place_of_what_it_wraps() -> None:
    one = InMemoryStorage()
    assert place_of(FaultyStorage(one)) == place_of(one)


class Opaque(Storage):
    """A storage that shows nothing of its options."""

    def __init__(self, key: str) -> None:
        self.key = key


def test_in_doubt_a_place_is_shared() -> None:
    assert place_of(Opaque("one")) == place_of(Opaque("two"))


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("gcloud.GoogleCloudStorage", {"bucket_name": "a"}, {"bucket_name": "b"}),
        ("azure_storage.AzureStorage", {"azure_container": "a"}, {"azure_container": "b"}),
        ("sftpstorage.SFTPStorage", {"host": "a"}, {"host": "b"}),
        ("ftp.FTPStorage", {"location": "ftp://u:p@a:21/"}, {"location": "ftp://u:p@b:21/"}),
    ],
)
def test_known_classes(path: str, one: dict[str, str], other: dict[str, str]) -> None:
    """Their libraries may not be installed."""
    module, name = path.split(".")
    attributes = {"__module__": f"storages.backends.{module}", "__init__": _init}
    made: Any = types.new_class(name, (Storage,), exec_body=lambda ns: ns.update(attributes))
    first, second, third = made(**one), made(**one), made(**other)
    assert place_of(first) == place_of(second)
    assert place_of(first).name_in(place_of(third), "a.txt") is None


def _init(self: Any, **options: Any) -> None:
    defaults = {"location": "", "account_name": "x", "custom_domain": None, "root_path": ""}
    vars(self).update({**defaults, "params": {}} | options)


def test_a_password_is_no_part_of_a_place() -> None:
    made: Any = types.new_class(
        "FTPStorage",
        (Storage,),
        exec_body=lambda ns: ns.update({"__module__": "storages.backends.ftp", "__init__": _init}),
    )
    found = place_of(made(location="ftp://user:secret@host:2121/root/"))
    assert found == Place(("ftp", "user", "host", "2121"), "root")
