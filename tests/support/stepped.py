"""Threads that a test runs step by step.

They can be paused, stopped or killed at each call of the database and of the two storages.
"""

import contextlib
import enum
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from django.core.files.storage import FileSystemStorage
from django.db import connection, connections

from queued_storage.files.streams import MeasuredFile
from queued_storage.ledger.names import is_own
from queued_storage.queues.dummy import DummyQueue
from queued_storage.transfers.leases import Lease
from queued_storage.uploaders.generic import GenericUploader

ACTORS_MAX = 4  # at the same time
_mine = threading.local()


class Dead(BaseException):
    """Raised at every further step of a killed actor, so that it has no more effect."""


class Fate(enum.StrEnum):
    """What happens to an actor after its steps."""

    PAUSE = "pause"
    DIE = "die"  # as with SIGKILL, also in the middle of a transaction
    STOP = "stop"  # as with SystemExit: it can still clean up


class Claim:
    """A claim of an actor, and whether the actor knows that it lost the claim."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.is_lost = False  # the row has another token or does not exist
        self.is_told = False  # the ledger has refused a change since then


class Actor:
    """Run ``work`` in a separate thread while all other actors wait."""

    def __init__(self, pool: ThreadPoolExecutor, what: str, work: Callable[[], Any]) -> None:
        self.what = what
        self.is_dead = False
        self.is_over = False
        self.answer: Any = None
        self.error: BaseException | None = None
        self.claims: list[Claim] = []  # the innermost is last: follow-ups are nested
        self.had: list[Claim] = []  # these, and those that ended
        self.trail: list[str] = []
        self.drafts: set[str] = set()  # local names of unfinished files
        self.asked = ""  # the requested name of an object
        # Names that the remote chose instead and that the actor does not know yet
        self.renamed: set[str] = set()
        self.told: set[str] = set()  # names that it knows but has not written to the ledger
        self._work = work
        self._left: float = 0
        self._until = ""
        self._fate = Fate.PAUSE
        self._may_go = threading.Semaphore(0)
        self._rests = threading.Semaphore(0)
        pool.submit(self._run)

    def __repr__(self) -> str:
        return f"<{self.what}: {', '.join(self.trail)}>"

    def go(self, way: float | str = math.inf, fate: Fate = Fate.PAUSE) -> None:
        """Run a number of steps, or run until the next step of a kind."""
        self._left, self._until = (math.inf, way) if isinstance(way, str) else (way, "")
        self._fate = fate
        self._may_go.release()
        assert self._rests.acquire(timeout=60), f"{self} hangs."

    def kill(self) -> None:
        self.go(0, Fate.DIE)

    @property
    def claim(self) -> Claim | None:
        return self.claims[-1] if self.claims else None

    def _run(self) -> None:
        self._may_go.acquire()
        _mine.actor = self
        try:
            with connection.execute_wrapper(self._before_statement):
                self.answer = self._work()
        except BaseException as error:
            self.error = error
        finally:
            _mine.actor = None
            if self.is_dead:
                connections.close_all()
            self.is_over = True
            self._rests.release()

    def _before_statement(self, execute: Any, sql: str, *args: Any) -> Any:
        self.step(sql.split(" ", 1)[0])
        is_change = sql.startswith(("UPDATE", "DELETE"))
        if self.claim and is_change:
            if self.claim.is_lost:
                self.claim.is_told = True
            else:
                self.told.clear()
        return execute(sql, *args)

    def step(self, what: str) -> None:
        was_here = False
        while not self.is_dead and (self._left < 1 or (what == self._until and not was_here)):
            if self._fate == Fate.DIE:
                self.is_dead = True
            elif self._fate == Fate.STOP:
                self._left, self._until = math.inf, ""
                self.trail.append(f"stopped before {what}")
                raise SystemExit
            elif connection.in_atomic_block:  # it holds locks that other actors need
                break
            else:
                was_here = True
                self._rests.release()
                self._may_go.acquire()
        if self.is_dead:
            self.trail.append(f"died before {what}")
            raise Dead
        self._left -= 1
        self.trail.append(what)

    def changes_remote(self, name: str) -> bool:
        """Check a change of an object. Return whether the actor still has its claim."""
        assert self.claim, f"{self} works on the remote without a claim."
        if self.claim.is_lost:
            assert not self.claim.is_told, f"{self} knew that its claim is lost."
        return not self.claim.is_lost


def me() -> Actor | None:
    return getattr(_mine, "actor", None)


def step(what: str) -> None:
    """Run one step of the current thread's actor, if it has one."""
    if actor := me():
        actor.step(what)


@contextlib.contextmanager
def keep(row: Any) -> Iterator[Lease]:
    """Replace ``leases.keep``, and renew leases only when a test does so."""
    lease = Lease(row)
    actor = me()
    if actor:
        actor.claims.append(Claim(lease))
        actor.had.append(actor.claims[-1])
    try:
        yield lease
    finally:
        if actor:
            actor.claims.pop()


class Processes:
    """Replaces ``solitude``: each actor is a process of its own, which does nothing else."""

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        yield True


@contextlib.contextmanager
def stage() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads for actors. Each thread has its own database connection."""
    pool = ThreadPoolExecutor(ACTORS_MAX, "actor")
    try:
        yield pool
    finally:
        everybody = threading.Barrier(ACTORS_MAX)

        def leave() -> None:
            everybody.wait(60)
            connections.close_all()

        for _thread in range(ACTORS_MAX):
            pool.submit(leave)
        pool.shutdown()


class SteppedStorage(FileSystemStorage):
    """A storage in a directory. Each call is a step."""

    side = "local"
    numbers = count()
    volume: Path | None = None  # where the files are while they are not mounted

    def get_alternative_name(self, file_root: str, file_ext: str) -> str:
        return f"{file_root}_{next(self.numbers)}{file_ext}"

    def exists(self, name: str) -> bool:
        step(f"{self.side} exists")
        return super().exists(name)

    def size(self, name: str) -> int:
        step(f"{self.side} size")
        return super().size(name)

    def _open(self, name: str, mode: str = "rb") -> Any:
        step(f"{self.side} open")
        return super()._open(name, mode)

    def _save(self, name: str, content: Any) -> str:
        step(f"{self.side} save")
        if actor := me():
            actor.drafts.add(name)
        return super()._save(name, content)

    def delete(self, name: str) -> None:
        step(f"{self.side} delete")
        self._delete(name)
        step(f"{self.side} deleted")

    def _delete(self, name: str) -> None:
        super().delete(name)

    def content(self) -> dict[str, bytes]:
        """Return the content of all files, including hidden ones, but not of markers and probes.

        This is not a step.
        """
        base = self.volume or Path(self.location)
        found = (path for path in base.rglob("*") if path.is_file() and not is_own(path.name))
        return {path.relative_to(base).as_posix(): path.read_bytes() for path in found}


class Kind(enum.StrEnum):
    """What a remote does if the name already exists."""

    RENAMES = "renames"  # it chooses another name; unfinished files are visible
    OVERWRITES = "overwrites"  # atomically, as object stores do
    REPLACES = "replaces"  # the same, and the uploader relies on it


class SteppedRemote(SteppedStorage):
    """A remote that writes each file in two halves."""

    side = "remote"
    numbers = count(1000)
    kind = Kind.RENAMES
    on_change: Callable[[str, bool], None]  # called before each change of an object

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        if self.kind == Kind.RENAMES:
            return super().get_available_name(name, max_length)
        return name

    def _delete(self, name: str) -> None:
        if FileSystemStorage.exists(self, name):
            self._changes(name)
        super()._delete(name)

    def _save(self, name: str, content: Any) -> str:
        data = b"".join(content.chunks())
        step("remote save")
        Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
        write = self._write_visibly if self.kind == Kind.RENAMES else self._write_at_once
        name = write(name, data)
        step("remote saved")
        return name

    def _write_visibly(self, name: str, data: bytes) -> str:
        while True:
            try:
                file = open(self.path(name), "xb")  # noqa: SIM115
                break
            except FileExistsError:
                name = self.get_available_name(name)
        if (actor := me()) and name != actor.asked and not is_own(name):
            actor.renamed.add(name)
        with file:
            self._changes(name)
            file.write(data[: len(data) // 2])
            file.flush()
            step("remote half saved")
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path(name))):
                    self._changes(name)
            file.write(data[len(data) // 2 :])
        return name

    def _write_at_once(self, name: str, data: bytes) -> str:
        step("remote half saved")
        self._changes(name)
        draft = Path(f"{self.location}.draft")
        draft.write_bytes(data)
        draft.replace(self.path(name))
        return name

    def _changes(self, name: str) -> None:
        if is_own(name):  # a probe needs no claim
            return
        actor = me()
        self.on_change(name, actor is None or actor.changes_remote(name))


class SteppedUploader(GenericUploader):
    """An uploader that relies on overwriting if the remote supports it."""

    @property
    def replaces(self) -> bool:  # type: ignore[override]
        return bool(self.remote.storage.kind == Kind.REPLACES)  # type: ignore[attr-defined]

    def upload(self, name: str, content: MeasuredFile) -> str:
        actor = me()
        if actor:
            actor.asked = name
        written = super().upload(name, content)
        if actor:
            actor.told |= actor.renamed
            actor.renamed.clear()
        return written


class SteppedQueue(DummyQueue):
    """A queue that collects messages. Adding a message is a step."""

    def enqueue(self, pks: list[int]) -> None:
        step("enqueue")
        super().enqueue(pks)
