"""The memory that is needed to read a large file from the remote."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .peers import S3Server, bucket, why_missing
from .project import configure, databases
from .rows import Options, Row, peak

SIZE = 1 << 30
PIECE = 1 << 20


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("s3")
    memory: dict[str, float] = {}
    if not missing:
        size = 20 * PIECE if options.quick else SIZE
        with S3Server() as server, bucket(server) as name:
            digest = _fill(server, name, size)
            for reader in ("QueuedStorage", "S3Storage"):
                memory[reader] = _read_in_child(
                    reader, server.endpoint_url, name, digest, options.directory / reader
                )
    yield Row(
        key="reading.memory",
        what="memory used to read 1 GB with open()",
        goal=32,
        is_at_most=True,
        ratio=memory.get("QueuedStorage"),
        unit="MiB",
        details={"MiB": memory},
        reason=missing or "",
    )


def _fill(server: S3Server, name: str, size: int) -> str:
    """Create a large object of different pieces. Return its digest."""
    piece = os.urandom(PIECE)
    digest = hashlib.sha256()

    class Source:
        left = size

        def read(self, length: int = -1) -> bytes:
            wanted = self.left if length < 0 else min(length, self.left)
            data = (piece * (wanted // PIECE + 1))[:wanted]
            self.left -= len(data)
            digest.update(data)
            return data

    with contextlib.closing(server.client(read_timeout=60)) as client:
        client.upload_fileobj(Source(), name, "large.bin")
        assert client.head_object(Bucket=name, Key="large.bin")["ContentLength"] == size
    return digest.hexdigest()


def _read_in_child(reader: str, endpoint: str, bucket: str, digest: str, place: Path) -> float:
    place.mkdir()
    command = [sys.executable, "-m", "benchmarks.reading", reader, endpoint, bucket, str(place)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    grown, found = answer.stdout.split()
    assert found == digest, "the bytes differ"
    return float(grown)


def main(reader: str, endpoint: str, bucket: str, place: str) -> None:
    configure(Path(place))
    with databases():
        storage = _storage(reader, endpoint, bucket, Path(place))
        with storage.open("small.bin") as small:
            small.read()  # allocates what the first response needs
        before = peak()
        digest = hashlib.sha256()
        with storage.open("large.bin") as file:
            for piece in file.chunks(PIECE):
                digest.update(piece)
        print(round(peak() - before, 1), digest.hexdigest())


def _storage(reader: str, endpoint: str, bucket: str, place: Path) -> Any:
    from django.core.files.base import ContentFile
    from django.core.files.storage import FileSystemStorage
    from storages.backends.s3 import S3Storage

    from queued_storage.backends import QueuedStorage
    from queued_storage.ledger.states import State
    from queued_storage.models import QueuedFile

    remote = S3Storage(
        bucket_name=bucket,
        access_key=S3Server.ACCESS_KEY,
        secret_key=S3Server.SECRET_KEY,
        endpoint_url=endpoint,
        region_name=S3Server.REGION,
        client_config=S3Server.client_config(read_timeout=60),
    )
    remote.save("small.bin", ContentFile(b"small"))
    if reader == "S3Storage":
        return remote
    storage = QueuedStorage(FileSystemStorage(place / "near"), remote, alias="bench")
    assert storage.alias
    for name in ("small.bin", "large.bin"):
        QueuedFile.objects.create(
            alias="bench",
            name=name,
            remote_name=name,
            state=State.TRANSFERRED,
            is_local=False,
            saved_at="2026-01-01T00:00:00Z",
        )
    return storage


if __name__ == "__main__":
    main(*sys.argv[1:])
