"""How fast a worker uploads 1 GB, and what it uses, compared with boto3 and ``S3Storage``."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .carriers import PLAIN, Place, Worker
from .peers import S3Server, bucket, why_missing
from .project import configure, databases
from .rows import Options, Row, peak, peak_of, ratio_of

MIB = 1 << 20
NAMES = ("worker", "upload_file", "S3Storage.save")
WARM = 2 * MIB  # the size of a file that is uploaded first in the same way
CONCURRENCY = 8
ROUNDS = 10
# What the worker asks for, too: a checksum that the server compares with that of the whole object
CHECKSUM = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}


class Upload(NamedTuple):
    seconds: float
    processor: float  # seconds of the process
    grown: float  # MiB of its memory


Found = dict[str, list[Upload]]


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("s3") or ""
    size = (20 if options.quick else 1024) * MIB
    found: Found = {}
    if not missing:
        configure(options.directory)
        with databases(), S3Server() as server:
            found = _measure(server, options, size)
    seconds = {name: [each.seconds for each in uploads] for name, uploads in found.items()}
    processor = {name: [each.processor for each in uploads] for name, uploads in found.items()}
    memory = {name: max(each.grown for each in uploads) for name, uploads in found.items()}
    yield Row(
        key="workers.large",
        what=f"worker, 1 GB, compared with boto3's upload_file with {CONCURRENCY} threads",
        goal=0.95,
        is_at_most=False,
        ratio=None if missing else ratio_of(seconds["upload_file"], seconds["worker"]),
        details={
            "against": "upload_file with a CRC-32 of the whole object; each file is a new one",
            "MiB/s": {
                name: round(size / MIB / statistics.median(each), 1)
                for name, each in seconds.items()
            },
            "seconds by round": {
                name: [round(s, 2) for s in each] for name, each in seconds.items()
            },
        },
        reason=missing,
    )
    yield Row(
        key="workers.large.processor",
        what="processor time of the worker for 1 GB, compared with boto3's upload_file with "
        f"{CONCURRENCY} threads",
        goal=1.25,
        is_at_most=True,
        ratio=None if missing else ratio_of(processor["worker"], processor["upload_file"]),
        details={
            "seconds": {
                name: round(statistics.median(each), 2) for name, each in processor.items()
            },
        },
        reason=missing,
    )
    yield Row(
        key="workers.large.memory",
        what="memory growth of the worker for 1 GB",
        goal=32,
        is_at_most=True,
        ratio=None if missing else memory["worker"],
        unit="MiB",
        details={"MiB": memory},
        reason=missing,
    )


def _measure(server: S3Server, options: Options, size: int) -> Found:
    path = options.directory / "large"
    _write(path, size)
    found: Found = {name: [] for name in NAMES}
    for number in range(1 if options.quick else ROUNDS):
        names = NAMES[: 2 if number else 3]  # the last one is only measured for its memory
        for name in reversed(names) if number % 2 else names:
            with bucket(server) as bucket_name:
                place = Place(server, server.endpoint_url, bucket_name, options.directory)
                by = _by_worker if name == "worker" else _in_child
                found[name].append(by(place, name, path))
    return found


def _by_worker(place: Place, name: str, path: Path) -> Upload:
    from django.core.files import File

    with Worker(place, 1, PLAIN) as worker, path.open("rb") as file:

        def save() -> None:
            worker.storage.save("large", File(file))
            os.sync()

        worker.upload(1, WARM)
        before = peak_of(worker.process.pid)
        turn = worker.transfer(save, look=0.2)
        return Upload(*turn, round(peak_of(worker.process.pid) - before, 1))


def _in_child(place: Place, name: str, path: Path) -> Upload:
    command = [sys.executable, "-m", "benchmarks.large", name, str(path)]
    command.append(json.dumps(place.remote()))
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Upload(*map(float, answer.stdout.split()))


def _write(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _piece in range(size // MIB):
            file.write(os.urandom(MIB))


def main(name: str, path: str, remote: str) -> None:
    send = _sender(name, json.loads(remote))
    warm, fresh = (Path(path).with_name(part) for part in ("warm", "fresh"))
    _write(warm, WARM)
    send(str(warm))
    shutil.copyfile(path, fresh)  # a recently written file, as a worker uploads
    os.sync()
    before, used, started = peak(), time.process_time(), time.perf_counter()
    send(str(fresh))
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    print(seconds, processor, round(peak() - before, 1))
    fresh.unlink()


def _sender(name: str, remote: dict[str, Any]) -> Callable[[str], object]:
    from boto3.s3.transfer import TransferConfig
    from django.conf import settings
    from django.core.files import File
    from storages.backends.s3 import S3Storage

    settings.configure()
    storage: Any = S3Storage(**remote, client_config=S3Server.client_config(read_timeout=60))
    if name == "S3Storage.save":

        def save(path: str) -> None:
            with Path(path).open("rb") as file:
                storage.save("saved", File(file))

        return save
    client = storage.connection.meta.client
    config = TransferConfig(max_concurrency=CONCURRENCY)
    more = {"ExtraArgs": CHECKSUM, "Config": config}
    return lambda path: client.upload_file(path, storage.bucket_name, "sent", **more)


if __name__ == "__main__":
    main(*sys.argv[1:])
