"""What a remote must do, tried on a real one."""

import random
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.conf import settings
from django.core.files import File
from django.core.files.storage import Storage
from django.db import connections
from django.utils.timezone import is_aware

from .exceptions import VerificationError
from .models import Content
from .perthread import for_threads
from .reasons import reason
from .streams import MeasuredFile
from .uploaders import Uploader, uploader_for

SMALL = 5_000
LARGE = 9 * 2**20  # more than the libraries of S3 and Google send in one request
THREADS_TIMEOUT = 60.0  # seconds for what several threads do at once, and for cleaning up
ROUNDS = 5  # files that each of the two threads sends


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found out: a fact about the remote, or a problem."""

    check: str
    outcome: str
    details: str = ""
    is_problem: bool = False

    def __str__(self) -> str:
        kind = "problem" if self.is_problem else "fact"
        return f"{kind:<8} {self.check}: {self.outcome}{self.details and '. '}{self.details}"


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
            written = upload(path, outgoing)
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
        except Exception as error:
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


# The checks: each returns the outcome, or outcome and details, or raises.

Answer = str | tuple[str, str]


def _name(trial: Trial) -> Answer:
    trial.first = trial.send("small.bin")
    path = trial.path("small.bin")
    if trial.small.name == path:
        return "exact"
    return "mapped", f"{path!r} became {trial.small.name!r}; the ledger keeps both"


def _exists(trial: Trial) -> Answer:
    if not trial.remote.exists(trial.small.name):
        raise Problem("says no of a stored file", "files of others would be overwritten")
    if trial.remote.exists(trial.path("never-stored.bin")):
        raise Problem("says yes of a file that was never stored")
    return "right"


def _size(trial: Trial) -> Answer:
    found, sent = trial.remote.size(trial.small.name), len(trial.small.data)
    if found == sent:
        return "right"
    if getattr(trial.remote, "gzip", False):
        return "of the compressed file"
    raise Problem("wrong", f"{found} instead of {sent} bytes")


def _content(trial: Trial) -> Answer:
    trial.require_whole(trial.small)
    return "right"


def _large_file(trial: Trial) -> Answer:
    trial.require_whole(trial.send("large.bin", trial.large))
    return "right"


def _empty_file(trial: Trial) -> Answer:
    trial.require_whole(trial.send("empty.bin", 0))
    return "right"


def _verification(trial: Trial) -> Answer:
    sent = trial.small
    false = Content(sent.content.size, "crc32:00000000", sent.content.content_type)
    reached = trial.uploader.verify(sent.name, sent.content, "checksum")
    for level in {reached, "content"} - {"size"}:
        with suppress(VerificationError):
            trial.uploader.verify(sent.name, false, level)
            raise Problem(f"{level} passes other bytes")
    return reached


def _wrong_checksum(trial: Trial) -> Answer:
    name = trial.path("damaged.bin")
    trial.note(name)
    match trial.uploader.refuses_wrong_checksum(name):
        case None:
            return "none is sent"
        case True:
            return "refused"
    raise Problem("accepted", "what is damaged on the way is stored; use VERIFY = 'content'")


def _create(trial: Trial) -> Answer:
    """What happens to a file that somebody else stores after we found its name to be free."""
    theirs = trial.send("raced.bin")
    try:
        ours = trial.put(theirs.name, data_of(SMALL), trial.uploader.upload_new)
    except FileExistsError:
        trial.require_whole(theirs)
        return "refuses a taken name"
    trial.require_whole(ours)
    if ours.name == theirs.name:
        return "overwrites", "who is second in a race for a name wins"
    trial.require_whole(theirs)
    return "takes another name"


def _second_save(trial: Trial) -> Answer:
    """The remote's own ``save()``, as others use it."""
    name = trial.send("saved.bin").name
    second = trial.put(name, data_of(SMALL), trial.remote.save)
    trial.require_whole(second)
    return "overwrites" if second.name == name else "renames"


def _retry(trial: Trial) -> Answer:
    name = trial.send("retried.bin").name
    again = trial.send_again(name, SMALL // 2)
    trial.require_whole(again)
    if again.name == name:
        return "overwrites its own remains"
    if trial.remote.exists(name):
        raise Problem("leaves its own remains", f"{name!r} beside {again.name!r}")
    return "takes another name", "its own remains are removed"


class _CutOff(Exception):
    """The upload ends here, as when a worker has lost its lease."""


def _broken_upload(trial: Trial) -> Answer:
    path = trial.path("broken.bin")
    trial.note(path)

    left = trial.large // 2

    def cut_off(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise _CutOff

    with on_disk(data_of(trial.large)) as file:
        try:
            trial.uploader.upload_new(path, MeasuredFile(file, path, cut_off))
        except Exception:
            pass  # also what a library makes of ours
        else:
            raise Problem("is taken for a whole one")
    remains = trial.remote.exists(path)
    trial.require_whole(trial.send_again(path))
    return "leaves a part, which the retry replaces" if remains else "leaves nothing"


def _delete(trial: Trial) -> Answer:
    sent = trial.send("deleted.bin")
    trial.remote.delete(sent.name)
    if trial.remote.exists(sent.name):
        raise Problem("leaves the file")
    try:
        trial.remote.delete(sent.name)
    except Exception as error:
        trial.uploader.remove(sent.name)
        return "once", f"a second one raises {type(error).__name__}, which is put up with"
    return "any number of times"


def _listing(trial: Trial) -> Answer:
    sent = trial.send("listed/file.bin")
    try:
        found = set(trial.uploader.names(trial.directory))
    except NotImplementedError:
        return "none", "'orphans' and 'adopt --under' cannot look there"
    if sent.name in found:
        return "right"
    raise Problem("without a stored file", "'orphans' and 'adopt --under' cannot be used")


def _times(trial: Trial) -> Answer:
    try:
        modified: datetime = trial.remote.get_modified_time(trial.small.name)
    except NotImplementedError:
        return "none", "'orphans' cannot tell how old a file is"
    if is_aware(modified) != settings.USE_TZ:
        raise Problem("aware" if is_aware(modified) else "naive", f"USE_TZ is {settings.USE_TZ}")
    return "aware" if settings.USE_TZ else "naive"


def _url(trial: Trial) -> Answer:
    with watched_sockets() as calls:
        try:
            url = trial.remote.url(trial.small.name)
        except (NotImplementedError, ValueError) as error:
            return "none", reason(error, trial.remote)
    if calls:
        raise Problem("asks the remote", "each page that shows it waits for that")
    if not url:
        raise Problem("empty")
    keys = " ".join(key.lower() for key, _value in parse_qsl(urlsplit(url).query))
    return "signed, without a call" if "sig" in keys else "plain, without a call"


def _sent_and_read(name: str) -> Callable[[Trial], Answer]:
    def check(trial: Trial) -> Answer:
        sent = trial.send(name)
        if not trial.remote.exists(sent.name):
            raise Problem("not found again")
        trial.require_whole(sent)
        return "exact" if sent.name == trial.path(name) else "mapped"

    return check


def _letter_case(trial: Trial) -> Answer:
    sent = trial.send("case.bin")
    other = sent.name.removesuffix("case.bin") + "CASE.bin"
    return "one and the same" if trial.remote.exists(other) else "told apart"


def _two_threads(trial: Trial) -> Answer:
    def work(label: str) -> Callable[[], None]:
        def job() -> None:
            for number in range(ROUNDS):
                trial.require_whole(trial.send(f"thread-{label}/{number}.bin", SMALL + number))

        return job

    if errors := in_threads([work("a"), work("b")]):
        raise Problem("in each other's way", reason(errors[0], trial.remote))
    return "safe"


CHECKS: dict[str, Callable[[Trial], Answer]] = {
    "name": _name,
    "exists": _exists,
    "size": _size,
    "content": _content,
    "large file": _large_file,
    "empty file": _empty_file,
    "verification": _verification,
    "wrong checksum": _wrong_checksum,
    "create": _create,
    "second save": _second_save,
    "retry": _retry,
    "broken upload": _broken_upload,
    "delete": _delete,
    "listing": _listing,
    "times": _times,
    "url": _url,
    "spaces": _sent_and_read("a name with spaces.bin"),
    "other letters": _sent_and_read("Größe-猫.bin"),
    "directories": _sent_and_read("a/b/c/d.bin"),
    "letter case": _letter_case,
    "two threads": _two_threads,  # last: it may leave the connection confused
}
CLEAN_UP = "clean-up"


def check_remote(
    remote: Storage, uploader: Uploader | None = None, *, large: int = LARGE
) -> Iterator[Finding]:
    """Try all that a transfer, a reader and a delete rely on, in a scratch directory.

    Without an uploader, the remote is used as a queued storage would use it.
    Each finding comes as soon as it is known. Whatever happens, all that was stored is deleted.
    """
    uploader = uploader or uploader_for(for_threads(remote))
    trial = Trial(uploader.remote, uploader, large)
    try:
        for name, check in CHECKS.items():
            finding = _tried(name, check, trial)
            yield finding
            if trial.first is None:
                break  # nothing can be stored, so there is nothing to look at
    finally:
        left = trial.clean_up()
    if left:
        yield Finding(CLEAN_UP, "not complete", f"Delete {', '.join(left)}", True)
    else:
        yield Finding(CLEAN_UP, "complete")


def _tried(name: str, check: Callable[[Trial], Answer], trial: Trial) -> Finding:
    try:
        answer = check(trial)
    except Problem as problem:
        return Finding(name, problem.outcome, problem.details, True)
    except Exception as error:
        return Finding(name, "fails", reason(error, trial.remote), True)
    return Finding(name, answer) if isinstance(answer, str) else Finding(name, *answer)


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
