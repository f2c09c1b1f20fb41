"""Large objects that the server copies when they are moved between two of its buckets."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from django.core.files.storage import FileSystemStorage
from storages.backends.s3 import S3Storage

from queued_storage.ledger.aliases import registry
from queued_storage.ledger.database import ledger
from queued_storage.operations import moving
from queued_storage.uploaders.s3 import copying
from queued_storage.uploaders.s3.uploader import S3Uploader
from tests.support.scripted import disk, file, make, row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

CONTENT = b"every byte of it" * 100_000
OLD, NEW = "old", "new/place"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    copying._refused.clear()
    yield
    copying._refused.clear()


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that were read."""
    found: list[str] = []
    read = S3Uploader.read_back

    def spy(self: S3Uploader, name: str) -> Iterator[bytes]:
        found.append(name)
        return read(self, name)

    monkeypatch.setattr(S3Uploader, "read_back", spy)
    return found


def transferred(options: dict[str, Any], name: str = "a.txt", data: bytes = CONTENT) -> Any:
    """A storage whose remote is a directory of the bucket with a file, which is nowhere else."""
    storage = make(alias="copied", remote=S3Storage(**options, location=OLD))
    storage.save(name, file(data))
    assert storage.queue.deliver() == {}
    disk().delete(name)
    ledger().filter(alias=storage.alias).update(is_local=False)
    return storage


def successor(storage: Any, options: dict[str, Any], **more: Any) -> Any:
    registry.reset(keep=[])  # as in a process that was started with the new settings
    remote = S3Storage(**options, location=NEW, **more)
    return make(alias="copied", remote=remote, previous=[storage.remote])


def test_an_object_is_copied_as_the_new_storage_would_store_it(
    s3_options: dict[str, Any], s3_client: BaseClient, read_back: list[str]
) -> None:
    storage = transferred(s3_options)
    storage = successor(storage, s3_options, object_parameters={"CacheControl": "max-age=9"})
    assert moving.move(storage) == 1
    assert read_back == []
    found: Any = s3_client.get_object(Bucket=storage.remote.bucket_name, Key=f"{NEW}/a.txt")
    assert found["Body"].read() == CONTENT
    assert (found["CacheControl"], found["ContentType"]) == ("max-age=9", "text/plain")
    assert row(storage, "a.txt").verified == "checksum"
    assert row(storage, "a.txt").place == storage.remote_place.digest


def test_other_bytes_than_those_of_the_ledger_are_not_copied(
    s3_options: dict[str, Any], read_back: list[str]
) -> None:
    storage = transferred(s3_options)
    old = storage.remote
    old.delete("a.txt")
    old.save("a.txt", file(bytes(len(CONTENT))))
    storage = successor(storage, s3_options)
    assert moving.move(storage) == 0
    assert read_back == ["a.txt"]  # which shows what is wrong with them
    assert row(storage, "a.txt").place != storage.remote_place.digest
    assert not storage.remote.exists("a.txt")


@pytest.mark.parametrize("status", [400, 403, 501])
def test_bytes_are_sent_if_the_server_refuses_to_copy(
    s3_options: dict[str, Any], read_back: list[str], status: int
) -> None:
    storage = transferred(s3_options)
    storage = successor(storage, s3_options)
    copies = []

    def refuse(request: Any, **kwargs: Any) -> AWSResponse | None:
        if "x-amz-copy-source" not in request.headers:
            return None
        copies.append(request.url)
        raw = Raw(b"<Error><Code>Refused</Code><Message>no</Message></Error>")
        return AWSResponse(request.url, status, {}, raw)

    events = storage.remote.connection.meta.client.meta.events
    events.register("before-send.s3.CopyObject", refuse)
    assert moving.move(storage) == 1
    assert read_back == ["a.txt"]
    with storage.remote.open("a.txt") as opened:
        assert opened.read() == CONTENT
    assert len(copies) == 1
    assert not copying.is_possible(storage.sides.previous[0].storage, storage.remote, 10)


class Raw:
    """The body of a response that no server sent."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, **kwargs: Any) -> Iterator[bytes]:
        yield self._data

    def read(self, *args: Any) -> bytes:
        return self._data


def test_an_object_of_somebody_else_is_left_alone(
    s3_options: dict[str, Any], read_back: list[str]
) -> None:
    storage = transferred(s3_options)
    storage = successor(storage, s3_options)
    storage.remote.save("a.txt", file(b"of somebody else"))
    assert moving.move(storage) == 1
    found = row(storage, "a.txt")
    assert found.remote_name != "a.txt"
    with storage.remote.open("a.txt") as foreign, storage.open("a.txt") as own:
        assert (foreign.read(), own.read()) == (b"of somebody else", CONTENT)
    assert read_back == []


def test_a_small_object_is_read_and_sent(
    s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "copy", None)
    storage = successor(transferred(s3_options, data=b"small"), s3_options)
    assert moving.move(storage) == 1


@pytest.mark.parametrize(
    ("source", "target", "size", "answer"),
    [
        ({}, {}, 10, True),
        ({}, {"bucket_name": "other"}, 10, True),
        ({}, {}, 6 * 1024**3, False),
        ({}, {"endpoint_url": "https://other.example"}, 10, False),
        ({}, {"region_name": "eu-west-1"}, 10, False),
        ({}, {"access_key": "of another account"}, 10, False),
        ({"object_parameters": {"SSECustomerKey": "k"}}, {}, 10, False),
        ({}, {"object_parameters": {"SSECustomerKey": "k"}}, 10, False),
    ],
)
def test_what_a_server_is_asked_to_copy(
    source: dict[str, Any], target: dict[str, Any], size: int, answer: bool
) -> None:
    common = {
        "bucket_name": "bucket",
        "access_key": "key",
        "secret_key": "secret",
        "endpoint_url": "https://s3.example",
    }
    remotes = S3Storage(**common | source), S3Storage(**common | target)
    assert copying.is_possible(*remotes, size) is answer


def test_other_storages_are_not_asked() -> None:
    remote = S3Storage(bucket_name="bucket")
    assert not copying.is_possible(FileSystemStorage("/tmp"), remote, 10)
