"""What workers carry in a second, beside others at the same work."""

import contextlib
import io
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .peers import S3Server, bucket, program, why_missing
from .project import configure, databases
from .rows import Options, Row, peak

SMALL = 10_000  # bytes
MIB = 1 << 20
WIDTHS = (8, 32)
GENERIC = "queued_storage.uploaders.generic.GenericUploader"
Rates = dict[str, float]  # files a second of each


def rows(options: Options) -> Iterator[Row]:
    if missing := why_missing("s3"):
        for key, what, goal in _goals():
            yield Row(key, what, goal, is_at_most=False, ratio=None, reason=missing)
        return
    configure(options.directory)
    with databases(), S3Server() as server, bucket(server) as name:
        bench = Bench(server, name, options)
        for width in WIDTHS[:1] if options.quick else WIDTHS:
            yield from _small(bench, width)
        yield from _large(bench)


def _goals() -> Iterator[tuple[str, str, float]]:
    for width in WIDTHS:
        yield f"workers.boto3.{width}", f"10 KB, c={width}, against boto3's put_object", 1.2
        yield f"workers.rclone.{width}", f"10 KB, c={width}, against rclone copy", 1.0
        yield f"workers.s5cmd.{width}", f"10 KB, c={width}, against s5cmd cp", 0.8
        yield f"workers.generic.{width}", f"10 KB, c={width}, any storage: save and size", 0.9
    yield "workers.large", "1 GB, against boto3's upload_file, c=8", 1.0


def _small(bench: "Bench", width: int) -> Iterator[Row]:
    files = 2 * width if bench.options.quick else 400
    with bench.worker(width) as ours, bench.worker(width, uploader=GENERIC) as generic:
        works: dict[str, Callable[[int], float]] = {
            "ours": ours,
            "boto3": lambda count: bench.put_object(width, count),
            "generic": generic,
            "save and size": lambda count: bench.save_and_size(width, count),
        }
        for tool in ("rclone", "s5cmd"):
            if program(tool):
                works[tool] = lambda count, tool=tool: bench.copy(tool, width, count)  # type: ignore[misc]
        rates = _rates(works, files, bench.options.rounds(3))
    details = {f"files/s, {name}": round(rate, 1) for name, rate in rates.items()}
    for key, what, goal in _goals():
        group, _dot, name = key.partition(".")
        peer, _dot, number = name.partition(".")
        if number != str(width):
            continue
        one, other = ("generic", "save and size") if peer == "generic" else ("ours", peer)
        ratio = round(rates[one] / rates[other], 2) if other in rates else None
        reason = "" if ratio is not None else f"{peer} is not installed"
        yield Row(f"{group}.{name}", what, goal, False, ratio, details=details, reason=reason)


def _rates(works: dict[str, Callable[[int], float]], files: int, rounds: int) -> Rates:
    """The median of the rates of each, by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _round in range(rounds):
        for name, work in works.items():
            seconds[name].append(work(files))
    return {name: files / sorted(found)[len(found) // 2] for name, found in seconds.items()}


def _large(bench: "Bench") -> Iterator[Row]:
    size = (20 if bench.options.quick else 1024) * MIB
    with bench.worker(1) as ours:
        before = peak()
        mine = ours(1, size)
        grown = peak() - before
    theirs = bench.upload_file(size)
    speeds = {"MiB/s, ours": round(size / MIB / mine, 1)}
    speeds["MiB/s, upload_file"] = round(size / MIB / theirs, 1)
    for key, what, goal in _goals():
        if key == "workers.large":
            yield Row(key, what, goal, False, round(theirs / mine, 2), details=speeds)
    what = "1 GB, by how much the memory of the worker grows"
    yield Row("workers.large.memory", what, 32, True, round(grown, 1), "MiB")


class Bench:
    """The same work for everybody: so many files of so many bytes go to one bucket."""

    def __init__(self, server: S3Server, bucket_name: str, options: Options) -> None:
        self.server = server
        self.bucket_name = bucket_name
        self.options = options
        self.data = os.urandom(SMALL)
        self.count = 0

    def _prefix(self) -> str:
        self.count += 1
        return f"{self.count}"

    def remote(self) -> Any:
        from storages.backends.s3 import S3Storage

        return S3Storage(**self.server.options(self.bucket_name))

    @contextlib.contextmanager
    def worker(self, width: int, **options: Any) -> Iterator[Callable[..., float]]:
        """Saves files, and gives the seconds until a worker has brought them all: its threads are
        there, as those of the others."""
        from django.core.files.base import ContentFile
        from django.core.files.storage import FileSystemStorage

        from queued_storage.backends import QueuedStorage
        from queued_storage.executor import Executor
        from queued_storage.models import QueuedFile, State, ledger

        local = FileSystemStorage(self.options.directory / f"local-{self._prefix()}")
        alias = f"bench-{self.count}"
        storage = QueuedStorage(local, self.remote(), alias=alias, delayed=True, **options)
        found = ledger().filter(alias=alias)
        executor = Executor(width, 0.05, lambda: [alias])
        executor.start()

        def carry(files: int, size: int = SMALL) -> float:
            prefix = self._prefix()
            for number in range(files):
                content = self.data if size == SMALL else b""
                name = storage.save(f"{prefix}/{number}", ContentFile(content))
                if size != SMALL:
                    self._grow(storage, name, size)
            started = time.perf_counter()
            found.release()
            while found.exclude(state=State.TRANSFERRED).exists():
                errors = set(found.exclude(last_error="").values_list("last_error", flat=True))
                assert not errors, errors
                time.sleep(0.01)
            seconds = time.perf_counter() - started
            proofs = set(QueuedFile.objects.filter(alias=alias).values_list("verified", flat=True))
            assert proofs == {"size"} if options else {"checksum"}, proofs
            return seconds

        try:
            carry(max(40, 2 * width))  # every thread has its session, and the server is known
            yield carry
        finally:
            executor.stop()

    @staticmethod
    def _grow(storage: Any, name: str, size: int) -> None:
        """Have the file be a large one, which need not be held in memory for that."""
        from queued_storage.models import ledger
        from queued_storage.streams import checksum_of

        path = storage.local.path(name)
        _write_large(Path(path), size)
        with open(path, "rb") as file:
            checksum = checksum_of(iter(lambda: file.read(MIB), b""))
        ledger().named(storage.alias, name).update(size=size, checksum=str(checksum))

    def put_object(self, width: int, files: int) -> float:
        """What who knows boto3 would write: a file, sent by each thread's own client."""
        prefix = self._prefix()

        def make() -> Callable[[str], object]:
            client: Any = self.server.client()
            return lambda name: client.put_object(
                Bucket=self.bucket_name, Key=name, Body=io.BytesIO(self.data)
            )

        return self._in_threads(width, files, make, prefix)

    def save_and_size(self, width: int, files: int) -> float:
        from django.core.files.base import ContentFile

        remote = self.remote()
        prefix = self._prefix()

        def work(name: str) -> None:
            assert remote.size(remote.save(name, ContentFile(self.data))) == SMALL

        return self._in_threads(width, files, lambda: work, prefix)

    @staticmethod
    def _in_threads(
        width: int, files: int, make: Callable[[], Callable[[str], object]], prefix: str
    ) -> float:
        together = threading.Barrier(width + 1, timeout=300)
        errors: list[BaseException] = []

        def run(number: int) -> None:
            try:
                work = make()
                work(f"{prefix}/warm-{number}")
                together.wait()
                for each in range(number, files, width):
                    work(f"{prefix}/{each}")
                together.wait()
            except BaseException as error:
                errors.append(error)
                together.abort()

        threads = [threading.Thread(target=run, args=(each,)) for each in range(width)]
        for thread in threads:
            thread.start()
        try:
            together.wait()
            started = time.perf_counter()
            together.wait()
            return time.perf_counter() - started
        finally:
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]

    def copy(self, tool: str, width: int, files: int) -> float:
        """The same files by a program, from the directory where they lie."""
        prefix = self._prefix()
        source = self.options.directory / f"source-{prefix}"
        source.mkdir()
        for number in range(files):
            (source / f"{number}").write_bytes(self.data)
        server = self.server
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": server.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": server.SECRET_KEY,
            "AWS_REGION": server.REGION,
            "RCLONE_CONFIG": os.devnull,
        }
        commands = {
            "rclone": [
                *("rclone", "copy", str(source)),
                f":s3,provider=Other,env_auth,endpoint='{server.endpoint_url}',"
                f"no_check_bucket,force_path_style:{self.bucket_name}/{prefix}",
                *("--transfers", str(width), "--checkers", str(width)),
            ],
            "s5cmd": [
                *("s5cmd", "--endpoint-url", server.endpoint_url, "--numworkers", str(width)),
                *("cp", f"{source}/", f"s3://{self.bucket_name}/{prefix}/"),
            ],
        }
        command = commands[tool]
        command[0] = program(tool) or tool
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
        seconds = time.perf_counter() - started
        shutil.rmtree(source)
        return seconds

    def upload_file(self, size: int) -> float:
        from boto3.s3.transfer import TransferConfig

        path = self.options.directory / "large"
        _write_large(path, size)
        client: Any = self.server.client()
        started = time.perf_counter()
        config = TransferConfig(max_concurrency=8)
        client.upload_file(str(path), self.bucket_name, self._prefix(), Config=config)
        seconds = time.perf_counter() - started
        path.unlink()
        return seconds


def _write_large(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _piece in range(size // MIB):
            file.write(os.urandom(MIB))
