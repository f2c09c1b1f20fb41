"""Objects that are deleted by one request."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from storages.backends.s3 import S3Storage

from queued_storage.uploaders.s3 import S3Uploader
from tests.support.scripted import file
from tests.support.services import S3Server
from tests.support.strict_proxy import StrictProxy

pytestmark = pytest.mark.one_lane

NAMES = ["a.txt", "dir/b c+d.txt", "ä&<é>'\"%20.txt", "c.txt"]


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[StrictProxy]:
    with StrictProxy(s3_server, status=400, code="MissingContentMD5") as strict:
        yield strict


@pytest.fixture
def remote(s3_server: S3Server, s3_bucket: str, proxy: StrictProxy) -> S3Storage:
    return S3Storage(**s3_server.options(s3_bucket, proxy.endpoint_url), location="under")


def saved(remote: S3Storage) -> None:
    for name in NAMES:
        assert remote.save(name, file()) == name


def left(remote: S3Storage) -> list[str]:
    return [name for name in NAMES if remote.exists(name)]


def test_one_request_deletes_several(remote: S3Storage) -> None:
    saved(remote)
    uploader = S3Uploader(remote)
    assert uploader.remove_together(NAMES[:3]) == dict.fromkeys(NAMES[:3])
    assert left(remote) == NAMES[3:]


def test_missing_objects_are_deleted(remote: S3Storage) -> None:
    assert S3Uploader(remote).remove_together(NAMES) == dict.fromkeys(NAMES)


def test_a_refused_request_is_sent_once(remote: S3Storage, proxy: StrictProxy) -> None:
    saved(remote)
    proxy.methods = {"POST"}
    for _time in range(2):
        assert S3Uploader(remote).remove_together(NAMES) == {}
    assert [method for method, _path in proxy.refused] == ["POST"]
    assert left(remote) == NAMES
    for name in NAMES:
        S3Uploader(remote).remove(name)
    assert left(remote) == []


def test_a_server_that_is_away_deletes_nothing(s3_server: S3Server, remote: S3Storage) -> None:
    s3_server.stop()
    assert S3Uploader(remote).remove_together(NAMES) == {}


def test_errors_are_told_by_name(remote: S3Storage) -> None:
    """No server here refuses single objects."""
    answer: dict[str, Any] = {
        "Deleted": [{"Key": "under/a.txt"}],
        "Errors": [
            {"Key": "under/c.txt", "Code": "AccessDenied", "Message": "Locked."},
            {"Key": "under/d.txt", "Code": "NoSuchKey", "Message": "It is gone."},
        ],
    }
    with Stubber(remote.connection.meta.client) as stub:
        stub.add_response("delete_objects", answer)
        found = S3Uploader(remote).remove_together(["a.txt", "b.txt", "c.txt", "d.txt"])
    error = found.pop("c.txt")
    assert isinstance(error, ClientError)
    assert "AccessDenied" in str(error)
    assert "Locked." in str(error)
    assert found == {"a.txt": None, "d.txt": None}  # of "b.txt" nothing is known


def test_a_versioned_bucket_keeps_versions(
    remote: S3Storage, s3_client: BaseClient, s3_bucket: str
) -> None:
    client: Any = s3_client
    client.put_bucket_versioning(Bucket=s3_bucket, VersioningConfiguration={"Status": "Enabled"})
    saved(remote)
    assert S3Uploader(remote).remove_together(NAMES) == dict.fromkeys(NAMES)
    assert left(remote) == []
    assert len(client.list_object_versions(Bucket=s3_bucket)["Versions"]) == len(NAMES)


def test_a_delete_of_its_own_is_called(s3_server: S3Server, s3_bucket: str) -> None:
    class Undeletable(S3Storage):
        def delete(self, name: str) -> None:
            raise PermissionError(name)

    remote = Undeletable(**s3_server.options(s3_bucket))
    remote.save("a.txt", file())
    assert S3Uploader(remote).remove_together(["a.txt"]) == {}
    assert remote.exists("a.txt")
