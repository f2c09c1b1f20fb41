"""Small objects that obstore reads, and those that it leaves to boto3."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from django.core.files.storage import FileSystemStorage
from storages.backends.s3 import S3Storage

from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.s3 import fetching
from queued_storage.uploaders.s3.bucket import Bucket
from queued_storage.uploaders.s3.uploader import PlainS3Uploader, S3Uploader
from tests.support.scripted import file

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]
obstore = pytest.importorskip("obstore")

CONTENT = b"every byte of it"
SIZE = len(CONTENT)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what obstore has read."""
    found: list[str] = []
    fetch = fetching.Fetcher.fetch

    def spy(self: fetching.Fetcher, bucket: Bucket, key: str, size: int) -> bytes | None:
        data = fetch(self, bucket, key, size)
        if data is not None:
            found.append(key)
        return data

    monkeypatch.setattr(fetching.Fetcher, "fetch", spy)
    return found


def warm(options: dict[str, Any], cls: type[S3Storage] = S3Storage) -> S3Storage:
    """A storage from whose bucket boto3 has read an object."""
    remote = cls(**options)
    remote.save("a.txt", file(CONTENT))
    assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    return remote


def test_the_second_object_is_read_by_obstore(
    s3_options: dict[str, Any], fetched: list[str]
) -> None:
    remote = warm(s3_options | {"location": "media/ü b"})
    assert fetched == []
    for name in ("a.txt", "d/ü b#?%+&=😀~.txt", "empty.txt"):
        data = b"" if name == "empty.txt" else CONTENT + name.encode()
        if name != "a.txt":
            remote.save(name, file(data))
        expected = data if name != "a.txt" else CONTENT
        assert S3Uploader(remote).read_small(name, len(expected)) == expected
    assert [key.removeprefix("media/ü b/") for key in fetched] == [
        "a.txt",
        "d/ü b#?%+&=😀~.txt",
        "empty.txt",
    ]


def test_other_threads_need_no_client(s3_options: dict[str, Any], fetched: list[str]) -> None:
    """To make one takes as long as to read a hundred objects."""
    remote = warm(s3_options)
    clients: list[bool] = []

    def read() -> None:
        assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
        clients.append(hasattr(remote._connections, "connection"))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert (fetched, clients) == (["a.txt"], [False])


class OfThread(S3Storage):
    """A storage whose clients may differ from thread to thread."""

    def _create_session(self) -> Any:
        return super()._create_session()


def test_threads_whose_clients_may_differ(s3_options: dict[str, Any], fetched: list[str]) -> None:
    remote = warm(s3_options, OfThread)
    thread = threading.Thread(target=lambda: S3Uploader(remote).read_small("a.txt", SIZE))
    thread.start()
    thread.join()
    assert fetched == []
    assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == ["a.txt"]


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_an_object_of_another_size(
    size: int, s3_options: dict[str, Any], fetched: list[str]
) -> None:
    assert S3Uploader(warm(s3_options)).read_small("a.txt", size) == CONTENT
    assert fetched == []


def test_a_missing_object(s3_options: dict[str, Any], fetched: list[str]) -> None:
    remote = warm(s3_options)
    with pytest.raises(ClientError, match="NoSuchKey"):
        S3Uploader(remote).read_small("missing.txt", SIZE)
    assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == ["a.txt"]  # obstore has no pause after that


def test_a_large_object(s3_options: dict[str, Any], fetched: list[str]) -> None:
    remote = warm(s3_options)
    data = os.urandom(2 * 1024 * 1024)
    remote.save("large.bin", file(data))
    assert S3Uploader(remote).read_small("large.bin", len(data)) == data
    assert fetched == []


def test_an_answer_that_breaks_off(
    s3_options: dict[str, Any], fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 reads what obstore could not, and the next objects."""
    monkeypatch.setattr(fetching, "REST", 1)
    remote = warm(s3_options)
    get, failed = obstore.get, []

    def breaks_off(store: Any, key: str) -> Any:
        if not failed:
            failed.append(key)
            raise obstore.exceptions.GenericError("The connection was reset.")
        return get(store, key)

    monkeypatch.setattr(fetching.fetcher_for(Bucket(remote)), "_get", breaks_off)
    for _number in range(2):
        assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert (failed, fetched) == (["a.txt"], [])
    assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == ["a.txt"]


def test_a_key_of_the_customer(s3_options: dict[str, Any], fetched: list[str]) -> None:
    """It is sent with each request."""
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0" * 32}
    remote = warm(s3_options | {"object_parameters": key})
    assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == []


def test_headers_that_a_hook_of_boto3_adds(
    s3_options: dict[str, Any], fetched: list[str], s3_client: BaseClient
) -> None:
    remote = S3Storage(**s3_options)

    def add(request: Any, **kwargs: Any) -> None:
        request.headers["x-amz-request-payer"] = "requester"

    remote.connection.meta.client.meta.events.register("before-sign.s3.GetObject", add)
    remote.save("a.txt", file(CONTENT))
    for _number in range(2):
        assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == []


def test_the_uploader_without_obstore(s3_options: dict[str, Any], fetched: list[str]) -> None:
    remote = warm(s3_options)
    assert PlainS3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == []


@pytest.mark.parametrize("module", ["obstore", "obstore.store"])
def test_an_installation_that_is_broken(
    module: str, s3_options: dict[str, Any], fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    remote = warm(s3_options)
    assert S3Uploader(remote).read_small("a.txt", SIZE) == CONTENT
    assert fetched == []


def test_of_a_larger_file_only_the_beginning_is_read(tmp_path: Path) -> None:
    remote = FileSystemStorage(tmp_path)
    remote.save("a.txt", file(b"x" * 3 * 1024 * 1024))
    found = uploader_for(remote).read_small("a.txt", 10)
    assert 10 < len(found) < 3 * 1024 * 1024
