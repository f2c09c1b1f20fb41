import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage, default_storage
from django.core.files.storage import storages as configured
from django.utils.deconstruct import deconstructible
from storages.backends.ftp import FTPStorage
from storages.backends.s3 import S3Storage

from queued_storage.remotes.perthread import for_threads
from queued_storage.remotes.places import (
    are_apart,
    has_fixed_place,
    holds,
    place_of,
    same_place,
)
from queued_storage.testing import FaultyStorage

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


def s3(**options: Any) -> S3Storage:
    return S3Storage(bucket_name="media", **options)


def fake(path: str, **attributes: Any) -> Any:
    """A storage whose class has this dotted path, since its library is not installed."""
    module, _dot, name = path.rpartition(".")
    cls = type(name, (Storage,), {"__module__": module, "__qualname__": name})
    storage = cls()
    vars(storage).update(attributes)
    return storage


def azure(**attributes: Any) -> Any:
    given = {
        "account_name": "acme",
        "endpoint_suffix": "core.windows.net",
        "azure_container": "media",
        "connection_string": None,
        "location": "",
    }
    return fake("storages.backends.azure_storage.AzureStorage", **given | attributes)


def sftp(**attributes: Any) -> Any:
    given = {"host": "files.example", "params": {"username": "bob"}, "root_path": "/srv/media/"}
    return fake("storages.backends.sftpstorage.SFTPStorage", **given | attributes)


def google(**attributes: Any) -> Any:
    given = {"bucket_name": "media", "location": "", "project_id": "a", "credentials": None}
    return fake("storages.backends.gcloud.GoogleCloudStorage", **given | attributes)


def ftp(location: str) -> FTPStorage:
    return FTPStorage(location=location)


ACME = "AccountName=acme;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net"
URL = "https://acme.blob.core.windows.net"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (s3(), s3(region_name="eu-west-1", access_key="a", secret_key="b", gzip=True)),
        (s3(), s3(default_acl="private", custom_domain="cdn.example", querystring_auth=False)),
        (s3(location="a/b"), s3(location="a//b/")),
        (s3(), s3(endpoint_url="https://s3.eu-west-1.amazonaws.com")),
        (
            s3(endpoint_url="http://127.0.0.1:9000"),
            s3(endpoint_url="http://LOCALHOST:9000/", use_ssl=False),
        ),
        (s3(endpoint_url="https://r2.example"), s3(endpoint_url="https://r2.example:443")),
        (azure(), azure(connection_string=ACME, account_name=None)),
        (azure(), azure(connection_string=f"BlobEndpoint={URL}/;SharedAccessSignature=sv=1&sig=x")),
        (azure(), azure(custom_domain="cdn.example", sas_token="sig")),
        (google(), google(project_id="b", credentials=object())),
        (sftp(), sftp(params={"username": "bob", "password": "x", "port": 22})),
        (
            ftp("ftp://bob:one@files.example:21/media"),
            ftp("ftps://bob:two@FILES.example:21/media/"),
        ),
    ],
)
def test_same_place_by_other_options(one: Any, other: Any) -> None:
    assert same_place(place_of(one), place_of(other))
    assert not are_apart(place_of(one), place_of(other))
    assert place_of(one).description == place_of(other).description


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (s3(), S3Storage(bucket_name="other")),
        (s3(location="a"), s3(location="ab")),
        (s3(), s3(endpoint_url="https://r2.example")),
        (s3(endpoint_url="http://127.0.0.1:9000"), s3(endpoint_url="http://127.0.0.1:9001")),
        (azure(), azure(account_name="other")),
        (azure(), azure(azure_container="other")),
        (azure(), azure(endpoint_suffix="core.chinacloudapi.cn")),
        (google(), google(bucket_name="other")),
        (google(location="a"), google(location="b")),
        (sftp(), sftp(params={"username": "eve"})),
        (sftp(), sftp(params={"username": "bob", "port": 2222})),
        (sftp(root_path="/srv/a"), sftp(root_path="/srv/ab")),
        (sftp(root_path="/srv"), sftp(root_path="srv")),
        (ftp("ftp://bob:x@a.example:21/m"), ftp("ftp://bob:x@b.example:21/m")),
        (InMemoryStorage(), InMemoryStorage()),
        (s3(), google()),
    ],
)
def test_different_places(one: Any, other: Any) -> None:
    assert are_apart(place_of(one), place_of(other))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (s3(), s3(location="archive")),
        (s3(location="a"), s3(location="a/b")),
        (sftp(root_path="/"), sftp(root_path="/srv")),
        (sftp(root_path=""), sftp(root_path="media")),
        (azure(), azure(location="x")),
        (google(location="x"), google(location="x/y")),
    ],
)
def test_place_inside_another(outer: Any, inner: Any) -> None:
    assert holds(place_of(outer), place_of(inner))
    assert not holds(place_of(inner), place_of(outer))
    assert not are_apart(place_of(inner), place_of(outer))


def test_endpoint_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio.example:9000")
    assert same_place(place_of(s3()), place_of(s3(endpoint_url="http://minio.example:9000")))


def test_descriptions_contain_no_secret() -> None:
    secret = "S3cr3t"
    made = [
        s3(access_key="a", secret_key=secret, security_token=secret),
        azure(connection_string=f"AccountName=acme;AccountKey={secret}", account_key=secret),
        azure(connection_string=f"BlobEndpoint={URL};SharedAccessSignature=sig={secret}"),
        sftp(params={"username": "bob", "password": secret}),
        ftp(f"ftp://bob:{secret}@files.example:21/media"),
        ftp(f"ftp://bob:a:{secret}@files.example:21/media"),
    ]
    for storage in made:
        assert secret not in repr(place_of(storage)) + place_of(storage).description


# Directories


class Sub(FileSystemStorage):
    pass


class Elsewhere(FileSystemStorage):
    """A subclass that ignores its location."""

    directory = ""

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)


class Wrapper(Storage):
    """A storage that passes its calls on to another one."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_ways_to_one_directory(disk: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk)
    elsewhere = Elsewhere(tmp_path / "other")
    elsewhere.directory = str(disk)
    ways = [
        FileSystemStorage(f"{disk}/../disk/"),
        FileSystemStorage(link),
        Sub(disk, base_url="/other/"),
        elsewhere,
        Wrapper(Wrapper(Sub(disk))),
    ]
    for storage in ways:
        assert same_place(place_of(FileSystemStorage(disk)), place_of(storage)), storage


def test_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    one, other = tmp_path / "new", tmp_path / "link" / "new"
    assert same_place(place_of(FileSystemStorage(one)), place_of(FileSystemStorage(other)))


def test_directory_inside_another(disk: Path, tmp_path: Path) -> None:
    outer = place_of(FileSystemStorage(disk))
    (tmp_path / "deep").symlink_to(disk / "deep")
    for inner in (disk / "remote", disk / "a" / "b", tmp_path / "deep"):
        assert holds(outer, place_of(FileSystemStorage(inner)))
    assert are_apart(outer, place_of(FileSystemStorage(f"{disk}-2")))


def test_storage_that_spreads_its_files_over_directories(disk: Path) -> None:
    class Spread(FileSystemStorage):
        def path(self, name: str) -> str:
            return super().path(f"{hash(name) % 7}/{name}x")

    assert place_of(Spread(disk)).root == str(disk)


# Other storages


@deconstructible
class Custom(Storage):
    def __init__(self, server: str, password: str = "") -> None:
        self.server = server


class Opaque(Storage):
    def __init__(self, client: object) -> None:
        self.client = client


def test_storages_without_a_rule() -> None:
    assert same_place(place_of(Custom("a", "one")), place_of(Custom("a", password="two")))
    assert are_apart(place_of(Custom("a")), place_of(Custom("b")))
    opaque = Opaque(SimpleNamespace())
    assert same_place(place_of(opaque), place_of(opaque))
    assert are_apart(place_of(opaque), place_of(Opaque(SimpleNamespace())))


def test_storage_that_names_its_place() -> None:
    one, other = s3(location="a"), s3(location="b")
    one.queued_storage_place = other.queued_storage_place = "tenants"
    assert same_place(place_of(one), place_of(other))


def test_one_memory_is_one_place() -> None:
    memory = InMemoryStorage()
    assert same_place(place_of(memory), place_of(memory))
    assert same_place(place_of(memory), place_of(FaultyStorage(memory)))
    assert are_apart(place_of(FaultyStorage()), place_of(FaultyStorage()))


def test_wrapped_storages() -> None:
    connected = ftp("ftp://bob:x@files.example:21/media")
    assert place_of(for_threads(connected)) == place_of(connected)
    assert place_of(default_storage) == place_of(configured["default"])


# Threads


class PlainS3(S3Storage):
    location = "media"
    bucket_name = "media"


class TenantS3(S3Storage):
    @property
    def location(self) -> str:
        return "public"


class TenantMixin:
    @property
    def base_location(self) -> str:
        return "/srv/public"


class Mixed(TenantMixin, FileSystemStorage):
    pass


class Constant(TenantS3):
    queued_storage_place = "one bucket"


class Varying(TenantS3):
    @property
    def queued_storage_place(self) -> str:
        return self.location


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (s3(), True),
        (PlainS3(), True),
        (FileSystemStorage("/srv"), True),
        (Sub("/srv"), True),
        (ftp("ftp://bob:x@files.example:21/media"), True),
        (for_threads(ftp("ftp://bob:x@files.example:21/media")), True),
        (Wrapper(s3()), True),
        (azure(), True),
        (Constant.__new__(Constant), True),
        (TenantS3.__new__(TenantS3), False),
        (Varying.__new__(Varying), False),
        (Mixed("/srv"), False),
        (Elsewhere("/srv"), False),
        (Custom("a"), False),
        (Opaque(None), False),
    ],
)
def test_places_that_no_thread_can_change(storage: Any, expected: bool) -> None:
    assert has_fixed_place(storage) is expected
