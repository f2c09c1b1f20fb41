"""The time and the memory that are needed to read a large file from the remote."""

import contextlib
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .peers import S3Server, bucket, why_missing
from .project import configure, databases
from .rows import Options, Row, peak, ratio_of

SIZE = 1 << 30
PIECE = 1 << 20
ROUNDS = 7
BOTO3 = "download_file"
WHAT = {"open": "open()", "local_path": "local_path()"}  # compared with it


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("s3")
    memory: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    size = 20 * PIECE if options.quick else SIZE
    if not missing:
        with S3Server() as server, bucket(server) as name:
            digest = _fill(server, name, size)
            for reader in ("QueuedStorage", "S3Storage"):
                memory[reader] = _memory(
                    reader, server.endpoint_url, name, digest, options.directory / reader
                )
            seconds = _seconds(options, server.endpoint_url, name, size)
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
    for way, what in WHAT.items():
        yield Row(
            key=f"reading.{way}",
            what=f"1 GB read back with {what}, compared with boto3's download_file",
            goal=0.95,
            is_at_most=False,
            ratio=ratio_of(seconds[BOTO3], seconds[way]) if seconds else None,
            details={
                "MiB/s": {
                    name: round(size / PIECE / statistics.median(each), 1)
                    for name, each in seconds.items()
                },
                "seconds by round": {
                    name: [round(s, 2) for s in each] for name, each in seconds.items()
                },
            },
            reason=missing or "",
        )


def _seconds(options: Options, endpoint: str, bucket: str, size: int) -> dict[str, list[float]]:
    """Read the object in turns and in both orders, each time in a new process."""
    found: dict[str, list[float]] = {BOTO3: [], **{way: [] for way in WHAT}}
    order = list(found)
    for _round in range(options.rounds(ROUNDS)):
        for way in order:
            place = options.directory / "timed"
            [took] = _in_child(way, endpoint, bucket, place, str(size))
            found[way].append(float(took))
            shutil.rmtree(place)
        order.reverse()
    return found


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


def _memory(reader: str, endpoint: str, bucket: str, digest: str, place: Path) -> float:
    grown, found = _in_child(reader, endpoint, bucket, place)
    assert found == digest, "the bytes differ"
    return float(grown)


def _in_child(way: str, endpoint: str, bucket: str, place: Path, *more: str) -> list[str]:
    place.mkdir()
    command = [sys.executable, "-m", "benchmarks.reading", way, endpoint, bucket, str(place)]
    answer = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True)
    return answer.stdout.split()


def main(way: str, endpoint: str, bucket: str, place: str, size: str = "") -> None:
    configure(Path(place))
    with databases():
        reader = "S3Storage" if way in ("S3Storage", BOTO3) else "QueuedStorage"
        storage = _storage(reader, endpoint, bucket, Path(place))
        with storage.open("small.bin") as small:
            small.read()  # allocates what the first response needs
        if size:
            print(_timed(way, storage, Path(place), int(size)))
            return
        before = peak()
        digest = hashlib.sha256()
        with storage.open("large.bin") as file:
            for piece in file.chunks(PIECE):
                digest.update(piece)
        print(round(peak() - before, 1), digest.hexdigest())


def _timed(way: str, storage: Any, place: Path, size: int) -> float:
    """Return the seconds until all bytes are here, without the deletion of a temporary file."""
    os.sync()  # what another side has written must not be measured
    path = str(place / "read")
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        if way == BOTO3:
            client = storage.connection.meta.client
            client.download_file(storage.bucket_name, "large.bin", path)
            found = os.path.getsize(path)
        elif way == "local_path":
            found = os.path.getsize(stack.enter_context(storage.local_path("large.bin")))
        else:
            file = stack.enter_context(storage.open("large.bin"))
            found = sum(map(len, file.chunks(PIECE)))
        seconds = time.perf_counter() - started
    assert found == size
    return seconds


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
