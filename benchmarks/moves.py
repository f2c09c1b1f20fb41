"""How many files ``move`` copies per second from one S3 server to another, compared with rclone.

And how many old copies it removes per second, compared with boto3.
"""

import contextlib
import os
import statistics
import subprocess
import time
import tracemalloc
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from .carriers import data
from .peers import S3Server, bucket, program, why_missing
from .project import configure, databases
from .rows import Options, Row

SIZE = 10_000  # bytes
LARGE = 256 * 1024**2
WIDTH = 32
FILES = 2_000
TURNS = 3
WHAT = f"move of 10 KB files between two S3 servers, {WIDTH} threads, compared with rclone copy"
DROP = (
    f"removal of old copies by move --drop-old, {WIDTH} threads, compared with a HEAD and a DELETE "
    f"of each by boto3 in as many threads"
)
MEMORY = "memory used to move a file of 256 MiB between two S3 servers"


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("s3")
    no_rclone = missing or ("" if program("rclone") else "rclone is not installed")
    if no_rclone:
        yield Row(
            key="moves.rclone", what=WHAT, goal=0.8, is_at_most=False, ratio=None, reason=no_rclone
        )
    if missing:
        return
    configure(options.directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(databases())
        servers = [stack.enter_context(S3Server()) for _each in range(2)]
        places = [(server, stack.enter_context(bucket(server))) for server in servers]
        moves = Moves(options, *places)
        if not no_rclone:
            yield moves.rates()
        yield moves.removals()
        yield moves.memory()


class Moves:
    def __init__(
        self, options: Options, old: tuple[S3Server, str], new: tuple[S3Server, str]
    ) -> None:
        self._options = options
        self._old, self._new = old, new

    def rates(self) -> Row:
        files, turns = (40, 1) if self._options.quick else (FILES, TURNS)
        ours, theirs = [], []
        for _turn in range(turns):
            prefix, only = self._uploaded(files, SIZE), self._uploaded(1, SIZE)
            # Without the time that both take to start: rclone a process, and move its clients
            theirs.append(self._rclone(prefix) - self._rclone(only))
            ours.append(self._move(prefix, files, SIZE)[0] - self._move(only, 1, SIZE)[0])
        ratio = statistics.median(theirs) / statistics.median(ours)
        return Row(
            key="moves.rclone",
            what=WHAT,
            goal=0.8,
            is_at_most=False,
            ratio=round(ratio, 2),
            details={"files/s": round(files / statistics.median(ours), 1)},
        )

    def removals(self) -> Row:
        """Measure both with files of which each has its objects at both servers."""
        from queued_storage.operations.moving import drop_old

        files, turns = (40, 1) if self._options.quick else (FILES, TURNS)
        ours, theirs = [], []
        drop_old(self._storage(), threads=WIDTH)  # those of the other rows
        for _turn in range(turns):
            prefix = self._uploaded(files, SIZE)
            self._move(prefix, files, SIZE)
            ours.append(self._drop_old(files))
            prefix = self._uploaded(files, SIZE)
            self._move(prefix, files, SIZE)
            theirs.append(self._looked_at_and_deleted(prefix, files))
            self._drop_old(files)  # of the ledger
        ratio = statistics.median(theirs) / statistics.median(ours)
        return Row(
            key="moves.drop-old",
            what=DROP,
            goal=0.5,
            is_at_most=False,
            ratio=round(ratio, 2),
            details={
                "files/s": round(files / statistics.median(ours), 1),
                "boto3, files/s": round(files / statistics.median(theirs), 1),
            },
        )

    def _drop_old(self, files: int) -> float:
        from queued_storage.operations.moving import drop_old, old_copies

        storage = self._storage()
        started = time.perf_counter()
        assert drop_old(storage, threads=WIDTH) == files
        seconds = time.perf_counter() - started
        assert not old_copies(storage).exists()
        return seconds

    def _looked_at_and_deleted(self, prefix: str, files: int) -> float:
        (old, old_bucket), (new, new_bucket) = self._old, self._new
        looking, deleting = (
            each.client(read_timeout=60, max_pool_connections=WIDTH) for each in (new, old)
        )

        def remove(number: int) -> None:
            key = f"{prefix}/{number}"
            looking.head_object(Bucket=new_bucket, Key=key)
            deleting.delete_object(Bucket=old_bucket, Key=key)

        started = time.perf_counter()
        with ThreadPoolExecutor(WIDTH) as pool:
            list(pool.map(remove, range(files)))
        seconds = time.perf_counter() - started
        looking.close()
        deleting.close()
        return seconds

    def memory(self) -> Row:
        size = SIZE if self._options.quick else LARGE
        prefix = self._uploaded(1, size)
        _seconds, peak = self._move(prefix, 1, size, measures_memory=True)
        return Row(
            key="moves.memory",
            what=MEMORY,
            goal=64,
            is_at_most=True,
            ratio=round(peak / 1024**2, 1),
            unit="MiB",
        )

    def _uploaded(self, files: int, size: int) -> str:
        server, bucket_name = self._old
        prefix = uuid.uuid4().hex[:8]
        client = server.client(read_timeout=60, max_pool_connections=8)
        content = data(size)

        def put(number: int) -> None:
            client.put_object(Bucket=bucket_name, Key=f"{prefix}/{number}", Body=content)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(files)))
        client.close()
        return prefix

    def _storage(self) -> Any:
        from django.core.files.storage import FileSystemStorage
        from storages.backends.s3 import S3Storage

        from queued_storage.backends import QueuedStorage

        def s3(server: S3Server, bucket_name: str) -> Any:
            return S3Storage(**server.options(bucket_name))

        return QueuedStorage(
            FileSystemStorage(self._options.directory / "moves"),
            s3(*self._new),
            previous=[s3(*self._old)],
            alias="moves",
            delayed=True,
        )

    def _move(
        self, prefix: str, files: int, size: int, *, measures_memory: bool = False
    ) -> tuple[float, int]:
        from queued_storage.ledger.database import ledger
        from queued_storage.ledger.states import Content
        from queued_storage.operations.moving import left, move

        storage = self._storage()
        content = Content(size, f"crc32:{zlib.crc32(data(size)):08x}")
        old = storage.with_each_remote[1].remote_place.digest
        for number in range(files):
            ledger().record_remote(
                storage.alias,
                f"{prefix}/{number}",
                content,
                datetime.now(UTC),
                is_local=False,
                verified="checksum",
                place=old,
            )
        with _memory() if measures_memory else contextlib.nullcontext([0]) as peak:
            started = time.perf_counter()
            assert move(storage, threads=1 if measures_memory else WIDTH) == files
            seconds = time.perf_counter() - started
        assert not left(storage).exists()
        return seconds, peak[0]

    def _rclone(self, prefix: str) -> float:
        server = self._old[0]
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": server.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": server.SECRET_KEY,
            "AWS_REGION": server.REGION,
            "RCLONE_CONFIG": os.devnull,
        }
        places = [f"{_rclone_place(*each)}/{prefix}" for each in (self._old, self._new)]
        places[1] += "-rclone"
        command = [str(program("rclone")), "copy", *places]
        command += ["--transfers", str(WIDTH), "--checkers", str(WIDTH)]
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
        return time.perf_counter() - started


def _rclone_place(server: S3Server, bucket_name: str) -> str:
    return (
        f":s3,provider=Other,env_auth,endpoint='{server.endpoint_url}',"
        f"no_check_bucket,force_path_style:{bucket_name}"
    )


@contextlib.contextmanager
def _memory() -> Iterator[list[int]]:
    """Yield a list whose item is the peak of the memory in use, at the end of the block."""
    peak = [0]
    tracemalloc.start()
    try:
        yield peak
        peak[0] = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
