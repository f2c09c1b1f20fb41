"""How quickly a worker carries 1 GB, and the memory that it takes, beside others."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import carriers
from .carriers import Place, Worker
from .peers import S3Server, bucket, why_missing
from .project import configure, databases
from .rows import Options, Row, peak, peak_of

MIB = 1 << 20
OURS = {"plain": carriers.PLAIN, "fast": carriers.FAST}
THEIRS = ("upload_file", "S3Storage.save")
CONCURRENCY = 8
Found = dict[str, list[tuple[float, float]]]  # seconds, and MiB that a process has grown by


def rows(options: Options) -> Iterator[Row]:
    reasons = {"fast": "" if find_spec("obstore") else "obstore is not installed"}
    found: Found = {}
    size = (20 if options.quick else 1024) * MIB
    if missing := why_missing("s3"):
        reasons = dict.fromkeys(OURS, missing)
    else:
        configure(options.directory)
        with databases(), S3Server() as server:
            found = _measure(
                server, options, size, [name for name in OURS if not reasons.get(name)]
            )
    seconds = {name: statistics.median(s for s, _mib in each) for name, each in found.items()}
    memory = {name: max(mib for _s, mib in each) for name, each in found.items()}
    details = {"MiB/s": {name: round(size / MIB / s, 1) for name, s in seconds.items()}}
    for name, extra in (("plain", ""), ("fast", "with the extra fast, ")):
        yield Row(
            key=f"large.{name}",
            what=f"1 GB, {extra}against boto3's upload_file, c={CONCURRENCY}",
            goal=1,
            is_at_most=False,
            ratio=round(seconds["upload_file"] / seconds[name], 2) if name in seconds else None,
            details=details,
            reason=reasons.get(name, ""),
        )
        yield Row(
            key=f"large.memory.{name}",
            what=f"1 GB, {extra}by how much the memory of the worker grows",
            goal=32,
            is_at_most=True,
            ratio=round(memory[name], 1) if name in memory else None,
            unit="MiB",
            details={"MiB": memory},
            reason=reasons.get(name, ""),
        )


def _measure(server: S3Server, options: Options, size: int, ours: list[str]) -> Found:
    path = options.directory / "large"
    _write(path, size)
    found: Found = {name: [] for name in (*ours, *THEIRS)}
    for _round in range(1 if options.quick else 3):
        for name, each in found.items():
            if name == "S3Storage.save" and each:
                continue  # for its memory only
            with bucket(server) as bucket_name:
                place = Place(server, server.endpoint_url, bucket_name, options.directory)
                by = _by_ours if name in OURS else _in_child
                each.append(by(place, name, path))
    return found


def _by_ours(place: Place, name: str, path: Path) -> tuple[float, float]:
    from django.core.files import File

    with Worker(place, 1, OURS[name]) as worker, path.open("rb") as file:
        before = peak_of(worker.process.pid)
        seconds = worker.bring(lambda: worker.storage.save("large", File(file)))
        return seconds, peak_of(worker.process.pid) - before


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
    small = Path(path).with_name("small")
    small.write_bytes(b"small")
    send(str(small))
    before, started = peak(), time.perf_counter()
    send(path)
    print(time.perf_counter() - started, round(peak() - before, 1))


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
