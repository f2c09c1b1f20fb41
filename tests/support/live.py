"""Sites whose remotes are real S3 servers, which several processes use at once."""

import contextlib
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from pytest_django import Settings

from queued_storage.files.streams import MeasuredFile
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import Content
from tests.support.services import S3Server

BUCKET = "live"
TOGETHER = 1000  # files in one transaction of fill()
THREADS = 8
# All but the number of retries
SHORT = {"RETRY_DELAY": 0.1, "RETRY_MAX_DELAY": 0.3, "PROBE_EVERY": 0.5, "LEASE": 4}
WORKER = "queued_storage.queues.worker.WorkerQueue"
QUEUED = "queued_storage.backends.QueuedStorage"


def make_bucket(server: S3Server) -> None:
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=BUCKET)


def remove_bucket(server: S3Server) -> None:
    if server.process is None:
        server.start()
    with contextlib.closing(server.client()) as client:
        client.delete_bucket(Bucket=BUCKET)


def use_servers(settings: Settings, servers: dict[str, S3Server], retries: int) -> None:
    """Let these names be storages on the servers."""
    settings.QUEUED_STORAGE = {**SHORT, "RETRIES": retries, "QUEUE": WORKER}
    for name, server in servers.items():
        # The configuration of a client cannot be passed to other processes.
        options = server.options(BUCKET) | {"client_config": None, "addressing_style": "path"}
        backend = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | {name: backend}


def configured(remote: str, **options: list[str]) -> Any:
    """Let the default storage of this process have this remote, with more options."""
    from django.conf import settings

    default = {"BACKEND": QUEUED, "OPTIONS": {"local": "disk", "remote": remote, **options}}
    override_settings(STORAGES=settings.STORAGES | {"default": default}).enable()
    return storages["default"]


def run(verb: str, *names: str, **options: Any) -> None:
    """Run a verb, whose output and errors do not matter."""
    out = io.StringIO()
    with contextlib.suppress(CommandError):
        call_command("queued_storage", verb, *names, stdout=out, stderr=out, **options)


# Files whose names tell their bytes


def content_of(name: str) -> bytes:
    return f"{name} {hashlib.sha256(name.encode()).hexdigest()}".encode() * 20


def large_pieces(name: str, megabytes: int) -> Iterator[bytes]:
    """The bytes of a large file, each piece of which is another one."""
    block = content_of(name) * 500
    for number in range(megabytes):
        yield (f"{number:08}".encode() + block)[: 1024 * 1024].ljust(1024 * 1024, b".")


def write(storage: Any, name: str, data: bytes | None = None) -> None:
    with storage.open(name, "wb") as file:
        file.write(content_of(name) if data is None else data)


def fill(storage: Any, names: list[str]) -> None:
    """Put files on the remote and into the ledger, faster than they could be saved."""
    saved_at, place = timezone.now(), storage.remote_place.digest
    storage.uploader.expect_many()
    _upload(storage, names[0])  # finds out what the server can do
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(partial(_upload, storage), names[1:]))
    remaining = iter(names)
    while batch := list(islice(remaining, TOGETHER)):
        with transaction.atomic(using=ledger().db):
            for name in batch:
                data = content_of(name)
                content = Content(len(data), f"crc32:{zlib.crc32(data):08x}")
                ledger().record_remote(
                    "default",
                    name,
                    content,
                    saved_at,
                    is_local=False,
                    verified="checksum",
                    place=place,
                )


def _upload(storage: Any, name: str) -> None:
    storage.uploader.upload(name, MeasuredFile(ContentFile(content_of(name)), name))


# The objects of a server


def keys(server: S3Server) -> set[str]:
    with contextlib.closing(server.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        found = {item["Key"] for page in pages for item in page.get("Contents", [])}
        return {key for key in found if not key.startswith(".queued-storage")}


def differing(
    server: S3Server, names: Iterable[str], pieces_of: Callable[[str], Iterable[bytes]]
) -> list[str]:
    """Return the keys whose objects do not have the bytes that are expected, piece by piece."""
    with contextlib.closing(server.client(max_pool_connections=THREADS)) as client:

        def found(key: str) -> str:
            body: Any = client.get_object(Bucket=BUCKET, Key=key)["Body"]
            with contextlib.closing(body):
                is_same = all(body.read(len(piece)) == piece for piece in pieces_of(key))
                return "" if is_same and not body.read(1) else key

        with ThreadPoolExecutor(THREADS) as pool:
            return list(filter(None, pool.map(found, names)))
