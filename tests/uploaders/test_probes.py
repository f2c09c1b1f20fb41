"""The small write by which an uploader finds out whether its remote takes files."""

from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage
from storages.backends.s3 import S3Storage

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.names import PROBE_NAME, RESERVED
from queued_storage.remotes.faults import Fault
from queued_storage.testing import FaultyStorage
from queued_storage.uploaders import uploader_for
from queued_storage.uploaders.base import PROBE
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.services import S3Server
from tests.support.strict_proxy import StrictProxy

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

Options = dict[str, Any]


class NoDelete(InMemoryStorage):
    def delete(self, name: str) -> None:
        raise PermissionError("You may not delete.")


class ReadOnly(Storage):
    def _save(self, name: str, content: Any) -> str:
        raise NotImplementedError("This storage is read-only.")

    def exists(self, name: str) -> bool:
        return False


class Connecting(S3Storage):
    """Makes connections in its own way."""

    asked: set[Storage] = set()

    @property
    def connection(self) -> Any:
        self.asked.add(self)
        return super().connection


def test_probe_name_is_reserved() -> None:
    assert PROBE_NAME.startswith(RESERVED)


def test_probe_leaves_nothing(tmp_path: Path) -> None:
    uploader_for(FileSystemStorage(tmp_path)).write_probe()
    assert not list(tmp_path.iterdir())


def test_probe_keeps_another_file(tmp_path: Path) -> None:
    (tmp_path / PROBE_NAME).write_text("theirs")
    uploader_for(FileSystemStorage(tmp_path)).write_probe()
    assert [each.name for each in tmp_path.iterdir()] == [PROBE_NAME]
    assert (tmp_path / PROBE_NAME).read_text() == "theirs"


def test_probe_may_stay() -> None:
    remote = NoDelete()
    uploader_for(remote).write_probe()
    with remote.open(PROBE_NAME) as file:
        assert file.read() == PROBE


def test_probe_raises_what_the_remote_raises() -> None:
    remote = FaultyStorage(InMemoryStorage())
    remote.fault = "refuse"
    uploader = uploader_for(remote)
    with pytest.raises(ConnectionError) as caught:
        uploader.write_probe()
    assert uploader.diagnose(caught.value).fault is Fault.AWAY


@pytest.mark.parametrize("wrap", [lambda storage: storage, FaultyStorage])
def test_queued_remote_has_no_probe(wrap: Any) -> None:
    inner = QueuedStorage(local=InMemoryStorage(), remote=InMemoryStorage(), alias="inner")
    with pytest.raises(NotImplementedError):
        uploader_for(wrap(inner)).write_probe()


def test_read_only_remote_has_no_probe() -> None:
    with pytest.raises(NotImplementedError):
        uploader_for(ReadOnly()).write_probe()


# S3


def test_s3_probe_is_stored_like_others(
    s3_server: S3Server, s3_bucket: str, s3_client: BaseClient
) -> None:
    parameters = {"Metadata": {"owner": "us"}, "ContentDisposition": "inline"}
    with StrictProxy(s3_server, "nothing", status=403, code="AccessDenied") as proxy:
        proxy.methods = {"DELETE"}  # so it stays
        options = s3_server.options(s3_bucket, proxy.endpoint_url)
        remote = S3Storage(**options, location="in", object_parameters=parameters)
        uploader_for(remote).write_probe()
    found = s3_client.head_object(Bucket=s3_bucket, Key=f"in/{PROBE_NAME}")
    assert (found["Metadata"], found["ContentDisposition"]) == ({"owner": "us"}, "inline")


def test_s3_probe_leaves_nothing(
    s3_options: Options, s3_bucket: str, s3_client: BaseClient
) -> None:
    uploader_for(S3Storage(**s3_options)).write_probe()
    assert "Contents" not in s3_client.list_objects_v2(Bucket=s3_bucket)


def test_s3_probe_is_not_retried(s3_server: S3Server, s3_proxy: FaultProxy) -> None:
    config = s3_server.client_config(retries={"total_max_attempts": 3})
    options = s3_server.options("any", s3_proxy.endpoint_url) | {"client_config": config}
    uploader = uploader_for(S3Storage(**options))
    s3_proxy.mode = Mode.STATUS_503
    with pytest.raises(ClientError):
        uploader.write_probe()
    assert s3_proxy.requests == [f"PUT /any/{PROBE_NAME}"]


def test_s3_probe_uses_own_connections(
    s3_options: Options, s3_bucket: str, s3_client: BaseClient
) -> None:
    remote = Connecting(**s3_options)
    uploader_for(remote).write_probe()
    assert "Contents" not in s3_client.list_objects_v2(Bucket=s3_bucket)
    assert Connecting.asked == {remote}
