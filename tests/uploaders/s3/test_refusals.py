"""Requests that an S3 server refuses, and names and contents that it treats in its own way."""

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.exceptions import NameTooLong
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import Remote
from queued_storage.operations import errands
from queued_storage.remotes.refusals_s3 import ADVICE, S3Refusal
from queued_storage.transfers import work
from queued_storage.uploaders.s3 import PlainS3Uploader, S3Uploader
from tests.support.scripted import file, make, read, row
from tests.support.services import S3Server
from tests.support.strict_proxy import StrictProxy

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[StrictProxy]:
    with StrictProxy(s3_server, status=403, code="AccessDenied") as strict:
        yield strict


@pytest.fixture
def remote(s3_server: S3Server, s3_bucket: str, proxy: StrictProxy) -> S3Storage:
    return S3Storage(**s3_server.options(s3_bucket, proxy.endpoint_url))


@pytest.fixture(params=[S3Uploader, PlainS3Uploader])
def uploader(request: pytest.FixtureRequest) -> str:
    return f"{request.param.__module__}.{request.param.__qualname__}"


# Refusals


def test_refused_head_says_what_to_grant(
    remote: S3Storage, proxy: StrictProxy, uploader: str
) -> None:
    storage = make(remote=remote, uploader=uploader)
    name = storage.save("a.txt", file())
    proxy.methods = {"HEAD", "GET"}
    [error] = storage.queue.deliver().values()
    assert isinstance(error, ClientError)
    text = row(storage, name).last_error
    for words in ("The words of AccessDenied", "s3:GetObject", "s3:ListBucket", "check-remote"):
        assert words in text
    proxy.methods = set()
    storage.transfer(name)
    assert storage.queue.deliver() == {}


@pytest.mark.parametrize("code", ADVICE)
def test_refused_head_says_what_is_wrong(remote: S3Storage, proxy: StrictProxy, code: str) -> None:
    storage = make(remote=remote)
    name = storage.save("a.txt", file())
    proxy.methods, proxy.code = {"HEAD", "GET"}, code
    storage.queue.deliver()
    text = row(storage, name).last_error
    assert f"The words of {code}" in text
    assert ADVICE[code] in text
    assert "Grant" not in text


def test_refused_head_only(remote: S3Storage, proxy: StrictProxy) -> None:
    storage = make(remote=remote)
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    proxy.methods = {"HEAD"}
    assert errands.evict(ledger().filter(alias=storage.alias)) == 0
    assert "allow HEAD requests too" in row(storage, name).last_error


def test_missing_permission_to_list(
    s3_client: Any, s3_bucket: str, remote: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers 403 to both requests for a missing object, and allows other requests."""

    def refuse(**kwargs: Any) -> Any:
        raise ClientError(
            {
                "Error": {"Code": "AccessDenied", "Message": "Access Denied"},
                "ResponseMetadata": {"HTTPStatusCode": 403},
            },
            "ListObjectsV2",
        )

    client = remote.connection.meta.client
    for method in ("head_object", "get_object", "list_objects_v2"):
        monkeypatch.setattr(client, method, refuse)
    with pytest.raises(ClientError, match="s3:ListBucket on the bucket"):
        S3Uploader(remote).exists("a.txt")


def test_wrong_keys_are_named(s3_server: S3Server, s3_bucket: str) -> None:
    options = s3_server.options(s3_bucket) | {"access_key": "nobody", "secret_key": "none"}
    storage = make(remote=S3Storage(**options))
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, S3Refusal)
    assert row(storage, name).last_error == ""
    text = Remote.objects.get().last_error
    assert "InvalidAccessKeyId" in text
    assert "'access_key'" in text
    assert "nobody" not in text


def test_refused_upload_says_what_to_grant(remote: S3Storage, proxy: StrictProxy) -> None:
    storage = make(remote=remote)
    name = storage.save("a.txt", file())
    proxy.methods = {"PUT"}
    storage.queue.deliver()
    assert row(storage, name).last_error == ""
    text = Remote.objects.get().last_error
    assert "s3:PutObject" in text
    assert "check-remote" in text


def test_refused_reading_says_what_to_grant(remote: S3Storage, proxy: StrictProxy) -> None:
    storage = make(remote=remote)
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1
    proxy.methods = {"HEAD", "GET"}
    with pytest.raises(ClientError, match="Grant s3:GetObject"):
        storage.open(name)


def test_missing_objects_are_no_refusals(remote: S3Storage) -> None:
    assert not S3Uploader(remote).exists("a.txt")
    with pytest.raises(FileNotFoundError):
        make(remote=remote).open("a.txt")


# Long keys

LONG = "/".join(["ä" * 100] * 6).encode()  # 1,205 bytes, in 605 characters


@pytest.mark.parametrize("location", ["", "x" * 500])
def test_too_long_key_fails_at_once(
    remote: S3Storage, proxy: StrictProxy, location: str, uploader: str, settings: Settings
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "RETRIES": 9}
    remote.location = location
    storage = make(remote=remote, uploader=uploader)
    length = 1025 - len(location) - bool(location)
    name = LONG[: length - 2].decode(errors="ignore")
    name += "b" * (length - len(name.encode()))
    assert storage.save(name, file()) == name
    [error] = storage.queue.deliver().values()
    assert isinstance(error, NameTooLong)
    found = row(storage, name)
    assert (found.state, found.attempts) == (State.FAILED, 1)
    assert "1,025 bytes" in found.last_error
    assert "1,024" in found.last_error
    assert proxy.requests == []
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None


def test_longest_key_is_transferred(remote: S3Storage) -> None:
    storage = make(remote=remote)
    name = f"{LONG[:1000].decode()}/{'c' * 23}"
    storage.save(name, file())
    assert storage.queue.deliver() == {}
    assert len(row(storage, name).remote_name.encode()) == 1024


def test_too_long_key_that_was_reserved(remote: S3Storage) -> None:
    storage = make(remote=remote)
    name = storage.save(LONG.decode(), file())
    ledger().filter(name=name).update(remote_name=name)
    storage.queue.deliver()
    assert row(storage, name).state == State.FAILED
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storage.queued_file(name) is None


# Compressed files


# S3File leaves its own open
unclosed = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")
NAMES = ["drawing.svgz", "archive.gz", "site.css.gz", "log.txt.gz", "page.css", "picture.svg"]


@unclosed
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compresses", [True, False])
def test_compressed_files_arrive_and_return(
    s3_options: dict[str, Any], s3_client: BaseClient, s3_bucket: str, name: str, compresses: bool
) -> None:
    data = b"<svg>" + b"every byte of it" * 1000
    if name.endswith("z"):
        data = gzip.compress(data)
    remote = S3Storage(**s3_options | {"gzip": compresses})
    alone = remote.save(f"alone/{name}", file(data))
    storage = make(remote=remote)
    storage.save(name, file(data))
    assert storage.queue.deliver() == {}
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1
    assert read(storage, name) == data
    client: Any = s3_client
    ours, theirs = (client.get_object(Bucket=s3_bucket, Key=key) for key in (name, alone))
    assert ours["Body"].read() == theirs["Body"].read()
    assert ours.get("ContentEncoding") == theirs.get("ContentEncoding")
    assert ours["ContentType"] == theirs["ContentType"]
    assert errands.restore(ledger().filter(alias=storage.alias)) == 1
    assert read(storage.local, name) == data


@pytest.mark.parametrize("limit", [0, 10_000_000])
def test_encoding_of_the_project_is_kept(s3_options: dict[str, Any], limit: int) -> None:
    options = {"gzip": True, "object_parameters": {"ContentEncoding": "gzip"}}
    remote = S3Storage(**s3_options | options | {"max_memory_size": limit})
    storage = make(remote=remote)
    data = gzip.compress(b"every byte of it")
    storage.save("a.css", file(data))
    assert storage.queue.deliver() == {}
    assert errands.evict(ledger().filter(alias=storage.alias)) == 1
    assert read(storage, "a.css") == data


@pytest.mark.parametrize("options", [{"gzip": True}, {}])
def test_storages_with_their_own_save(
    remote: S3Storage, proxy: StrictProxy, options: dict[str, Any]
) -> None:
    storage = make(remote=remote, uploader="queued_storage.uploaders.generic.GenericUploader")
    for option, value in options.items():
        setattr(remote, option, value)
    remote.location = "x" * 500
    long = storage.save(LONG.decode(), file())
    storage.queue.deliver()
    assert (row(storage, long).state, row(storage, long).attempts) == (State.FAILED, 1)
    assert proxy.requests == []
    proxy.methods = {"HEAD", "GET"}
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert "s3:ListBucket" in row(storage, name).last_error


@pytest.mark.parametrize("methods", [{"PUT"}, {"HEAD", "GET"}])
def test_server_with_a_lower_limit(
    remote: S3Storage, proxy: StrictProxy, methods: set[str]
) -> None:
    proxy.status, proxy.code, proxy.methods = 400, "KeyTooLongError", methods
    storage = make(remote=remote)
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert isinstance(error, NameTooLong)
    assert row(storage, name).state == State.FAILED


def test_reason_of_a_bad_request(remote: S3Storage, proxy: StrictProxy) -> None:
    proxy.status, proxy.code, proxy.methods = 400, "ExpiredToken", {"HEAD", "GET"}
    storage = make(remote=remote)
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert "The words of ExpiredToken" in row(storage, name).last_error
    assert ADVICE["ExpiredToken"] in row(storage, name).last_error
    proxy.code = "OddRequest"
    storage.transfer(name)
    storage.queue.deliver()
    assert "The words of OddRequest" in row(storage, name).last_error


def test_attempts_of_long_keys_are_not_repeated(remote: S3Storage) -> None:
    storage = make(remote=remote)
    name = storage.save(LONG.decode(), file())
    storage.queue.deliver()
    assert work.run(row(storage, name).pk) is None
