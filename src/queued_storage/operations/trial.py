"""Transfers of temporary files to a remote, as a worker makes them."""

import random
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

from django.core.files import File
from django.core.files.storage import Storage
from django.db import connections

from ..files.streams import MeasuredFile
from ..ledger.states import Content
from ..remotes.classes import known_of
from ..remotes.fault_kinds import Fault, with_causes
from ..remotes.faults_http import answer_in
from ..uploaders import Uploader

SMALL = 5_000
# Errors of connections that were never made, so that nothing was sent
UNCONNECTED = dict.fromkeys(
    (
        *("botocore.exceptions.ConnectTimeoutError", "botocore.exceptions.EndpointConnectionError"),
        *("builtins.ConnectionRefusedError", "httpx.ConnectError", "httpx.ConnectTimeout"),
        *("requests.exceptions.ConnectTimeout", "socket.gaierror"),
        *("urllib3.exceptions.ConnectTimeoutError", "urllib3.exceptions.NewConnectionError"),
    ),
    True,
)
THREADS_TIMEOUT = 60.0  # seconds for concurrent uploads, and for the clean-up


class Problem(Exception):
    """The remote does not do what transfers, reads or deletes rely on."""

    def __init__(self, outcome: str, details: str = "") -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.details = details


@dataclass(frozen=True, slots=True)
class Sent:
    """A file on the remote: its name there, its bytes, and what the upload measured."""

    name: str
    data: bytes
    content: Content


class Trial:
    """A temporary directory on a remote, which remembers its files to delete them."""

    def __init__(self, remote: Storage, uploader: Uploader, large: int) -> None:
        self.remote = remote
        self.uploader = uploader
        self.large = large
        self.directory = f"queued-storage-check-{secrets.token_hex(6)}"
        self.first: Sent | None = None
        self._names: dict[str, None] = {}  # ordered, for a readable list

    @property
    def small(self) -> Sent:
        """The file that the first check has stored."""
        assert self.first
        return self.first

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def send(self, name: str, size: int = SMALL) -> Sent:
        """Upload a file as the first attempt of a transfer does."""
        return self.put(self.path(name), data_of(size), self.uploader.upload_new)

    def send_again(self, name: str, size: int = SMALL) -> Sent:
        """Upload a file as a retry does, replacing what an earlier attempt has left."""
        self.uploader.forget_unfinished(name)
        if not self.uploader.replaces:
            self.uploader.remove(name)
        return self.put(name, data_of(size), self.uploader.upload)

    def put(self, path: str, data: bytes, upload: Callable[[str, MeasuredFile], str]) -> Sent:
        was_noted = path in self._names
        self.note(path)
        with on_disk(data) as file:
            outgoing = MeasuredFile(file, path)
            try:
                written: Any = upload(path, outgoing)
            except Exception as error:
                if not was_noted and self._is_refusal(error):
                    del self._names[path]
                raise
        if not isinstance(written, str):
            raise Problem("returns no name for a stored file", f"save() returned {written!r}")
        self.note(written)
        return Sent(written, data, outgoing.content)

    def _is_refusal(self, error: Exception) -> bool:
        """Whether an upload that failed so cannot have stored anything."""
        if self.uploader.diagnose(error, SMALL).fault is Fault.REFUSED:
            return True
        causes = list(with_causes(error))
        statuses = (answer.status for each in causes if (answer := answer_in(each)))
        refusals = range(HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR)
        return any(status in refusals for status in statuses) or any(
            any(known_of(type(each), UNCONNECTED)) for each in causes
        )

    def note(self, name: str) -> None:
        """Remember a name, so that its file is deleted at the end."""
        self._names[name] = None

    def read(self, name: str) -> bytes:
        return b"".join(self.uploader.read_back(name))

    def require_whole(self, sent: Sent) -> None:
        """Raise ``Problem`` unless all bytes were sent, and a reader gets the same."""
        if sent.content.size != len(sent.data):
            raise Problem(
                "not sent completely", f"{sent.content.size:,} of {len(sent.data):,} bytes"
            )
        self.uploader.verify(sent.name, sent.content, "checksum")
        if self.read(sent.name) != sent.data:
            raise Problem("returns different bytes")

    def clean_up(self) -> list[str]:
        """Delete all files; return the names of those that may still exist."""
        # In a thread: a connection that two threads have used may never respond again.
        in_threads([self._delete_files])
        return list(self._names)

    def _delete_files(self) -> None:
        directories = self._directories()
        for name in list(self._names):
            with suppress(Exception):
                self.uploader.remove(name)
                if not self.remote.exists(name):
                    del self._names[name]
        for directory in directories:
            with suppress(Exception):  # not every remote has directories that can be deleted
                self.remote.delete(directory)

    def _directories(self) -> list[str]:
        """The directories that were created for the files, deepest first."""
        found = {str(parent) for name in self._names for parent in PurePosixPath(name).parents}
        ours = {each for each in found if f"{each}/".startswith(f"{self.directory}/")}
        return sorted(ours, reverse=True)


def data_of(size: int) -> bytes:
    """Random bytes, which do not compress and are different in each file."""
    return random.Random(secrets.token_bytes(8)).randbytes(size)


@contextmanager
def on_disk(data: bytes) -> Iterator[File]:
    """A file on disk, which some libraries send in another way than bytes in memory."""
    with tempfile.NamedTemporaryFile(prefix="queued-storage-check-") as file:
        file.write(data)
        file.seek(0)
        yield File(file)


def in_threads(jobs: list[Callable[[], None]]) -> list[BaseException]:
    """Run the jobs concurrently; return their errors. A job that hangs is left behind."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # a thread would lose it
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
            errors.append(TimeoutError(f"no response within {THREADS_TIMEOUT:g} seconds"))
    return errors
