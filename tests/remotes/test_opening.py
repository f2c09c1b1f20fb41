"""Files of a remote, opened without keeping them in memory."""

import subprocess
import sys
from typing import Any

import pytest
from botocore.client import BaseClient
from django.core.files.storage import FileSystemStorage
from storages.backends.s3 import S3Storage

from queued_storage.remotes import opening
from queued_storage.remotes.opening_s3 import IN_MEMORY
from queued_storage.tasks import TransferAndDelete
from tests.support.scripted import file, make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
]

DATA = bytes(range(256)) * (IN_MEMORY // 256) * 12  # of several parts


def evicted(remote: Any, data: bytes) -> tuple[Any, str]:
    """A storage with one file, which is only on the remote."""
    storage = make(remote=remote, task=TransferAndDelete)
    name = storage.save("large.bin", file(data))
    assert not storage.queue.deliver()
    assert not storage.local.exists(name)
    return storage, name


def is_on_disk(opened: Any) -> bool:
    inside = opened.file  # that of S3File
    return bool(getattr(inside, "file", inside)._rolled)


def test_a_large_s3_file_is_buffered_on_disk(s3_options: dict[str, Any]) -> None:
    storage, name = evicted(S3Storage(**s3_options), DATA)
    with storage.open(name) as opened:
        assert b"".join(opened.chunks()) == DATA
        assert is_on_disk(opened)
        opened.seek(-5, 2)
        assert opened.read() == DATA[-5:]
        opened.seek(1000)
        assert opened.read(10) == DATA[1000:1010]
        assert opened.size == len(DATA)


def test_a_small_s3_file_stays_in_memory(s3_options: dict[str, Any]) -> None:
    storage, name = evicted(S3Storage(**s3_options), b"small")
    with storage.open(name) as opened:
        assert opened.read() == b"small"
        assert not is_on_disk(opened)


def test_max_memory_size_of_the_storage_is_kept(s3_options: dict[str, Any]) -> None:
    remote = S3Storage(**s3_options | {"max_memory_size": 2 * len(DATA)})
    storage, name = evicted(remote, DATA)
    with storage.open(name) as opened:
        assert opened.read() == DATA
        assert not is_on_disk(opened)


class OwnOpen(S3Storage):
    def _open(self, name: str, mode: str = "rb") -> Any:
        return file(b"something else")


def test_a_storage_with_its_own_open(s3_options: dict[str, Any]) -> None:
    storage, name = evicted(OwnOpen(**s3_options), DATA)
    with storage.open(name) as opened:
        assert opened.read() == b"something else"


def test_the_storage_itself_is_not_changed(s3_options: dict[str, Any]) -> None:
    remote = S3Storage(**s3_options)
    before = remote.transfer_config.max_request_concurrency, remote.max_memory_size
    storage, name = evicted(remote, DATA)
    with storage.open(name) as opened:
        opened.read()
    assert (remote.transfer_config.max_request_concurrency, remote.max_memory_size) == before


@pytest.mark.parametrize("is_known", [True, False])
def test_a_missing_s3_file_is_not_found(
    s3_options: dict[str, Any], s3_client: BaseClient, s3_bucket: str, is_known: bool
) -> None:
    storage, name = evicted(S3Storage(**s3_options), b"bytes")
    s3_client.delete_object(Bucket=s3_bucket, Key=name)
    with pytest.raises(FileNotFoundError):
        storage.open(name if is_known else "unknown.bin")


def test_other_remotes_open_their_own_files(tmp_path: Any) -> None:
    remote = FileSystemStorage(tmp_path)
    name = remote.save("a.txt", file(b"bytes"))
    with opening.opened(remote, name, "rb") as opened:
        assert opened.read() == b"bytes"
    code = "import sys, queued_storage.remotes.opening; sys.exit('storages' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
