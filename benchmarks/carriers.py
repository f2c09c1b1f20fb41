"""Programs and libraries that upload files to S3.

Each context manager starts its threads and sessions. It yields a function that uploads a number of
files of a given size and returns what this took.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from tests.support.services import kill_group, spawn, url

from .peers import AncestorMissing, S3Server, ancestor_python, program, why_missing
from .project import queued_storage
from .rows import Turn, spent_by, spent_by_children
from .worker import storage_of

Upload = Callable[[int, int], Turn]  # with the number of files, and their size in bytes
Send = Callable[[str, bytes], object]

POLL = 0.05  # seconds between queries of an idle worker for due files
LOOK = 0.05  # seconds between checks for the last transfer; not part of the result


@dataclass(frozen=True)
class Place:
    """The bucket of all uploads, and the directory of the files."""

    server: S3Server
    endpoint_url: str  # of the server, or of a proxy in front of it
    bucket_name: str
    directory: Path

    def prefix(self) -> str:
        return uuid.uuid4().hex[:8]

    def remote(self) -> dict[str, Any]:
        """Return the options of ``S3Storage`` that JSON can represent."""
        options = self.server.options(self.bucket_name, self.endpoint_url)
        del options["client_config"]
        return options

    def client(self, **config: Any) -> Any:
        return self.server.client(self.endpoint_url, read_timeout=60, **config)


@lru_cache(maxsize=2)
def data(size: int) -> bytes:
    return os.urandom(size)


# This package


@dataclass(frozen=True)
class Way:
    """How a queued storage uploads its files."""

    uploader: str | None = None  # None: the one for S3Storage
    remote: dict[str, Any] = field(default_factory=dict)  # options of S3Storage
    proof: str = "checksum"  # the level that the ledger contains for each file


PLAIN = Way("queued_storage.uploaders.s3.PlainS3Uploader")
FAST = Way()
GENERIC = Way("queued_storage.uploaders.generic.GenericUploader", proof="size")


class Worker:
    """``manage.py queued_storage worker`` in a separate process, or in several, and its ledger."""

    def __init__(
        self,
        place: Place,
        width: int,
        way: Way,
        processes: int = 1,
        database: str | None = None,
    ) -> None:
        from django.db import connections

        from queued_storage.ledger.database import ledger

        self.alias = f"bench-{place.prefix()}"
        self._spec = {
            "alias": self.alias,
            "directory": str(place.directory),
            "local": str(place.directory / self.alias),
            "remote": place.remote() | way.remote,
            "uploader": way.uploader,
            "postgres": str(connections[database].settings_dict["NAME"]) if database else "",
        }
        self._database = database  # of the ledger
        self._place = place
        self._width = width  # threads of each process
        self._processes = processes
        with queued_storage(DATABASE=database):
            self.storage = storage_of(self._spec)
            assert self.storage.alias
            self.rows = ledger().filter(alias=self.alias)

    def __enter__(self) -> "Worker":
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(self._spec), "worker"]
        options = {"threads": self._width, "processes": self._processes, "poll": POLL}
        command += [f"--{name}={value}" for name, value in options.items()]
        self.process = spawn(command, stdout=subprocess.PIPE, text=True)
        try:
            begun = (line for line in self.process.stdout if "Transferring" in line)
            assert sum(1 for _line in islice(begun, self._processes)) == self._processes
            self.upload(max(40, 2 * self._width) * self._processes, 10_000)
        except BaseException:
            kill_group(self.process)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        kill_group(self.process)
        shutil.rmtree(self._spec["local"], ignore_errors=True)

    def upload(self, files: int, size: int) -> Turn:
        from django.core.files.base import ContentFile

        prefix = self._place.prefix()

        def save() -> None:
            for number in range(files):
                self.storage.save(f"{prefix}/{number}", ContentFile(data(size)))

        return self.transfer(save)

    def transfer(self, save: Callable[[], object], look: float = LOOK) -> Turn:
        """Return what it took from the release of the saved files to the last transfer."""
        self._signal(signal.SIGCONT)
        with queued_storage(DATABASE=self._database):
            save()
            return self._turn(look)

    def _turn(self, look: float) -> Turn:
        from django.db.models import Max

        from queued_storage.ledger.states import State

        started, before = time.time(), spent_by(self.process.pid)
        self.rows.make_due()
        unfinished = self.rows.filter(state__in=[State.PENDING, State.TRANSFERRING])
        while unfinished.exists():
            errors = unfinished.exclude(last_error="").values_list("last_error", flat=True)
            if (error := errors.first()) or self.process.poll() is not None:
                raise RuntimeError(f"The worker does not finish: {error}")
            time.sleep(look)
        spent = spent_by(self.process.pid) - before
        self._signal(signal.SIGSTOP)  # its queries would slow down the next measurement
        last = self.rows.aggregate(last=Max("transferred_at"))["last"]
        return Turn(last.timestamp() - started, spent)

    def _signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)  # of all processes

    def proofs(self) -> set[str]:
        return set(self.rows.values_list("verified", flat=True))


@contextlib.contextmanager
def worker(
    place: Place, width: int, way: Way, processes: int = 1, database: str | None = None
) -> Iterator[Upload]:
    with Worker(place, width, way, processes, database) as ours:
        yield ours.upload
        assert ours.proofs() == {way.proof}, ours.proofs()


# Threads


@contextlib.contextmanager
def put_object(place: Place, width: int) -> Iterator[Upload]:
    """Call boto3's ``put_object()`` in threads that share a client."""
    client = place.client(max_pool_connections=width)

    def send(name: str, content: bytes) -> None:
        client.put_object(Bucket=place.bucket_name, Key=name, Body=io.BytesIO(content))

    with _in_threads(place, width, send) as upload:
        yield upload


@contextlib.contextmanager
def save_and_size(place: Place, width: int) -> Iterator[Upload]:
    """Send only the requests of the generic uploader."""
    from django.core.files.base import ContentFile
    from storages.backends.s3 import S3Storage

    remote = S3Storage(**place.remote(), client_config=S3Server.client_config(read_timeout=60))

    def send(name: str, content: bytes) -> None:
        assert remote.size(remote.save(name, ContentFile(content))) == len(content)

    with _in_threads(place, width, send) as upload:
        yield upload


@contextlib.contextmanager
def _in_threads(place: Place, width: int, send: Send) -> Iterator[Upload]:
    with ThreadPoolExecutor(width) as pool:
        together = threading.Barrier(width, timeout=300)

        def warm(number: int) -> None:
            together.wait()  # until all threads run, so that each sends one file
            send(f"warm/{number}", b"warm")

        def upload(files: int, size: int) -> Turn:
            prefix = place.prefix()
            names = iter([f"{prefix}/{number}" for number in range(files)])  # shared by the threads

            def work(_number: int) -> None:
                for name in names:
                    send(name, data(size))

            started, before = time.perf_counter(), time.process_time()
            list(pool.map(work, range(width)))
            return Turn(time.perf_counter() - started, time.process_time() - before)

        list(pool.map(warm, range(width)))
        yield upload


# Programs


@contextlib.contextmanager
def copying(place: Place, width: int, tool: str) -> Iterator[Upload]:
    """Upload with a program that copies a directory.

    Each turn starts the program anew, so what a single file takes is subtracted.
    """
    single = [_copy(place, width, tool, 1, 10_000) for _once in range(3)]
    alone = Turn(*map(statistics.median, zip(*single, strict=True)))

    def upload(files: int, size: int) -> Turn:
        turn = _copy(place, width, tool, files, size)
        return Turn(
            max(turn.seconds - alone.seconds, 1e-3), max(turn.processor - alone.processor, 1e-3)
        )

    yield upload


def _copy(place: Place, width: int, tool: str, files: int, size: int) -> Turn:
    prefix = place.prefix()
    source = place.directory / f"source-{prefix}"
    source.mkdir()
    for number in range(files):
        (source / f"{number}").write_bytes(data(size))
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": place.server.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": place.server.SECRET_KEY,
        "AWS_REGION": place.server.REGION,
        "RCLONE_CONFIG": os.devnull,
    }
    arguments = {
        "rclone": [
            *("copy", str(source)),
            f":s3,provider=Other,env_auth,endpoint='{place.endpoint_url}',"
            f"no_check_bucket,force_path_style:{place.bucket_name}/{prefix}",
            *("--transfers", str(width), "--checkers", str(width)),
        ],
        "s5cmd": [
            *("--endpoint-url", place.endpoint_url, "--numworkers", str(width)),
            *("cp", f"{source}/", f"s3://{place.bucket_name}/{prefix}/"),
        ],
    }
    command = [program(tool) or tool, *arguments[tool]]
    started, before = time.perf_counter(), spent_by_children()
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    turn = Turn(time.perf_counter() - started, spent_by_children() - before)
    shutil.rmtree(source)
    return turn


# django-queued-storage 0.8


def prepare_ancestor(may_install: bool) -> None:
    """Raises ``AncestorMissing`` if it cannot run."""
    if missing := why_missing("redis"):
        raise AncestorMissing(f"its broker is missing: {missing}")
    ancestor_python(may_install)


@contextlib.contextmanager
def ancestor(place: Place, width: int) -> Iterator[Upload]:
    """Its storage in one process, and its task in a Celery worker."""
    name = f"bench-{place.prefix()}"
    spec = {
        "redis": url("redis"),
        "name": name,
        "local": str(place.directory / name),
        "remote": {**place.remote(), "addressing_style": "path", "signature_version": "s3v4"},
    }
    environment = {**os.environ, "BENCH_ANCESTOR": json.dumps(spec)}
    python = ancestor_python()
    command = [python, "-W", "ignore", "-m", "celery", "-A", "benchmarks.ancestor", "worker"]
    command += ["-c", str(width), "-l", "ERROR", "-O", "fair"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with contextlib.ExitStack() as stack:
        stack.callback(_forget_in_redis, name)
        celery = spawn(command, env=environment, stdout=subprocess.DEVNULL)
        stack.callback(kill_group, celery)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        web = spawn([python, "-m", "benchmarks.ancestor"], env=environment, **pipes)
        stack.callback(kill_group, web)

        def upload(files: int, size: int) -> Turn:
            before = spent_by(celery.pid)
            print(place.prefix(), files, size, file=web.stdin, flush=True)
            if not (seconds := web.stdout.readline()):
                raise RuntimeError("django-queued-storage 0.8 does not finish.")
            return Turn(float(seconds), spent_by(celery.pid) - before)

        upload(width, 10_000)
        yield upload


def _forget_in_redis(name: str) -> None:
    import redis

    with redis.Redis.from_url(url("redis")) as client:
        for key in client.scan_iter(f"*{name}*"):
            client.delete(key)
