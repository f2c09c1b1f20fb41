"""Actors that go step by step, as somebody outside lets them: they can be paused, told to end, or
killed at each of their calls of the database and of the two storages."""

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
from queued_storage.queues.dummy import DummyQueue
from queued_storage.transfers.leases import Lease
from queued_storage.uploaders.generic import GenericUploader

ACTORS_MAX = 4  # at the same time
_mine = threading.local()


class Dead(BaseException):
    """Raised at every further step of a killed actor, so that nothing it still tries is done."""


class Fate(enum.StrEnum):
    """What becomes of an actor after the steps it was given."""

    PAUSE = "pause"
    DIE = "die"  # as by SIGKILL, also in the middle of a transaction
    STOP = "stop"  # SystemExit: it may still clean up


class Claim:
    """A claim of an actor's, and how much that actor knows of its loss."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.is_lost = False  # the row is under another token, or gone
        self.is_told = False  # the ledger has refused a change since then


class Actor:
    """Does ``work`` in a thread of its own, while everybody else waits."""

    def __init__(self, pool: ThreadPoolExecutor, what: str, work: Callable[[], Any]) -> None:
        self.what = what
        self.is_dead = False
        self.is_over = False
        self.answer: Any = None
        self.error: BaseException | None = None
        self.claims: list[Claim] = []  # the innermost last: a follow-up runs inside the first
        self.trail: list[str] = []
        self.drafts: set[str] = set()  # local names that it made for bytes nobody may see yet
        self.asked = ""  # the name it wants an object to have
        self.renamed: set[str] = (
            set()
        )  # what the remote calls objects instead, while it is not told
        self.told: set[str] = set()  # the same until it has written that down
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
        """Take so many steps, or go on until the next one of this kind."""
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
            elif connection.in_atomic_block:  # holds locks that others would wait for
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
        """Note that it changes an object; whether it has the claim to do so."""
        assert self.claim, f"{self} works on the remote without a claim."
        if self.claim.is_lost:
            assert not self.claim.is_told, f"{self} knew that its claim is lost."
        return not self.claim.is_lost


def me() -> Actor | None:
    return getattr(_mine, "actor", None)


def step(what: str) -> None:
    """One step of the actor whose thread this is, if it is one's."""
    if actor := me():
        actor.step(what)


@contextlib.contextmanager
def keep(row: Any) -> Iterator[Lease]:
    """Stands in for ``leases.keep``: the heart beats only when it is told to."""
    lease = Lease(row)
    actor = me()
    if actor:
        actor.claims.append(Claim(lease))
    try:
        yield lease
    finally:
        if actor:
            actor.claims.pop()


@contextlib.contextmanager
def stage() -> Iterator[ThreadPoolExecutor]:
    """Threads for actors, each with its connection to the database."""
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
    """Files in a directory, each call a step."""

    side = "local"
    numbers = count()

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
        """All files with their bytes, hidden ones too. It is no step."""
        base = Path(self.location)
        found = (path for path in base.rglob("*") if path.is_file())
        return {path.relative_to(base).as_posix(): path.read_bytes() for path in found}


class Kind(enum.StrEnum):
    """What a remote does with a name that is taken."""

    RENAMES = "renames"  # it takes another one; what is half written can be seen
    OVERWRITES = "overwrites"  # as object stores do, at one instant
    REPLACES = "replaces"  # the same, and the uploader relies on it


class SteppedRemote(SteppedStorage):
    """The same far away. It writes in two halves."""

    side = "remote"
    numbers = count(1000)
    kind = Kind.RENAMES
    on_change: Callable[[str, bool], None]  # told of each change of an object, before it

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
        if (actor := me()) and name != actor.asked:
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
        actor = me()
        self.on_change(name, actor is None or actor.changes_remote(name))


class SteppedUploader(GenericUploader):
    """Relies on the remote's replacing where it does."""

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
    """Collects messages; to take one is a step."""

    def enqueue(self, pks: list[int]) -> None:
        step("enqueue")
        super().enqueue(pks)
