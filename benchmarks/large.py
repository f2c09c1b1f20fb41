"""How fast a worker uploads 1 GB, and how much memory it uses, compared with others."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .carriers import PLAIN, Place, Worker
from .peers import S3Server, bucket, why_missing
from .project import configure, databases
from .rows import Options, Row, peak, peak_of

MIB = 1 << 20
NAMES = ("worker", "upload_file", "S3Storage.save")
WARM = 2 * MIB  # the size of a file that is uploaded first in the same way
CONCURRENCY = 8
Found = dict[str, list[tuple[float, float]]]  # seconds, and the memory growth of the process in MiB


def rows(options: Options) -> Iterator[Row]:
    missing = why_missing("s3") or ""
    size = (20 if options.quick else 1024) * MIB
    found: Found = {}
    if not missing:
        configure(options.directory)
        with databases(), S3Server() as server:
            found = _measure(server, options, size)
    seconds = {name: statistics.median(s for s, _mib in each) for name, each in found.items()}
    memory = {name: max(mib for _s, mib in each) for name, each in found.items()}
    yield Row(
        key="workers.large",
        what=f"worker, 1 GB, compared with boto3's upload_file with {CONCURRENCY} threads",
        goal=1,
        is_at_most=False,
        ratio=None if missing else round(seconds["upload_file"] / seconds["worker"], 2),
        details={"MiB/s": {name: round(size / MIB / s, 1) for name, s in seconds.items()}},
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
    for number in range(1 if options.quick else 3):
        for name in NAMES[: 2 if number else 3]:  # the last one is only measured for its memory
            with bucket(server) as bucket_name:
                place = Place(server, server.endpoint_url, bucket_name, options.directory)
                by = _by_worker if name == "worker" else _in_child
                found[name].append(by(place, name, path))
    return found


def _by_worker(place: Place, name: str, path: Path) -> tuple[float, float]:
    from django.core.files import File

    with Worker(place, 1, PLAIN) as worker, path.open("rb") as file:

        def save() -> None:
            worker.storage.save("large", File(file))
            os.sync()

        worker.upload(1, WARM)
        before = peak_of(worker.process.pid)
        seconds = worker.transfer(save, look=1)
        return seconds, round(peak_of(worker.process.pid) - before, 1)


def _in_child(place: Place, name: str, path: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.large", name, str(path)]
    command.append(json.dumps(place.remote()))
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, grown = map(float, answer.stdout.split())
    return seconds, grown


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
    before, started = peak(), time.perf_counter()
    send(str(fresh))
    print(time.perf_counter() - started, round(peak() - before, 1))
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
    return lambda path: client.upload_file(path, storage.bucket_name, "sent", Config=config)


if __name__ == "__main__":
    main(*sys.argv[1:])
