"""Uploaders and the verification of uploads, with any storage and with a real S3 server."""

import gzip
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.exceptions import InvalidResult, VerificationError
from queued_storage.files.streams import MeasuredFile, checksum_of
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import Content, State
from queued_storage.runtime import ending
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.uploaders import Uploader, uploader_for
from queued_storage.uploaders.generic import GenericUploader
from queued_storage.uploaders.s3.multipart import config_for_stream
from queued_storage.uploaders.s3.uploader import S3Uploader
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.scripted import Sniff, file, make, make_due, on_disk, read, row
from tests.support.services import S3Server

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

MIB = 1 << 20
Options = dict[str, Any]


@pytest.fixture
def level(settings: Settings) -> Callable[[str], None]:
    def choose(name: str) -> None:
        settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": name}

    return choose


def deliver(storage: Any) -> Exception | None:
    return next(iter(storage.queue.deliver().values()), None)


def keys(client: BaseClient, bucket: str) -> list[str]:
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted(entry["Key"] for entry in found)


def body(client: BaseClient, bucket: str, key: str) -> bytes:
    return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())


# Which uploader


class GzipAlways(S3Storage):
    gzip = True


class OwnSave(S3Storage):
    def _save(self, name: str, content: Any) -> str:
        return str(super()._save(name, content))


class OwnOuterSave(S3Storage):
    def save(self, name: Any, content: Any, max_length: Any = None) -> str:
        return str(super().save(f"renamed/{name}", content, max_length))


class OwnNames(S3Storage):
    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return f"own/{name}"


class OwnParameters(S3Storage):
    def get_object_parameters(self, name: str) -> dict[str, Any]:
        return {"CacheControl": f"max-age={len(name)}"}


def test_s3_storage_and_its_subclasses_are_recognized() -> None:
    assert type(uploader_for(S3Storage())) is S3Uploader
    assert type(uploader_for(OwnParameters())) is S3Uploader


@pytest.mark.parametrize("remote", [GzipAlways, OwnSave, OwnOuterSave, OwnNames])
def test_a_storage_with_its_own_save(remote: type[S3Storage]) -> None:
    assert type(uploader_for(remote())) is GenericUploader


def test_gzip_as_an_option_is_recognized() -> None:
    assert type(uploader_for(S3Storage(gzip=True))) is GenericUploader


@pytest.mark.parametrize("remote", [FileSystemStorage, InMemoryStorage])
def test_other_storages_get_the_generic_uploader(remote: type) -> None:
    assert type(uploader_for(remote())) is GenericUploader


@pytest.mark.parametrize("path", ["no.such.Uploader", "json.dumps", "json.JSONDecoder"])
def test_an_error_names_an_invalid_uploader(path: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=path.rpartition(".")[0]):
        uploader_for(InMemoryStorage(), path)


class Shouting(GenericUploader):
    """For the option `uploader`."""

    def upload(self, name: str, content: MeasuredFile) -> str:
        return super().upload(name.upper(), content)


def test_the_option_uploader() -> None:
    storage = make(uploader="tests.uploaders.test_uploaders.Shouting", task=TransferAndDelete)
    name = storage.save("a.txt", file(b"loud"))
    storage.queue.deliver()
    assert on_disk("far") == ["A.TXT"]
    assert read(storage, name) == b"loud"


class Silent(GenericUploader):
    def verify(self, name: str, sent: Content, level: str) -> Any:
        super().verify(name, sent, level)


@pytest.mark.django_db(transaction=True)
def test_an_uploader_must_return_the_level() -> None:
    storage = make(uploader="tests.uploaders.test_uploaders.Silent")
    for number in range(2):  # the first statement of its form, and another one
        name = storage.save(f"{number}.txt", file())
        [error] = storage.queue.deliver().values()
        assert isinstance(error, InvalidResult)
        assert row(storage, name).state == State.FAILED
        assert "Silent.verify() returned None" in row(storage, name).last_error


def test_an_uploader_without_import_uses_no_attempt() -> None:
    storage = make(uploader="no.such.Uploader")
    name = storage.save("a.txt", file())
    assert isinstance(deliver(storage), ImproperlyConfigured)
    assert (row(storage, name).state, row(storage, name).attempts) == (State.PENDING, 0)


# The generic uploader


def memory(data: bytes) -> tuple[Uploader, Content]:
    """A remote with `data` under the name "a", and the expected content."""
    remote = InMemoryStorage()
    remote.save("a", ContentFile(data))
    return GenericUploader(remote), Content(5, "crc32:3610a686")  # of b"hello"


@pytest.mark.parametrize(
    ("asked", "proved"), [("size", "size"), ("checksum", "size"), ("content", "content")]
)
def test_the_generic_uploader_returns_the_level(asked: str, proved: str) -> None:
    uploader, sent = memory(b"hello")
    assert uploader.verify("a", sent, asked) == proved


@pytest.mark.parametrize("asked", ["size", "checksum", "content"])
@pytest.mark.parametrize("data", [b"", b"hell", b"hello "])
def test_the_generic_uploader_detects_another_size(asked: str, data: bytes) -> None:
    uploader, sent = memory(data)
    with pytest.raises(VerificationError, match="'a'"):
        uploader.verify("a", sent, asked)


def test_the_generic_uploader_detects_other_content() -> None:
    uploader, sent = memory(b"HELLO")
    with pytest.raises(VerificationError, match="checksum"):
        uploader.verify("a", sent, "content")


def test_a_remote_that_closes_or_rewinds_content() -> None:
    class Rude(InMemoryStorage):
        def _save(self, name: str, content: Any) -> str:
            content.read(3)
            content.seek(0)
            saved: str = super()._save(name, content)
            content.close()
            return saved

    storage = make(remote=Rude(), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"once and again"))
    assert deliver(storage) is None
    assert read(storage, name) == b"once and again"


# S3: as S3Storage.save() would


def recorded(remote: S3Storage, act: Callable[[], Any]) -> dict[str, Any]:
    """The parameters of the only object that `act` stores in this thread."""
    found: list[dict[str, Any]] = []
    events = remote.connection.meta.client.meta.events

    def record(params: dict[str, Any], **kwargs: Any) -> None:
        found.append(dict(params))

    for operation in ("PutObject", "CreateMultipartUpload"):
        events.register(f"provide-client-params.s3.{operation}", record)
    act()
    for operation in ("PutObject", "CreateMultipartUpload"):
        events.unregister(f"provide-client-params.s3.{operation}", record)
    [params] = found
    of_this_request = {"Body", "IfNoneMatch"}
    return {key: params[key] for key in params.keys() - of_this_request if "Checksum" not in key}


VARIANTS: dict[str, Options] = {
    "plain": {},
    "prefix": {"location": "media/files"},
    "ACL": {"default_acl": "public-read"},
    "parameters": {
        "object_parameters": {
            "CacheControl": "max-age=86400",
            "ContentDisposition": "attachment",
            "Metadata": {"origin": "test"},
            "StorageClass": "STANDARD",
            "ServerSideEncryption": "AES256",
        }
    },
    "ACL by parameters": {"object_parameters": {"ACL": "private"}, "default_acl": "public-read"},
    "content type by parameters": {"object_parameters": {"ContentType": "text/x-mine"}},
    "no overwriting": {"file_overwrite": False},
}


CASES = [
    *((extra, "docs/a.txt") for extra in VARIANTS.values()),
    *(({}, name) for name in ("a.tar.gz", "unknown.kind", "ü b#?%+&=é😀.html")),
]


@pytest.mark.parametrize(("extra", "name"), CASES, ids=str)
def test_objects_are_as_the_storage_saves_them(
    s3_options: Options, extra: Options, name: str
) -> None:
    direct = S3Storage(**s3_options | extra)
    expected = recorded(direct, lambda: direct.save(name, file(b"bytes")))
    direct.delete(name)

    remote = S3Storage(**s3_options | extra)
    storage = make(remote=remote)
    storage.save(name, file(b"bytes"))
    assert recorded(remote, lambda: deliver(storage)) == expected
    assert row(storage, name).is_remote
    assert read(remote, name) == b"bytes"


def test_the_content_type_of_the_upload_is_kept(s3_options: Options) -> None:
    """Active Storage's mirror dropped it."""
    direct = S3Storage(**s3_options)
    upload = SimpleUploadedFile("a.txt", b"x", "application/x-mine")
    expected = recorded(direct, lambda: direct.save("direct.txt", upload))

    remote = S3Storage(**s3_options)
    storage = make(remote=remote)
    storage.save("a.txt", SimpleUploadedFile("a.txt", b"x", "application/x-mine"))
    found = recorded(remote, lambda: deliver(storage))
    assert found["ContentType"] == expected["ContentType"] == "application/x-mine"


def test_parameters_of_a_subclass(s3_options: Options) -> None:
    remote = OwnParameters(**s3_options)
    storage = make(remote=remote)
    storage.save("a.txt", file())
    assert recorded(remote, lambda: deliver(storage))["CacheControl"] == "max-age=5"


def test_names_of_a_subclass(s3_options: Options) -> None:
    storage = make(remote=OwnOuterSave(**s3_options), task=TransferAndDelete)
    name = storage.save("a.txt", file())
    assert deliver(storage) is None
    assert row(storage, name).remote_name == "renamed/a.txt"
    assert read(storage, name) == b"bytes"


@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")  # which S3File leaves open
def test_gzip_uses_the_storages_own_save(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    """Size and hash of the object differ from those of the file, so it is read back."""
    remote = S3Storage(**s3_options | {"gzip": True})
    storage = make(remote=remote, task=TransferAndDelete)
    data = b"body { margin: 0 }" * 500
    name = storage.save("a.css", file(data))
    assert deliver(storage) is None
    assert row(storage, name).verified == "content"
    head = s3_client.head_object(Bucket=s3_bucket, Key="a.css")
    assert head["ContentEncoding"] == "gzip"
    assert head["ContentLength"] < len(data)
    assert gzip.decompress(body(s3_client, s3_bucket, "a.css")) == data
    assert read(storage, name) == data
    assert storage.size(name) == len(data)


def test_the_storages_transfer_config_is_kept() -> None:
    own = TransferConfig(
        multipart_threshold=6 * MIB, multipart_chunksize=7 * MIB, max_bandwidth=12345,
        io_chunksize=4321, num_download_attempts=3,
    )  # fmt: skip
    config: Any = config_for_stream(own)
    assert config.max_request_concurrency == config.max_in_memory_upload_chunks == 3
    for option in ("multipart_threshold", "multipart_chunksize", "max_bandwidth", "io_chunksize"):
        assert getattr(config, option) == getattr(own, option), option
    assert own.max_request_concurrency == 10


# S3: proof


@pytest.mark.parametrize("asked", ["size", "checksum", "content"])
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_each_level_is_reached(
    s3_options: Options, level: Callable[[str], None], asked: str, size: int
) -> None:
    level(asked)
    storage = make(remote=S3Storage(**s3_options), task=TransferAndDelete)
    data = os.urandom(size)
    name = storage.save("a.bin", file(data))
    assert deliver(storage) is None
    assert row(storage, name).verified == asked
    assert read(storage, name) == data


def multipart(s3_options: Options) -> S3Storage:
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    return S3Storage(**s3_options | {"transfer_config": config})


@pytest.mark.parametrize("is_first", [True, False])
def test_large_file_is_sent_while_process_ends(
    s3_options: Options,
    s3_client: BaseClient,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    is_first: bool,
) -> None:
    """The interpreter has closed all pools of threads, which boto3 sends parts with."""
    storage = make(remote=multipart(s3_options))
    if not is_first:  # the server is known to verify checksums
        storage.save("first.bin", file(b"x" * 6 * MIB))
        assert deliver(storage) is None
    data = os.urandom(11 * MIB + 3)
    name = storage.save("big.bin", file(data))
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    monkeypatch.setattr(ending, "_has_begun", False)
    assert deliver(storage) is None
    assert body(s3_client, s3_bucket, name) == data
    assert row(storage, name).attempts == 1


@pytest.mark.parametrize("asked", ["checksum", "content"])
def test_a_multipart_upload_is_proved_as_a_whole(
    s3_options: Options,
    s3_client: BaseClient,
    s3_bucket: str,
    level: Callable[[str], None],
    asked: str,
) -> None:
    level(asked)
    storage = make(remote=multipart(s3_options))
    data = os.urandom(11 * MIB + 3)
    name = storage.save("big.bin", file(data))
    assert deliver(storage) is None
    assert s3_client.head_object(Bucket=s3_bucket, Key=name)["ETag"].endswith('-3"')
    assert row(storage, name).verified == asked
    assert body(s3_client, s3_bucket, name) == data


class Tamper(Transfer):
    """Uploads a file and then changes the object."""

    def __init__(self, change: Callable[[str], Any]) -> None:
        self.change = change

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        done = super().transfer(name, local, remote, **kwargs)
        self.change(name)
        return done


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ("size", b"short"),
        ("checksum", b"short"),
        ("checksum", b"Every byte of it"),
        ("content", b"short"),
        ("content", b"Every byte of it"),
        ("checksum", None),
        ("size", None),
        ("content", None),
    ],
)
def test_wrong_bytes_are_found(
    s3_options: Options,
    s3_client: BaseClient,
    s3_bucket: str,
    level: Callable[[str], None],
    asked: str,
    wrong: bytes | None,
) -> None:
    level(asked)

    def change(name: str) -> None:
        if wrong is None:
            s3_client.delete_object(Bucket=s3_bucket, Key=name)
        else:
            s3_client.put_object(Bucket=s3_bucket, Key=name, Body=wrong)

    storage = make(remote=S3Storage(**s3_options), task=Tamper(change))
    name = storage.save("a.txt", file(b"every byte of it"))
    assert isinstance(deliver(storage), (VerificationError, ClientError, FileNotFoundError))
    assert row(storage, name).state == State.PENDING
    assert read(storage, name) == b"every byte of it"

    storage._options["task"] = TransferAndDelete
    assert transfers_run(storage, name) is None
    assert body(s3_client, s3_bucket, name) == b"every byte of it"


def transfers_run(storage: Any, name: str) -> Exception | None:
    from queued_storage.transfers import work

    return work.run(make_due(storage, name))


def test_a_flipped_byte_is_found_without_boto3_checksums(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str, s3_server: S3Server
) -> None:
    """With `when_required`, boto3 stored and read back a flipped byte silently."""
    quiet: Config = s3_server.client_config(
        request_checksum_calculation="when_required", response_checksum_validation="when_required"
    )

    def change(name: str) -> None:
        s3_client.put_object(Bucket=s3_bucket, Key=name, Body=b"Flipped")

    remote = S3Storage(**s3_options | {"client_config": quiet})
    storage = make(remote=remote, task=Tamper(change))
    name = storage.save("a.txt", file(b"flipped"))
    assert isinstance(deliver(storage), VerificationError)
    storage._options["task"] = Transfer
    assert transfers_run(storage, name) is None
    assert row(storage, name).verified == "checksum"


def test_an_object_without_checksum_proves_its_size(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str, s3_server: S3Server
) -> None:
    client = s3_server.client(request_checksum_calculation="when_required")
    client.put_object(Bucket=s3_bucket, Key="a.txt", Body=b"hello")
    uploader = S3Uploader(S3Storage(**s3_options))
    if "ChecksumCRC32" in s3_client.head_object(
        Bucket=s3_bucket, Key="a.txt", ChecksumMode="ENABLED"
    ):
        pytest.skip("this server keeps one of its own accord")
    assert uploader.verify("a.txt", Content(5, "crc32:3610a686"), "checksum") == "size"


# S3: existing objects


def test_an_existing_object_is_not_overwritten(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    """django-storages #959."""
    s3_client.put_object(Bucket=s3_bucket, Key="a.txt", Body=b"theirs")
    storage = make(remote=S3Storage(**s3_options), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"our own"))
    assert deliver(storage) is None
    assert body(s3_client, s3_bucket, "a.txt") == b"theirs"
    assert read(storage, name) == b"our own"
    storage.delete(name)
    assert deliver(storage) is None
    assert keys(s3_client, s3_bucket) == ["a.txt"]


class Slow(S3Storage):
    """Calls `happens` after exists() has found no object."""

    happens: Callable[[str], object]

    def exists(self, name: str) -> bool:
        found = bool(super().exists(name))
        if not found:
            self.happens(name)
        return found


@pytest.mark.parametrize("size", [7, 11 * MIB])
def test_an_object_created_after_exists_stays(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str, size: int
) -> None:
    def put_theirs(name: str) -> None:
        if name == "a.bin":
            s3_client.put_object(Bucket=s3_bucket, Key=name, Body=b"theirs")

    remote = Slow(**s3_options, transfer_config=TransferConfig(multipart_threshold=10 * MIB))
    remote.happens = put_theirs
    storage = make(remote=remote, task=TransferAndDelete)
    name = storage.save("a.bin", file(b"o" * size))
    assert deliver(storage) is None
    assert body(s3_client, s3_bucket, "a.bin") == b"theirs"
    assert read(storage, name) == b"o" * size
    assert row(storage, name).attempts == 1
    storage.delete(name)
    assert deliver(storage) is None
    assert keys(s3_client, s3_bucket) == ["a.bin"]
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=s3_bucket)


def test_a_dead_process_leaves_another_object_alone(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_theirs(name: str) -> None:
        s3_client.put_object(Bucket=s3_bucket, Key=name, Body=b"theirs")

    def die(*args: Any) -> str:
        raise SystemExit

    remote = Slow(**s3_options)
    remote.happens = put_theirs
    storage = make(remote=remote)
    name = storage.save("a.bin", file(b"our own"))
    monkeypatch.setattr("queued_storage.transfers.naming.Naming._alternative", die)
    with pytest.raises(SystemExit):
        deliver(storage)
    monkeypatch.undo()
    assert row(storage, name).remote_name == ""
    remote.happens = str
    assert transfers_run(storage, name) is None
    assert body(s3_client, s3_bucket, "a.bin") == b"theirs"
    assert body(s3_client, s3_bucket, row(storage, name).remote_name) == b"our own"


def test_an_upload_with_a_lost_response(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    """boto3 repeats the request, and S3 reports that the object exists."""
    remote = S3Storage(**s3_options)
    lost = []

    def lose_answer(response_dict: dict[str, Any], **kwargs: Any) -> None:
        if not lost:
            lost.append(response_dict["status_code"])
            response_dict.update(status_code=503, body=b"<Error><Code>SlowDown</Code></Error>")

    client = remote.connection.meta.client
    client.meta.events.register("before-parse.s3.PutObject", lose_answer)
    client.meta.events.register(
        "needs-retry.s3.PutObject", lambda attempts, **kwargs: 0 if attempts == 1 else None
    )
    storage = make(remote=remote)
    name = storage.save("a.bin", file(b"our own"))
    assert deliver(storage) is None
    assert lost == [200]
    assert row(storage, name).remote_name == "a.bin"
    assert keys(s3_client, s3_bucket) == ["a.bin"]


def test_a_server_without_conditions(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    """Some S3-compatible servers refuse headers that they do not support."""
    remote = S3Storage(**s3_options)
    refused = []

    def refuse(request: Any, **kwargs: Any) -> Any:
        if "If-None-Match" not in request.headers:
            return None
        refused.append(request.url)
        text = b"<Error><Code>NotImplemented</Code></Error>"
        return AWSResponse(request.url, 501, {}, RawResponse(text))

    remote.connection.meta.client.meta.events.register("before-send.s3.PutObject", refuse)
    storage = make(remote=remote, task=TransferAndDelete)
    name = storage.save("a.bin", file(b"our own"))
    assert deliver(storage) is None
    assert len(refused) == 1
    assert read(storage, name) == b"our own"


class RawResponse(io.BytesIO):
    def stream(self, **kwargs: Any) -> Any:
        yield self.read()


@pytest.mark.parametrize("size", [7, 2 * MIB])
def test_another_object_of_the_same_size(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str, size: int
) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key="a.bin", Body=b"t" * size)
    storage = make(remote=S3Storage(**s3_options), task=TransferAndDelete)
    name = storage.save("a.bin", file(b"o" * size))
    assert deliver(storage) is None
    assert row(storage, name).attempts == 1
    assert read(storage, name) == b"o" * size


def test_a_transfer_that_reads_the_file_first(s3_options: Options) -> None:
    sniff = Sniff()
    storage = make(remote=S3Storage(**s3_options), task=sniff)
    name = storage.save("a.pdf", file(b"%PDF and more"))
    assert deliver(storage) is None
    assert sniff.seen == b"%PD"
    assert read(storage.remote, name) == b"%PDF and more"


def test_a_foreign_object_with_the_same_bytes_stays(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    data = os.urandom(3 * MIB)
    s3_client.put_object(Bucket=s3_bucket, Key="a.bin", Body=data)
    storage = make(remote=S3Storage(**s3_options))
    name = storage.save("a.bin", file(data))
    assert deliver(storage) is None
    own = row(storage, name).remote_name
    assert sorted(keys(s3_client, s3_bucket)) == sorted(["a.bin", own])
    assert own != "a.bin"
    storage.delete(name)
    assert deliver(storage) is None
    assert keys(s3_client, s3_bucket) == ["a.bin"]


@pytest.mark.parametrize("fault", [Mode.LOSE_ANSWER, Mode.RESET_MID_BODY])
@pytest.mark.parametrize("size", [300_000, 11 * MIB])
def test_a_retry_overwrites_its_own_remains(
    s3_proxy_options: Options,
    s3_proxy: FaultProxy,
    s3_client: BaseClient,
    s3_bucket: str,
    fault: Mode,
    size: int,
) -> None:
    class Unlucky(Transfer):
        times = itertools.count()

        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            if next(self.times) == 0:
                s3_proxy.stops_after = 200_000
                assert not remote.exists(name)
                remote._note(name)  # so that the first that goes wrong is the upload
                s3_proxy.mode = fault
            return super().transfer(name, local, remote, **kwargs)

    storage = make(remote=multipart(s3_proxy_options), task=Unlucky())
    data = os.urandom(size)
    name = storage.save("a.bin", file(data))
    assert deliver(storage) is not None
    s3_proxy.mode = Mode.OK
    assert transfers_run(storage, name) is None
    assert keys(s3_client, s3_bucket) == ["a.bin"]
    assert body(s3_client, s3_bucket, name) == data


def test_a_void_multipart_upload_is_aborted(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    """An unfinished multipart upload would cost money."""

    class Late(Transfer):
        def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
            events = remote.storage.connection.meta.client.meta.events
            events.register("before-call.s3.UploadPart", self.lose)
            self.name, self.lease = name, remote._lease
            return super().transfer(name, local, remote, **kwargs)

        def lose(self, **kwargs: Any) -> None:
            storage.delete(self.name)
            self.lease.beat()
            connections.close_all()  # parts have threads of their own

    storage = make(remote=multipart(s3_options), task=Late())
    name = storage.save("a.bin", file(os.urandom(11 * MIB)))
    storage.queue.deliver()
    assert storage.queued_file(name) is None
    assert keys(s3_client, s3_bucket) == []
    assert not s3_client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads")


def test_an_overwritten_file_is_replaced_in_one_step(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    storage = make(remote=S3Storage(**s3_options), task=TransferAndDelete)
    name = storage.save("a.txt", file(b"old"))
    storage.queue.deliver()
    deletes = []
    events = storage.remote.connection.meta.client.meta.events
    events.register("before-call.s3.DeleteObject", lambda **kwargs: deletes.append(1))
    with storage.open(name, "wb") as opened:
        opened.write(b"newer")
    storage.queue.deliver()
    assert body(s3_client, s3_bucket, name) == b"newer"
    assert deletes == []


def test_deleting_a_missing_s3_object(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str
) -> None:
    storage = make(remote=S3Storage(**s3_options))
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    s3_client.delete_object(Bucket=s3_bucket, Key=name)
    storage.delete(name)
    assert deliver(storage) is None
    assert not ledger().exists()


def test_long_names_on_s3(s3_options: Options) -> None:
    storage = make(remote=S3Storage(**s3_options), task=TransferAndDelete)
    name = storage.save("/".join(["d" * 99] * 7), file(b"deep"))
    assert deliver(storage) is None
    assert read(storage, name) == b"deep"


def test_reading_back_reports_progress(tmp_path: Path) -> None:
    remote = FileSystemStorage(tmp_path)
    remote.save("a.bin", ContentFile(b"x" * 3_000_000))
    uploader = uploader_for(remote)
    calls: list[None] = []
    uploader.progress = lambda: calls.append(None)
    uploader.verify_content("a.bin", Content(3_000_000, str(checksum_of([b"x" * 3_000_000]))))
    assert len(calls) == 3


class UnwrappingStorage(FileSystemStorage):
    """Unwraps the file, as django-storages' FTP and Azure storages do."""

    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, ContentFile(b"".join(iter(lambda: content.file.read(4), b""))))


def test_a_remote_that_unwraps_the_file(tmp_path: Path) -> None:
    storage = make(remote=UnwrappingStorage(tmp_path))
    name = storage.save("a.txt", file(b"unwrapped bytes"))
    assert storage.queue.deliver() == {}
    assert storage.using_remote(name)
    assert (tmp_path / name).read_bytes() == b"unwrapped bytes"


@pytest.mark.parametrize("location", ["", "media"])
def test_all_names_in_a_bucket(
    s3_options: Options, s3_client: BaseClient, s3_bucket: str, location: str
) -> None:
    remote = S3Storage(**s3_options | {"location": location})
    names = ["a.txt", "d/b.txt", "d/e/c.txt", "dd.txt"]
    for name in names:
        remote.save(name, ContentFile(b"x"))
    s3_client.put_object(Bucket=s3_bucket, Key=f"{location}/f/".lstrip("/"))  # a folder
    s3_client.put_object(Bucket=s3_bucket, Key="media2/other.txt")
    found = sorted(uploader_for(remote).names())
    assert found == (names if location else [*names, "media2/other.txt"])
    assert sorted(uploader_for(remote).names("d")) == names[1:3]
    assert sorted(uploader_for(remote).names("d/e")) == names[2:3]
