"""A plain model of what a user may see, held against the package after every step.

Hypothesis makes up the steps: users save, overwrite, read and delete, in transactions that are
kept or rolled back; messages are lost, doubled and delivered in any order; workers are paused, told
to end and killed at any of their calls of the database or a storage, their leases end, and who was
taken for dead goes on; the remote fails in its ways, the cache is flushed. Everybody goes step by
step (see tests/support/stepped.py), so what happens is the same in each run.

After every step each file reads as its own bytes, no deleted one is back, what is promoted is whole
on the remote, and no object there is unknown to the ledger. In the end all is let to settle, and
nothing may be left over. The only exceptions are those that docs/guarantees.md names: what a worker
without its claim writes to the remote in a call that it had begun, an object that a remote
called as it likes and that nobody lived to write down, what a killed process leaves in the middle
of a save or of an overwriting, the local file of a save that was rolled back.

QUEUED_STORAGE_TEST_MODEL_EXAMPLES is the number of runs of up to 50 steps each.
"""

import contextlib
import gc
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.db import transaction
from hypothesis import HealthCheck, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.exceptions import NameUnavailable
from queued_storage.files.localfiles import is_unfinished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.operations import errands, steering
from queued_storage.queues.base import run_all
from queued_storage.storage import routes
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.testing import Fault, FaultyStorage, drain
from queued_storage.transfers import leases
from queued_storage.transfers.work import run_claimed
from tests.support.stepped import (
    ACTORS_MAX,
    Actor,
    Dead,
    Fate,
    Kind,
    SteppedQueue,
    SteppedRemote,
    SteppedStorage,
    keep,
    stage,
    step,
)

EXAMPLES = int(os.environ.get("QUEUED_STORAGE_TEST_MODEL_EXAMPLES", "60"))
STEPS = 50
ALIAS = "model"
NAMES = ["a.txt", "b.txt", "d/c.txt"]
SHARED = b"the same in many files"
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FAULTS = [None, Fault.REFUSE, Fault.HALFWAY, Fault.LOSE, Fault.TRUNCATE, Fault.FLIP, Fault.RENAME]

PROFILE = hypothesis_settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    report_multiple_bugs=False,
    derandomize="QUEUED_STORAGE_TEST_MODEL_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,  # a machine with much to do is no fault of the package
    suppress_health_check=list(HealthCheck),  # each example is a long story on a real database
)
EVENTS = [
    "reach_next_tries",
    "end_leases",
    "sweep",
    "lose_message",
    "flush_cache",
    "beat",
    "break_remote",
    "put_foreign_object",
]
STOPS = ["UPDATE", "BEGIN", "DELETE", "local delete", "local deleted", "remote save"]
STOPS += ["remote half saved", "remote saved", "remote open", "remote delete", "remote deleted"]
USER_STEPS = 10  # more than most actions of a user have
WORK_STEPS = 18


class SteppedQueuedStorage(QueuedStorage):
    """Makes up names that are the same in every run."""

    def get_alternative_name(self, file_root: str, file_ext: str) -> str:
        return self.local.get_alternative_name(file_root, file_ext)


class Bench:
    """The storages, which serve all runs one after the other."""

    def __init__(self, pool: Any) -> None:
        base = Path(django_settings.DIRECTORY) / "model"
        self.pool = pool
        self.near = SteppedStorage(base / "near", "/near/")
        self.far = SteppedRemote(base / "far", "https://far.example/")
        self.remote = FaultyStorage(self.far)
        self.queue = SteppedQueue()
        self.storages = {
            (evicts, delayed): SteppedQueuedStorage(
                self.near,
                self.remote,
                alias=ALIAS,
                task=TransferAndDelete if evicts else Transfer,
                delayed=delayed,
                queue=self.queue,
                uploader="tests.support.stepped.SteppedUploader",
            )
            for evicts in (False, True)
            for delayed in (False, True)
        }
        self.storage = self.storages[False, False]

    def clear(self) -> None:
        ledger().filter(alias=ALIAS).delete()
        cache.clear()
        for side in (self.near, self.far):
            shutil.rmtree(side.location, ignore_errors=True)
            Path(side.location).mkdir(parents=True)
        self.near.numbers, self.far.numbers = count(), count(1000)
        self.queue.messages.clear()
        self.remote.fault = None


@dataclass
class Known:
    """A file that a user may rely on."""

    data: bytes
    pk: int
    generation: int


@dataclass
class Action:
    """What somebody is about to do to one file, once."""

    kind: str  # "save", "write", "delete"; another one, or "", for who changes no file
    name: str = ""
    data: bytes = b""
    is_done: bool = False
    seen: list[bytes | None] = field(default_factory=list)  # what the file was meanwhile
    faults: set[Fault | None] = field(default_factory=set)


class RolledBack(Exception):
    pass


class Model(RuleBasedStateMachine):
    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.actors: dict[Actor, Action] = {}

    @initialize(
        kind=st.sampled_from(Kind),
        events=st.lists(st.sampled_from(EVENTS), min_size=3, max_size=len(EVENTS), unique=True),
        may_end=st.booleans(),
    )
    def start(self, kind: Kind, events: list[str], may_end: bool) -> None:
        bench = self.bench
        self.events = events
        self.fates = st.sampled_from(
            [Fate.PAUSE, Fate.PAUSE, Fate.DIE, Fate.STOP][: 2 + 2 * may_end]
        )
        bench.clear()
        bench.far.kind = kind
        bench.far.on_change = self.on_change
        self.kind = kind
        self.files: dict[str, Known] = {}
        self.tombstones: dict[str, int] = {}
        self.strays: dict[str, bytes] = {}  # local files without a row
        self.foreign: dict[str, bytes] = {}  # objects on the remote that others made
        self.torn: dict[str, bytes] = {}  # put in place by a process that died before the commit
        self.squatters: dict[str, bytes] = {}  # left under the name of a freed file
        self.drafts: set[str] = set()  # left by processes that died
        self.tainted: set[str] = set()  # objects that a worker without its claim has changed
        self.orphans: set[str] = set()  # that the remote named, and nobody lived to tell
        self.target = ""
        self.names = list(NAMES)
        self.checked: dict[str, Any] = {}
        self.saved: list[tuple[str, bytes]] = []
        self.contents = count()
        self.is_steered = False  # by who frees local copies and brings them back

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        """One rule for all, since Hypothesis leaves out most of many in each run."""
        turns = ["use", "happen"]
        if len(self.actors) < ACTORS_MAX:
            turns += ["begin", "work", "work"]
        if self.actors:
            turns += ["resume", "resume"]
        if any(actor.claim for actor in self.actors):
            turns += ["disturb", "disturb", "disturb"]
        self.draw_and_do(data, "turn", turns)

    def draw_and_do(self, data: st.DataObject, what: str, names: list[str]) -> None:
        getattr(self, data.draw(st.sampled_from(names), what))(data)

    # What users do

    def use(self, data: st.DataObject) -> None:
        """A user does something, in one go."""
        actions = ["save", "write", "delete", "transfer", "transact", "steer"]
        self.draw_and_do(data, "action", actions)

    def save(self, data: st.DataObject) -> None:
        action = Action("save", data=self.some_bytes(data))
        storage = self.some_storage(data)
        self.do(action, partial(self.save_file, storage, self.some_name(data), action))

    def write(self, data: st.DataObject) -> None:
        action = Action("write", self.some_name(data), self.some_bytes(data))
        with contextlib.suppress(NameUnavailable):
            self.do(action, partial(self.write_file, self.some_storage(data), action))
            return
        assert action.name in self.tombstones

    def delete(self, data: st.DataObject) -> None:
        action = Action("delete", self.some_name(data))
        self.do(action, partial(self.bench.storage.delete, action.name))

    def transfer(self, data: st.DataObject) -> None:
        if self.files:
            name = data.draw(st.sampled_from(sorted(self.files)), "name")
            self.do(Action(""), partial(self.bench.storage.transfer, name))

    def steer(self, data: st.DataObject) -> None:
        verb = data.draw(st.sampled_from([steering.retry, steering.cancel]), "verb")
        self.do(Action(""), partial(verb, ledger().named(ALIAS, self.some_name(data))))

    def transact(self, data: st.DataObject) -> None:
        """Some saves and deletes, of which some or all are rolled back."""
        with self.atomic(data.draw(st.booleans(), "keep all")):
            for _turn in range(data.draw(st.integers(1, 3), "turns")):
                with self.atomic(data.draw(st.booleans(), "keep")):
                    self.draw_and_do(data, "action", ["save", "delete"])
        self.absorb_tombstones(self.rows(), None)

    @contextlib.contextmanager
    def atomic(self, is_kept: bool) -> Iterator[None]:
        files, torn, saved = self.files.copy(), self.torn.copy(), len(self.saved)
        with contextlib.suppress(RolledBack), transaction.atomic():
            yield
            if not is_kept:
                raise RolledBack
        if not is_kept:
            self.files, self.torn = files, torn
            self.strays.update(self.saved[saved:])

    # Users and workers step by step

    def begin(self, data: st.DataObject) -> None:
        """A user does something, and is paused or dies on the way."""
        kinds = ["save", "write", "delete", "read", "url", "evict", "restore"]
        kind = data.draw(st.sampled_from(kinds), "action")
        name = self.some_name(data)
        busy = {
            action.name for action in self.actors.values() if action.kind in ("write", "delete")
        }
        storage = self.some_storage(data)
        action = Action("")
        if kind == "save":
            action = Action("save", data=self.some_bytes(data))
            work: Callable[[], Any] = partial(self.save_file, storage, name, action)
        elif kind == "write" and name not in busy:
            action = Action("write", name, self.some_bytes(data))
            work = partial(self.write_file, storage, action)
        elif kind == "delete" and name not in busy:
            action = Action("delete", name)
            work = partial(storage.delete, name)
        elif kind == "url":
            work = partial(storage.url, name)
        elif kind in {"evict", "restore"}:
            self.is_steered = True
            action = Action(kind)
            work = partial(getattr(errands, kind), ledger().named(ALIAS, name))
        else:
            action = Action("read", name)
            work = partial(self.read_file, storage, name)
        self.enter(f"{kind} {name}", work, action, *self.some_way(data, USER_STEPS))

    def work(self, data: st.DataObject) -> None:
        """A worker gets a message, which may come again, or looks for itself."""
        if not self.due_now():
            self.reach_next_tries(data)
        if not self.due_now():
            self.save(data)
        due, messages = self.due_now(), self.bench.queue.messages
        useful = [message for message in messages if due.intersection(message)]
        some = messages if data.draw(st.integers(0, 7), "any message") == 7 else useful
        message = data.draw(st.sampled_from([*some, None]), "message")
        if message is None:
            work: Callable[[], Any] = self.poll
        else:
            work = partial(run_all, message)
            if not data.draw(st.sampled_from([False, False, False, True]), "again"):
                messages.remove(message)
        self.enter(f"work on {message}", work, Action(""), *self.some_way(data, WORK_STEPS))

    def resume(self, data: st.DataObject) -> None:
        if self.actors:
            actors = list(self.actors)
            number = data.draw(st.integers(0, len(actors) - 1), "actor")
            self.go(actors[number], *self.some_way(data, WORK_STEPS))

    def disturb(self, data: st.DataObject) -> None:
        """Something happens to the very file that a paused worker has, before it goes on."""
        workers = [actor for actor in self.actors if actor.claim]
        actor = workers[data.draw(st.integers(0, len(workers) - 1), "actor")]
        self.target = actor.claim.lease.row.name if actor.claim else ""
        self.draw_and_do(data, "action", ["write", "delete", "take_over"])
        self.target = ""
        if data.draw(st.booleans(), "resume"):
            self.go(actor, *self.some_way(data, WORK_STEPS))

    def take_over(self, data: st.DataObject) -> None:
        """The lease ends, and another worker does all there is to do for the file."""
        rows = ledger().named(ALIAS, self.target)
        rows.filter(due_at__isnull=False).update(due_at=LONG_AGO)
        if len(self.actors) < ACTORS_MAX and (row := rows.first()):
            self.enter(f"take over {row.pk}", partial(run_all, [row.pk]), Action(""))

    # What happens to everybody

    def happen(self, data: st.DataObject) -> None:
        self.draw_and_do(data, "event", self.events)

    def reach_next_tries(self, data: st.DataObject) -> None:
        self.due().filter(lease_token="").update(due_at=LONG_AGO)

    def end_leases(self, data: st.DataObject) -> None:
        self.due().exclude(lease_token="").update(due_at=LONG_AGO)

    def sweep(self, data: st.DataObject) -> None:
        sweep(ALIAS)

    def lose_message(self, data: st.DataObject) -> None:
        if messages := self.bench.queue.messages:
            messages.remove(data.draw(st.sampled_from(messages), "message"))

    def flush_cache(self, data: st.DataObject) -> None:
        cache.clear()

    def beat(self, data: st.DataObject) -> None:
        for actor in self.actors:
            for claim in actor.claims:
                claim.lease.beat()

    def break_remote(self, data: st.DataObject) -> None:
        fault = data.draw(st.sampled_from(FAULTS), "fault")
        if fault == Fault.RENAME and self.kind != Kind.RENAMES:
            return  # who renames does not overwrite
        self.bench.remote.fault = fault
        for action in self.actors.values():
            action.faults.add(fault)

    def put_foreign_object(self, data: st.DataObject) -> None:
        name = self.some_name(data)
        known = {row.remote_name for row in self.rows().values()}
        # An actor may be between its look at the remote and its upload.
        if not self.actors and name not in known | self.bench.far.content().keys():
            self.foreign[name] = self.some_bytes(data)
            self.bench.far.save(name, ContentFile(self.foreign[name]))

    # How it is done

    def some_name(self, data: st.DataObject) -> str:
        if self.target:
            return self.target
        busy = [action.name for action in self.actors.values() if action.name]
        busy += [claim.lease.row.name for actor in self.actors for claim in actor.claims]
        if busy and data.draw(st.booleans(), "busy"):
            return data.draw(st.sampled_from(list(dict.fromkeys(busy))), "name")
        names = list(dict.fromkeys([*self.names, *self.bench.far.content()]))
        return data.draw(st.sampled_from(names), "name")

    def some_bytes(self, data: st.DataObject) -> bytes:
        number = next(self.contents)
        if data.draw(st.booleans(), "the same as others"):
            return SHARED
        return f"{number:06}".encode() * data.draw(st.integers(0, 3), "length")

    def some_storage(self, data: st.DataObject) -> Any:
        evicts = data.draw(st.booleans(), "evicts")
        delayed = data.draw(st.integers(0, 5), "delayed") == 5
        return self.bench.storages[evicts, delayed]

    def some_way(self, data: st.DataObject, steps: int) -> tuple[float | str, Fate]:
        """How far somebody goes, and what happens there."""
        way = data.draw(st.sampled_from(["to the end", "so many steps", "until"]), "way")
        if way == "to the end":
            return math.inf, Fate.PAUSE
        kinds = st.integers(0, steps) if way == "so many steps" else st.sampled_from(STOPS)
        return data.draw(kinds, way), data.draw(self.fates, "fate")

    def save_file(self, storage: Any, name: str, action: Action) -> str:
        name = storage.save(name, ContentFile(action.data))
        if name not in self.names:
            self.names.append(name)
        return name

    @staticmethod
    def write_file(storage: Any, action: Action) -> None:
        with storage.open(action.name, "wb") as file:
            step("write")
            file.write(action.data)

    @staticmethod
    def read_file(storage: Any, name: str) -> bytes:
        with storage.open(name) as file:
            step("read")
            return bytes(file.read())

    @staticmethod
    def poll() -> None:
        for row in ledger().claim_due(1, [ALIAS]):
            run_claimed(row)

    def do(self, action: Action, act: Callable[[], Any]) -> None:
        """Do it in one go; no request waits for the remote."""
        calls = self.bench.remote.calls.copy()
        answer = act()
        assert self.bench.remote.calls == calls
        self.absorb(action)
        self.require_done(action, answer)

    def enter(
        self,
        what: str,
        work: Callable[[], Any],
        action: Action,
        way: float | str = math.inf,
        fate: Fate = Fate.PAUSE,
    ) -> None:
        actor = Actor(self.bench.pool, what, work)
        action.faults.add(self.bench.remote.fault)
        self.actors[actor] = action
        self.notice(action)
        self.go(actor, way, fate)

    def go(self, actor: Actor, way: float | str, fate: Fate) -> None:
        tokens = {row.lease_token for row in self.rows().values()}
        for claim in actor.claims:
            claim.is_lost |= claim.lease.row.lease_token not in tokens
        actor.go(way, fate)
        note(f"        {actor}")
        action = self.actors[actor]
        self.absorb(action)
        if actor.is_over:
            del self.actors[actor]
            self.orphans |= actor.renamed | actor.told
            self.leave(actor, action)

    def leave(self, actor: Actor, action: Action) -> None:
        if actor.is_dead:
            assert isinstance(actor.error, Dead), actor.error
            self.after_death(actor, action)
        elif isinstance(actor.error, SystemExit):
            self.after_death(actor, action)  # it may have come while something was cleaned up
        elif actor.error is None:
            self.require_done(action, actor.answer)
        elif action.kind == "read":
            is_gone = isinstance(actor.error, FileNotFoundError) and None in action.seen
            is_away = isinstance(actor.error, ConnectionError) and Fault.REFUSE in action.faults
            assert is_gone or is_away, actor.error
        elif not isinstance(actor.error, NameUnavailable):
            raise actor.error

    def require_done(self, action: Action, answer: Any) -> None:
        match action.kind:
            case "save":
                assert action.is_done
                assert answer == action.name
            case "write":
                assert action.is_done
            case "delete":
                assert action.is_done or action.name not in self.files or None in action.seen
            case "read":
                assert answer in action.seen

    # What it comes to

    def rows(self) -> dict[str, QueuedFile]:
        return {row.name: row for row in ledger().filter(alias=ALIAS)}

    def due_now(self) -> set[int]:
        return set(ledger().filter(alias=ALIAS).due().values_list("pk", flat=True))

    def due(self) -> Any:
        return ledger().filter(alias=ALIAS, due_at__isnull=False)

    def absorb(self, action: Action) -> None:
        """Let the model follow the one change that this action may have made, and no other."""
        rows = self.rows()
        was = {name: (file.pk, file.generation) for name, file in self.files.items()}
        now = {
            name: (row.pk, row.generation)
            for name, row in rows.items()
            if row.state != State.DELETING
        }
        changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        if changed:
            [name] = changed
            assert action.kind in {"save", "write", "delete"}, f"{action} changed {name}"
            assert not action.is_done, f"{action} takes place twice"
            action.is_done = True
            if action.kind == "delete":
                assert (name, name in now) == (action.name, False)
                del self.files[name]
            else:
                assert action.kind == "save" or name == action.name
                assert action.kind == "write" or name not in was
                action.name = name
                self.saved.append((name, action.data))
                self.files[name] = Known(action.data, *now[name])
                self.strays.pop(name, None)
            self.torn.pop(name, None)
        self.absorb_tombstones(rows, action)

    def absorb_tombstones(self, rows: dict[str, QueuedFile], action: Action | None) -> None:
        in_transaction = transaction.get_connection().in_atomic_block
        tombstones = {n: row.pk for n, row in rows.items() if row.state == State.DELETING}
        for name in tombstones:
            if tombstones[name] != self.tombstones.get(name) and not in_transaction:
                assert not action or (action.kind, action.name) == ("delete", name)
                self.strays.pop(name, None)
                if rows[name].remote_name == name:
                    self.foreign.pop(name, None)
        if not in_transaction:
            for name in self.tombstones.keys() - tombstones.keys() & self.squatters.keys():
                self.strays.setdefault(name, self.squatters.pop(name))
            for name in self.tombstones.keys() - tombstones.keys() & self.strays.keys():
                if name not in self.bench.near.content():  # it went with the deleted file
                    del self.strays[name]
            self.tombstones = tombstones
        for name, row in rows.items():
            if row.remote_name in self.foreign and row.state != State.DELETING:
                assert row.remote_name == name, f"{name} takes over a foreign object"
                assert self.foreign.pop(name) == self.files[name].data

    def after_death(self, actor: Actor, action: Action) -> None:
        """What the process has left locally, if it died between the disk and the ledger."""
        near = self.bench.near.content()
        self.drafts |= actor.drafts
        if action.kind == "restore":  # it may have been in place, but not yet in the ledger
            for name, row in self.rows().items():
                if name in near and name in self.files and not row.is_local:
                    self.squatters.setdefault(name, near[name])
        if action.is_done or action.kind not in {"save", "write"}:
            return
        if action.kind == "write" and action.name in self.files:
            if near.get(action.name) == action.data:
                self.torn[action.name] = action.data
            return
        rows = self.rows()
        for name, data in near.items():
            if name in self.drafts or data != action.data:
                continue
            if name not in self.files:
                self.strays.setdefault(name, data)
            elif not rows[name].is_local:
                self.squatters[name] = data

    def on_change(self, name: str, is_claimed: bool) -> None:
        """Told before an object on the remote is changed."""
        if is_claimed:
            self.tainted.discard(name)
        else:
            self.tainted.add(name)

    def value(self, name: str) -> bytes | None:
        """What a reader must get; None for a file that is not there."""
        if name in self.files:
            return self.files[name].data
        if name in self.tombstones:
            return None
        return self.strays.get(name, self.foreign.get(name))

    def coming(self) -> list[bytes]:
        """What is on its way into the ledger."""
        actions = self.actors.values()
        return [
            action.data
            for action in actions
            if action.kind in {"save", "write"} and not action.is_done
        ]

    def notice(self, action: Action) -> None:
        if action.name:
            action.seen.append(self.value(action.name))
            if action.name not in self.files and action.name not in self.tombstones:
                action.seen += self.coming()  # its row is being written at the moment
                action.seen.append(self.bench.far.content().get(action.name))  # another file's

    # What must hold

    @invariant()
    def check(self) -> None:
        for action in self.actors.values():
            self.notice(action)
        rows = self.rows()
        near, far = self.bench.near.content(), self.bench.far.content()
        self.check_local(rows, near)
        self.check_remote(rows, far)
        fault, self.bench.remote.fault = self.bench.remote.fault, None
        for name in self.names:
            self.check_file(name, rows.get(name), near, far)
        self.bench.remote.fault = fault

    def check_local(self, rows: dict[str, QueuedFile], near: dict[str, bytes]) -> None:
        coming = self.coming()
        is_written = any(
            action.kind in {"save", "write", "restore"} for action in self.actors.values()
        )
        for name, data in near.items():
            if is_unfinished(name):
                assert is_written or name in self.drafts, f"{name} is left over"
            elif name in self.files:
                allowed = [self.files[name].data, self.torn.get(name)]
                if not rows[name].is_local:  # others may try the name, until the ledger refuses it
                    allowed += [*coming, self.squatters.get(name)]
                assert data in allowed, f"{name} is wrong"
            elif name not in rows and data not in coming:
                assert data == self.strays.get(name), f"{name} is left over"

    def check_remote(self, rows: dict[str, QueuedFile], far: dict[str, bytes]) -> None:
        known = {row.remote_name for row in rows.values()}
        allowed = self.foreign.keys() | self.tainted | self.orphans
        for actor in self.actors:
            allowed |= actor.renamed | actor.told
        assert far.keys() <= known | allowed, "The remote has what the ledger does not know."
        for name, data in self.foreign.items():
            assert far.get(name) == data, f"The foreign object {name} was touched."
        for row in rows.values():
            if row.state == State.TRANSFERRED and row.remote_name not in self.tainted:
                assert far.get(row.remote_name) == self.files[row.name].data, f"{row} is not there"

    def check_file(
        self, name: str, row: QueuedFile | None, near: dict[str, bytes], far: dict[str, bytes]
    ) -> None:
        """Ask all that a user may ask, if anything that counts has changed since the last time."""
        value = self.value(name)
        cached = cache.get(self.bench.storage.get_cache_key(name))
        state = row and (row.pk, row.generation, row.state, row.is_local, row.remote_name)
        remote = far.get(row.remote_name if row else name)
        evidence = (value, state, near.get(name), remote, cached, self.torn.get(name))
        if self.checked.get(name) != evidence:
            self.ask(name, value, row, name in near, name in far)
            self.checked[name] = evidence

    def ask(
        self, name: str, value: bytes | None, row: QueuedFile | None, is_near: bool, is_far: bool
    ) -> None:
        storage = self.bench.storage
        if row is None and value is None and (is_near or is_far):
            return  # what the remote calls another file; or it is being saved at the moment
        if value is None:
            assert not storage.exists(name), f"{name} is back"
            with pytest.raises(FileNotFoundError):
                storage.open(name)
            return
        assert storage.exists(name), f"{name} is gone"
        if not is_near and row and row.remote_name in self.tainted:
            return
        expected = [value, self.torn.get(name, value)]
        if row is None:  # what is being saved here is visible before its row is
            expected += self.coming()
        assert self.read_file(storage, name) in expected, f"{name} is wrong"
        assert storage.size(name) in [len(data) for data in expected]
        if row:
            is_remote = row.state == State.TRANSFERRED
            url = self.bench.far.url(row.remote_name) if is_remote else self.bench.near.url(name)
            assert storage.url(name) == url
            assert is_near or is_remote, f"{name} is lost"

    # The end

    def teardown(self) -> None:
        is_broken = sys.exception() is not None
        for actor in list(self.actors):
            if is_broken:
                actor.kill()
            else:
                self.go(actor, math.inf, Fate.PAUSE)
                self.check()
        if not is_broken:
            self.settle()

    def settle(self) -> None:
        self.bench.remote.fault = None
        for _round in range(20):
            if not self.due().update(due_at=LONG_AGO):
                break
            drain(self.bench.storage)
            self.absorb(Action(""))
            self.check()
        rows = self.rows()
        assert not self.due(), f"It never settles: {list(self.due())}"
        assert rows.keys() == self.files.keys()
        near = self.bench.near.content()
        for name, row in rows.items():
            self.check_settled(name, row, near)

    def check_settled(self, name: str, row: QueuedFile, near: dict[str, bytes]) -> None:
        data = self.files[name].data
        match row.state:
            case State.TRANSFERRED:
                assert row.lease_token == ""
                evicts = row.task.endswith("AndDelete")
                assert row.is_local != evicts or self.is_steered
                assert (name in near) == row.is_local or name in {**self.torn, **self.squatters}
                assert not row.last_error or self.is_steered
            case State.FAILED:
                assert row.last_error
                assert near[name] in (data, self.torn.get(name))
            case _:
                assert row.state == State.HELD
                assert near[name] == data


@pytest.mark.one_database
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # who is killed closes nothing
@pytest.mark.django_db(transaction=True)
def test_users_always_see_their_own_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "VERIFY": "content", "RETRIES": 1}
    monkeypatch.setattr(leases, "keep", keep)
    monkeypatch.setattr(routes, "PER_PROCESS_TIMEOUT", 3600)  # so that no answer hangs on the clock
    with stage() as pool:
        Model.bench = Bench(pool)
        run_state_machine_as_test(Model, settings=PROFILE)
    gc.collect()  # what was not closed is complained of here, not in the next test
