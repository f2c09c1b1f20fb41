"""Servers that refuse headers of S3 which they do not know."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from storages.backends.s3 import S3Storage

from queued_storage.files.streams import MeasuredFile
from queued_storage.ledger.states import State
from queued_storage.models import Remote
from queued_storage.operations.contract import check_remote
from queued_storage.transfers import probing
from queued_storage.uploaders.s3 import PlainS3Uploader, S3Uploader, dialects, trust
from tests.support.scripted import file, make, read, row
from tests.support.services import S3Server
from tests.support.strict_proxy import CHECKSUMS, StrictProxy

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]
MIB = 1024 * 1024
Strict = Callable[..., tuple[S3Storage, StrictProxy]]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    dialects.forget()
    trust.forget()
    yield
    dialects.forget()
    trust.forget()


@pytest.fixture
def strict(s3_server: S3Server, s3_bucket: str) -> Iterator[Strict]:
    """Return a storage, as a project configures it for such a server, and the proxy to it."""
    with ExitStack() as stack:

        def start(
            *headers: str,
            status: int = 400,
            code: str = "InvalidArgument",
            config: dict[str, Any] | None = None,
            **options: Any,
        ) -> tuple[S3Storage, StrictProxy]:
            proxy = stack.enter_context(StrictProxy(s3_server, *headers, status=status, code=code))
            if config is None:
                config = {
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                }
            given = s3_server.options(s3_bucket, proxy.endpoint_url)
            given["client_config"] = s3_server.client_config(**config)
            return S3Storage(**given | options), proxy

        yield start


def uploads(proxy: StrictProxy) -> list[str]:
    return [method for method, _path in proxy.refused if method in {"PUT", "POST"}]


REFUSALS = [
    (400, "InvalidArgument"),
    (400, "InvalidRequest"),
    (403, "AccessDenied"),
    (403, "SignatureDoesNotMatch"),
    (411, "MissingContentLength"),
    (501, "NotImplemented"),
]


@pytest.mark.parametrize("uploader", [S3Uploader, PlainS3Uploader])
@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_server_that_refuses_checksums_gets_the_file(
    strict: Strict, uploader: type, status: int, code: str
) -> None:
    remote, proxy = strict(*CHECKSUMS, status=status, code=code)
    assert remote.save("alone.txt", file(b"bytes"))
    path = f"{uploader.__module__}.{uploader.__qualname__}"
    storage = make(remote=remote, uploader=path)
    names = [storage.save(f"{number}.txt", file(b"every byte")) for number in range(3)]
    assert storage.queue.deliver() == {}
    for name in names:
        assert row(storage, name).state == State.TRANSFERRED
        assert read(remote, name) == b"every byte"
    assert len(uploads(proxy)) == 1  # it is remembered
    assert row(storage, names[0]).verified == "size"


@pytest.mark.parametrize("size", [2 * MIB, 11 * MIB])
@pytest.mark.parametrize(("status", "code"), [(400, "InvalidArgument"), (501, "NotImplemented")])
def test_server_that_refuses_checksums_gets_large_files(
    strict: Strict, size: int, status: int, code: str
) -> None:
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    remote, proxy = strict(*CHECKSUMS, status=status, code=code, transfer_config=config)
    storage = make(remote=remote)
    data = os.urandom(size)
    names = [storage.save(f"{number}.bin", file(data)) for number in range(2)]
    assert storage.queue.deliver() == {}
    for name in names:
        assert row(storage, name).state == State.TRANSFERRED
        assert read(remote, name) == data
    refused = len(uploads(proxy))
    storage.save("more.bin", file(data))
    assert storage.queue.deliver() == {}
    assert len(uploads(proxy)) == refused


def test_checksum_is_not_appended_to_a_large_file(
    strict: Strict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Uploader, "_appends_checksums", lambda self: True)  # as with HTTPS
    remote, proxy = strict(*CHECKSUMS)
    data = os.urandom(2 * MIB)
    storage = make(remote=remote)
    name = storage.save("a.bin", file(data))
    assert storage.queue.deliver() == {}
    assert read(remote, name) == data
    assert uploads(proxy) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("is_quiet", [True, False])
def test_when_boto3_appends_checksums(scheme: str, is_quiet: bool) -> None:
    config = Config(request_checksum_calculation="when_required") if is_quiet else None
    options = {"bucket_name": "b", "access_key": "a", "secret_key": "s", "region_name": "eu"}
    endpoint = f"{scheme}://s3.example"
    remote = S3Storage(**options, endpoint_url=endpoint, client_config=config)
    assert S3Uploader(remote)._appends_checksums() == (is_quiet and scheme == "https")


@pytest.mark.parametrize("status", [400, 403, 501])
def test_server_that_refuses_to_show_checksums(strict: Strict, status: int) -> None:
    remote, proxy = strict("x-amz-checksum-mode", status=status)
    storage = make(remote=remote)
    for number in range(3):
        storage.save(f"{number}.txt", file(b"every byte"))
    assert storage.queue.deliver() == {}
    assert {method for method, _path in proxy.refused} == {"HEAD"}
    assert len(proxy.refused) == 1
    assert read(storage.remote, "0.txt") == b"every byte"


@pytest.mark.parametrize("status", [400, 501])
def test_server_that_refuses_checksums_and_conditions(strict: Strict, status: int) -> None:
    remote, proxy = strict(*CHECKSUMS, "x-amz-checksum-mode", "if-none-match", status=status)
    storage = make(remote=remote)
    names = [storage.save(f"{number}.txt", file(b"every byte")) for number in range(3)]
    assert storage.queue.deliver() == {}
    for name in names:
        assert read(remote, name) == b"every byte"
    assert len(uploads(proxy)) == 3  # of the first file


def test_overwriting_and_deleting_there(strict: Strict) -> None:
    remote, _proxy = strict(*CHECKSUMS, "x-amz-checksum-mode")
    storage = make(remote=remote)
    name = storage.save("a.txt", file(b"every byte"))
    assert storage.queue.deliver() == {}
    with storage.open(name, "wb") as opened:
        opened.write(b"newer")
    assert storage.queue.deliver() == {}
    assert read(remote, name) == b"newer"
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert not remote.exists(name)


def test_an_existing_object_stays(strict: Strict) -> None:
    remote, _proxy = strict(*CHECKSUMS)
    remote.save("a.txt", file(b"foreign"))
    storage = make(remote=remote)
    name = storage.save("a.txt", file(b"every byte"))
    assert storage.queue.deliver() == {}
    assert read(remote, "a.txt") == b"foreign"
    assert read(remote, row(storage, name).remote_name) == b"every byte"


def test_an_object_that_appears_meanwhile_stays(strict: Strict) -> None:
    remote, _proxy = strict(*CHECKSUMS)
    remote.save("a.txt", file(b"foreign"))
    with pytest.raises(FileExistsError):
        S3Uploader(remote).upload_new("a.txt", MeasuredFile(file(b"every byte"), "a.txt"))
    assert read(remote, "a.txt") == b"foreign"


def test_many_files_there_need_no_probe(strict: Strict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "PROBE_AFTER", 2)
    remote, proxy = strict(*CHECKSUMS)
    storage = make(remote=remote)
    for number in range(5):
        storage.save(f"{number}.txt", file(b"every byte"))
    assert storage.queue.deliver() == {}
    assert len(uploads(proxy)) == 1


def test_a_server_without_checksums_passes_its_test(strict: Strict) -> None:
    remote, _proxy = strict(*CHECKSUMS, "x-amz-checksum-mode")
    found = {each.check: each for each in check_remote(remote)}
    assert [str(each) for each in found.values() if each.is_problem] == []
    assert found["wrong checksum"].outcome == "not sent"


@pytest.mark.parametrize("code", sorted(dialects.UNRELATED))
def test_other_errors_are_no_refusal_of_headers(strict: Strict, code: str) -> None:
    remote, proxy = strict(*CHECKSUMS, code=code)
    storage = make(remote=remote)
    storage.save("a.txt", file(b"every byte"))
    [error] = storage.queue.deliver().values()
    assert code in str(error)
    assert len(uploads(proxy)) == 1
    assert dialects.of(remote) == dialects.Dialect()


@pytest.mark.parametrize("status", [500, 503])
def test_a_broken_server_is_no_dialect(strict: Strict, status: int) -> None:
    remote, _proxy = strict(*CHECKSUMS, status=status, code="SlowDown")
    storage = make(remote=remote)
    storage.save("a.txt", file(b"every byte"))
    assert storage.queue.deliver() != {}
    assert dialects.of(remote) == dialects.Dialect()


def test_first_error_is_kept_if_nothing_helps(strict: Strict) -> None:
    remote, proxy = strict()
    proxy.methods = {"PUT"}
    storage = make(remote=remote)
    name = storage.save("a.txt", file(b"every byte"))
    [error] = storage.queue.deliver().values()
    assert isinstance(error, ClientError)
    assert "The words of InvalidArgument" in Remote.objects.get().last_error
    assert dialects.of(remote) == dialects.Dialect()
    proxy.methods = set()
    assert probing.probe_now(storage.alias)
    storage.transfer(name)
    assert storage.queue.deliver() == {}


@pytest.mark.parametrize(
    "options", [{"config": {}}, {"object_parameters": {"ChecksumAlgorithm": "CRC32"}}]
)
def test_checksums_that_the_project_asks_for_are_sent(
    strict: Strict, options: dict[str, Any]
) -> None:
    """``S3Storage`` alone cannot store a file there."""
    remote, _proxy = strict(*CHECKSUMS, **options)
    with pytest.raises(ClientError):
        remote.save("alone.txt", file(b"bytes"))
    storage = make(remote=remote)
    storage.save("a.txt", file(b"every byte"))
    assert storage.queue.deliver() != {}
