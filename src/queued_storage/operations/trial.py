"""A scratch directory on a remote, and the calls that a transfer makes there."""

import random
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from django.core.files import File
from django.core.files.storage import Storage
from django.db import connections

from ..files.streams import MeasuredFile
from ..ledger.states import Content
from ..uploaders import Uploader

SMALL = 5_000
THREADS_TIMEOUT = 60.0  # seconds for what several threads do at once, and for cleaning up


class Problem(Exception):
    """The remote does not do what a transfer, a reader or a delete relies on."""

    def __init__(self, outcome: str, details: str = "") -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.details = details


@dataclass(frozen=True, slots=True)
class Sent:
    """A file on the remote: its name there, its bytes, and what was measured on their way."""

    name: str
    data: bytes
    content: Content


class Trial:
    """A scratch directory on the remote, and all that was put there."""

    def __init__(self, remote: Storage, uploader: Uploader, large: int) -> None:
        self.remote = remote
        self.uploader = uploader
        self.large = large
        self.directory = f"queued-storage-check-{secrets.token_hex(6)}"
        self.first: Sent | None = None
        self._names: dict[str, None] = {}  # in their order

    @property
    def small(self) -> Sent:
        """The file that the first check stored."""
        assert self.first
        return self.first

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def send(self, name: str, size: int = SMALL) -> Sent:
        """What the first attempt of a transfer does."""
        return self.put(self.path(name), data_of(size), self.uploader.upload_new)

    def send_again(self, name: str, size: int = SMALL) -> Sent:
        """What a retry does, over the remains of an attempt before it."""
        self.uploader.forget_unfinished(name)
        if not self.uploader.replaces:
            self.uploader.remove(name)
        return self.put(name, data_of(size), self.uploader.upload)

    def put(self, path: str, data: bytes, upload: Callable[[str, MeasuredFile], str]) -> Sent:
        self.note(path)
        with on_disk(data) as file:
            outgoing = MeasuredFile(file, path)
            written: Any = upload(path, outgoing)
        if not isinstance(written, str):
            raise Problem("gives no name for a stored file", f"save() returned {written!r}")
        self.note(written)
        return Sent(written, data, outgoing.content)

    def note(self, name: str) -> None:
        """Have it deleted in the end, whatever comes of it."""
        self._names[name] = None

    def read(self, name: str) -> bytes:
        return b"".join(self.uploader.read_back(name))

    def require_whole(self, sent: Sent) -> None:
        """The bytes that were sent, and that a reader gets."""
        if sent.content.size != len(sent.data):
            raise Problem("not sent as a whole", f"{sent.content.size} of {len(sent.data)} bytes")
        self.uploader.verify(sent.name, sent.content, "checksum")
        if self.read(sent.name) != sent.data:
            raise Problem("read back with other bytes")

    def clean_up(self) -> list[str]:
        """Delete all that was stored; returns the names that are still there, or may be."""
        left = list(self._names)

        def clean_up() -> None:
            for name in list(left):
                with suppress(Exception):
                    self.uploader.remove(name)
                    if not self.remote.exists(name):
                        left.remove(name)
            for directory in self._directories():
                with suppress(Exception):  # a remote without directories, or none that can go
                    self.remote.delete(directory)

        # A connection that two threads have confused may never answer again.
        in_threads([clean_up])
        return left

    def _directories(self) -> list[str]:
        """Those that were made for our names, the deepest first; never one of somebody else's."""
        found = {str(parent) for name in self._names for parent in PurePosixPath(name).parents}
        ours = {each for each in found if f"{each}/".startswith(f"{self.directory}/")}
        return sorted(ours, reverse=True)


def data_of(size: int) -> bytes:
    """Bytes that do not compress, and are never those of another file."""
    return random.Random(secrets.token_bytes(8)).randbytes(size)


@contextmanager
def on_disk(data: bytes) -> Iterator[File]:
    """Libraries treat a file that the system knows otherwise than bytes in memory."""
    with tempfile.NamedTemporaryFile(prefix="queued-storage-check-") as file:
        file.write(data)
        file.seek(0)
        yield File(file)


def in_threads(jobs: list[Callable[[], None]]) -> list[BaseException]:
    """Run them at once; returns their errors. One that does not come back is left behind."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # of which nobody would hear
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[job], daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + THREADS_TIMEOUT
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
        if thread.is_alive():
            errors.append(TimeoutError(f"no answer in {THREADS_TIMEOUT:g} seconds"))
    return errors


_SOCKET_CALLS = frozenset({"connect", "connect_ex", "getaddrinfo", "send", "sendall", "write"})


@contextmanager
def watched_sockets() -> Iterator[list[str]]:
    """The names of the calls on sockets that this thread makes meanwhile."""
    calls: list[str] = []

    def profile(frame: Any, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in _SOCKET_CALLS:
            return
        owner = getattr(function, "__self__", None)
        module = getattr(owner, "__module__", None) or getattr(owner, "__name__", None)
        if module in {"_socket", "socket", "ssl", "_ssl"}:
            calls.append(function.__name__)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)
