"""Compare the package with a simple model of what users may see, after every step.

Hypothesis chooses the steps. Users save, overwrite, read and delete files, in transactions that are
committed or rolled back. Messages are lost, repeated and reordered. Workers are paused, stopped or
killed at any call to the database or a storage; their leases expire, and paused workers continue
after that. The remote fails in several ways, goes away and comes back, and is paused and resumed by
an operator. The volume of the local files is not mounted for a while. The cache is cleared. Users
and workers run one step at a time (see tests/support/stepped.py), so every run is reproducible.

After every step, each file has its own content, deleted files do not exist, promoted files are
complete on the remote, and the ledger knows every object there. The state of the remote in the
ledger is that of the model, a closed remote receives only probes, no outage counts as an attempt,
and no local copy is missing unless its remote copy was verified. At the end, the remote is there,
all files are processed and nothing may be left over. docs/guarantees.md lists the only exceptions:

- what a worker without a claim writes to the remote in a call that it had already begun;
- an object that the remote renamed, if the worker crashed before it recorded the name;
- an object of an upload without an answer, if its bytes are not those of the file: the file was
  overwritten since, or the remote has stored other bytes and the worker crashed;
- what a killed process leaves in the middle of a save;
- the local file of a save that was rolled back.

QUEUED_STORAGE_TEST_MODEL_EXAMPLES is the number of runs of up to 50 steps each.
"""

import contextlib
import gc
import math
import os
import shutil
import sys
from collections import Counter
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
from queued_storage.exceptions import LocalStorageMissing, NameUnavailable
from queued_storage.files.localfiles import is_unfinished
from queued_storage.files.successors import waiting_name
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import PROBED, Remote, RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.models import QueuedFile
from queued_storage.operations import errands, steering
from queued_storage.operations import remotes as operator
from queued_storage.queues.base import run_all
from queued_storage.storage import routes
from queued_storage.tasks import Transfer, TransferAndDelete
from queued_storage.testing import Fault, FaultyStorage, drain
from queued_storage.transfers import circuit, leases, probing, work
from queued_storage.transfers.gates import gates
from queued_storage.transfers.work import run_claimed
from tests.support.stepped import (
    ACTORS_MAX,
    Actor,
    Dead,
    Fate,
    Kind,
    Processes,
    SteppedQueue,
    SteppedRemote,
    SteppedStorage,
    keep,
    stage,
    step,
)
from tests.support.stepped_remotes import NEVER, READ_EVERY, Clock, Process, look, step_remotes

pytestmark = pytest.mark.one_lane

EXAMPLES = int(os.environ.get("QUEUED_STORAGE_TEST_MODEL_EXAMPLES", "40"))
STEPS = 50
ALIAS = "model"
NAMES = ["a.txt", "b.txt", "d/c.txt"]
SHARED = b"the same in many files"
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FAULTS = [None, Fault.REFUSE, Fault.HALFWAY, Fault.LOSE, Fault.TRUNCATE, Fault.FLIP, Fault.RENAME]
DENY = "deny"  # every call raises PermissionError, which may be the file's fault, too
OUTAGES = {Fault.REFUSE, Fault.HALFWAY}  # the remote's own faults
CLOSING = {*OUTAGES, DENY}  # all others are the file's
SECONDS = [READ_EVERY, circuit.TRIAL_EVERY, circuit.QUIET + READ_EVERY]

PROFILE = hypothesis_settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    report_multiple_bugs=False,
    derandomize="QUEUED_STORAGE_TEST_MODEL_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,  # a busy machine must not fail the test
    suppress_health_check=list(HealthCheck),  # each example is slow, as it uses a real database
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
    "unmount",
]
OUTAGE_EVENTS = ["probe", "go_away", "pause_remote", "end_pause", "pass_time", "probe"]
STOPS = ["UPDATE", "BEGIN", "DELETE", "local delete", "local deleted", "remote save"]
STOPS += ["remote half saved", "remote saved", "remote open", "remote delete", "remote deleted"]
USER_STEPS = 10  # more than most actions of a user take
WORK_STEPS = 18


class SteppedQueuedStorage(QueuedStorage):
    """Generates alternative names that are the same in every run."""

    def get_alternative_name(self, file_root: str, file_ext: str) -> str:
        return self.local.get_alternative_name(file_root, file_ext)


class DenyingStorage(FaultyStorage):
    """Can also deny everything, as a remote does whose key has expired."""

    @property
    def fault(self) -> Any:
        return self._fault

    @fault.setter
    def fault(self, fault: Any) -> None:
        self._fault = fault

    def _call(self, method: str) -> None:
        super()._call(method)
        if self.fault == DENY:
            raise PermissionError("The key has expired.")


class Bench:
    """The storages, which are reused by all runs."""

    def __init__(self, pool: Any, clock: Clock) -> None:
        self.clock = clock
        base = Path(django_settings.DIRECTORY) / "model"
        self.pool = pool
        self.near = SteppedStorage(base / "near", "/near/")
        self.far = SteppedRemote(base / "far", "https://far.example/")
        self.remote = DenyingStorage(self.far)
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
        remotes().filter(alias=ALIAS).delete()
        circuit.reset()
        cache.clear()
        for side in (self.near, self.far):
            shutil.rmtree(side.location, ignore_errors=True)
            Path(side.location).mkdir(parents=True)
        self.near.numbers, self.far.numbers = count(), count(1000)
        self.queue.messages.clear()
        self.remote.fault = None

    @property
    def writes(self) -> int:
        """How often the remote was asked to change something, and probed."""
        return self.remote.calls["save"] + self.remote.calls["delete"]

    @property
    def is_away(self) -> bool:
        return self.remote.fault in CLOSING


@dataclass
class Known:
    """A file that a user may rely on."""

    data: bytes
    pk: int
    generation: int


@dataclass
class Action:
    """One pending change to one file by a user or a worker."""

    kind: str  # "save", "write", "delete", "work", "probe"; any other if nothing changes
    name: str = ""
    data: bytes = b""
    is_done: bool = False
    seen: list[bytes | None] = field(default_factory=list)  # contents of the file meanwhile
    faults: set[Fault | str | None] = field(default_factory=set)
    is_barred: bool = False  # from the remote, which has been closed for long enough


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
        has_outages=st.booleans(),
    )
    def start(self, kind: Kind, events: list[str], may_end: bool, has_outages: bool) -> None:
        bench = self.bench
        self.events = events
        self.has_outages = has_outages
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
        self.foreign: dict[str, bytes] = {}  # objects on the remote that the package did not upload
        self.squatters: dict[str, bytes] = {}  # left under the name of an evicted file
        self.drafts: set[str] = set()  # left by processes that died
        self.tainted: set[str] = set()  # objects that a worker without its claim has changed
        self.orphans: set[str] = set()  # renamed by the remote, and not recorded before a crash
        self.unproved: set[str] = set()  # objects that may be a file's, but differ from it
        self.target = ""
        self.names = list(NAMES)
        self.checked: dict[str, Any] = {}
        self.saved: list[tuple[str, bytes]] = []
        self.contents = count()
        self.is_steered = False  # by evicting or restoring local copies
        self.processes = [Process() for _number in range(ACTORS_MAX)]
        self.process_of: dict[Actor, int] = {}
        self.turns = 0
        self.remote_state: str = RemoteState.OPEN
        self.closed_at = math.inf
        self.charged: Counter[tuple[int, int]] = Counter()  # attempts that may count, by file

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        """Use a single rule, because Hypothesis skips most rules in each run if there are many."""
        turns = ["use", "happen"]
        if len(self.actors) < ACTORS_MAX:
            turns += ["begin", "work", "work"]
        if self.actors:
            turns += ["resume", "resume"]
        if any(actor.claim for actor in self.actors):
            turns += ["disturb", "disturb", "disturb"]
        if self.has_outages:
            turns += ["outage", "outage"]
        self.bench.clock.advance(READ_EVERY / 2)
        self.draw_and_do(data, "turn", turns)

    def draw_and_do(self, data: st.DataObject, what: str, names: list[str]) -> None:
        getattr(self, data.draw(st.sampled_from(names), what))(data)

    # What users do

    def use(self, data: st.DataObject) -> None:
        """Let a user do something without interruption."""
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
        """Save and delete files, and roll back some or all of it."""
        with self.atomic(data.draw(st.booleans(), "keep all")):
            for _turn in range(data.draw(st.integers(1, 3), "turns")):
                with self.atomic(data.draw(st.booleans(), "keep")):
                    self.draw_and_do(data, "action", ["save", "delete"])
        self.absorb_tombstones(self.rows(), None)

    @contextlib.contextmanager
    def atomic(self, is_kept: bool) -> Iterator[None]:
        files, strays, saved = self.files.copy(), self.strays.copy(), len(self.saved)
        with contextlib.suppress(RolledBack), transaction.atomic():
            yield
            if not is_kept:
                raise RolledBack
        if not is_kept:
            self.files = files
            near = self.bench.near.content()
            # A save over a deleted name without a row leaves the old bytes, too.
            left = [*strays.items(), *self.saved[saved:]]
            self.strays.update(pair for pair in left if pair in near.items())
            self.drafts |= {name for name in near if is_unfinished(name)}

    # Users and workers, one step at a time

    def begin(self, data: st.DataObject) -> None:
        """Let a user do something, which may be paused or killed at any step."""
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
        """Let a worker process a message, which may be delivered again, or poll the ledger."""
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
        self.enter(f"work on {message}", work, Action("work"), *self.some_way(data, WORK_STEPS))

    def resume(self, data: st.DataObject) -> None:
        if self.actors:
            actors = list(self.actors)
            number = data.draw(st.integers(0, len(actors) - 1), "actor")
            self.go(actors[number], *self.some_way(data, WORK_STEPS))

    def disturb(self, data: st.DataObject) -> None:
        """Change the file that a paused worker has claimed, before that worker continues."""
        workers = [actor for actor in self.actors if actor.claim]
        actor = workers[data.draw(st.integers(0, len(workers) - 1), "actor")]
        self.target = actor.claim.lease.row.name if actor.claim else ""
        self.draw_and_do(data, "action", ["write", "delete", "take_over"])
        self.target = ""
        if data.draw(st.booleans(), "resume"):
            self.go(actor, *self.some_way(data, WORK_STEPS))

    def take_over(self, data: st.DataObject) -> None:
        """Let the lease expire, and let another worker finish the file."""
        rows = ledger().named(ALIAS, self.target)
        rows.filter(due_at__isnull=False).update(due_at=LONG_AGO)
        if len(self.actors) < ACTORS_MAX and (row := rows.first()):
            self.enter(f"take over {row.pk}", partial(run_all, [row.pk]), Action("work"))

    # Events that affect all

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
            return  # a remote that renames does not overwrite
        if fault == Fault.HALFWAY and self.kind == Kind.REPLACES:
            return  # such a remote has no unfinished objects
        self.turn_into(fault)

    # Remotes that go away

    def outage(self, data: st.DataObject) -> None:
        self.draw_and_do(data, "event of an outage", OUTAGE_EVENTS)

    def probe(self, data: st.DataObject) -> None:
        """Let a process find out whether the remote is back, as it mostly is by then."""
        if data.draw(st.integers(0, 3), "back"):
            self.turn_into(None)
        if len(self.actors) == ACTORS_MAX:
            return
        work: Callable[[], Any] = partial(probing.probe_now, ALIAS)
        if data.draw(st.booleans(), "when it is time"):
            remotes().filter(alias=ALIAS).probed().update(next_probe_at=LONG_AGO)
            work = look
        way, fate = self.some_way(data, WORK_STEPS)
        before = self.remote_state
        self.enter("probe", work, Action("probe"), way, fate)
        if way == math.inf and before == RemoteState.AWAY:  # any other may be probed by a file
            is_open = self.remote_state == RemoteState.OPEN
            # Another process may have taken this probe, and may be about to finish it.
            assert is_open or self.bench.is_away or self.is_probed_by_another()
            assert not is_open or not self.bench.is_away

    def is_probed_by_another(self) -> bool:
        return any(action.kind == "probe" for action in self.actors.values())

    def go_away(self, data: st.DataObject) -> None:
        """Let the remote be away for so long that a single failure raises a suspicion."""
        self.turn_into(data.draw(st.sampled_from([Fault.REFUSE, DENY]), "fault"))
        self.bench.clock.advance(circuit.QUIET + READ_EVERY)
        if self.remote_state != RemoteState.OPEN or len(self.actors) == ACTORS_MAX:
            return
        calls = self.bench.remote.calls.total()
        self.enter("find out", self.poll, Action("work"))
        found = self.remote_row()
        is_odd = found is not None and found.is_probed_by_files  # it denied only the probes
        if self.bench.remote.calls.total() > calls and not is_odd:
            assert self.remote_state in PROBED, "It was not noticed."

    def pass_time(self, data: st.DataObject) -> None:
        self.bench.clock.advance(data.draw(st.sampled_from(SECONDS), "seconds"))

    def pause_remote(self, data: st.DataObject) -> None:
        self.steer_remote(operator.pause, RemoteState.PAUSED)

    def end_pause(self, data: st.DataObject) -> None:
        if self.remote_state == RemoteState.PAUSED:
            self.steer_remote(operator.resume, RemoteState.OPEN)

    def steer_remote(self, verb: Callable[[str], int], state: str) -> None:
        calls = self.bench.remote.calls.copy()
        assert verb(ALIAS) == (self.remote_state != state)
        assert self.bench.remote.calls == calls
        self.know(state)

    def turn_into(self, fault: Fault | str | None) -> None:
        self.bench.remote.fault = fault
        for action in self.actors.values():
            action.faults.add(fault)

    def know(self, state: str) -> None:
        """Note the state of the remote."""
        if (state == RemoteState.OPEN) == (self.remote_state == RemoteState.OPEN):
            self.remote_state = state
            return
        self.remote_state = state
        is_open = state == RemoteState.OPEN
        self.closed_at = math.inf if is_open else self.bench.clock.now
        for action in self.actors.values():
            action.is_barred &= not is_open

    @property
    def is_known_to_be_closed(self) -> bool:
        """Whether every process must know by now that the remote is closed."""
        return self.bench.clock.now - self.closed_at >= READ_EVERY

    # A volume that is not mounted

    def unmount(self, data: st.DataObject) -> None:
        """Let users and workers do some things while the local volume is not mounted."""
        rows = self.rows()
        if self.actors or not any(rows[name].is_local and rows[name].size for name in self.files):
            return  # somebody may write there, or nothing is missing
        place = Path(self.bench.near.location)
        self.bench.near.volume = place.rename(place.with_name("volume"))
        place.mkdir()
        try:
            self.bench.clock.advance(READ_EVERY)
            self.miss_save(data)
            self.miss_read(data)
            if data.draw(st.booleans(), "delete"):
                self.delete(data)
            self.miss_work(data)
        finally:
            written = list(place.iterdir())
            shutil.rmtree(place)
            self.bench.near.volume.rename(place)
            self.bench.near.volume = None
        assert not written, "Something was written to the mount point."
        self.bench.clock.advance(READ_EVERY)

    def miss_save(self, data: st.DataObject) -> None:
        storage, name = self.some_storage(data), self.some_name(data)
        before = self.rows()
        with pytest.raises(LocalStorageMissing):
            storage.save(name, ContentFile(self.some_bytes(data)))
        with pytest.raises((LocalStorageMissing, NameUnavailable)):
            self.write_file(storage, Action("write", name, self.some_bytes(data)))
        assert self.rows() == before

    def miss_read(self, data: st.DataObject) -> None:
        for name, row in self.rows().items():
            if name in self.files and row.state != State.TRANSFERRED:
                with pytest.raises(LocalStorageMissing):
                    self.read_file(self.bench.storage, name)

    def miss_work(self, data: st.DataObject) -> None:
        self.reach_next_tries(data)
        before = self.rows()
        for pk in sorted(self.due_now()):
            self.enter(f"work on {pk} without its volume", partial(run_all, [pk]), Action("work"))
        for name, row in self.rows().items():
            if row.is_local and name in self.files:
                was = before[name]
                assert (row.state, row.attempts) == (was.state, was.attempts)

    def put_foreign_object(self, data: st.DataObject) -> None:
        name = self.some_name(data)
        known = {row.remote_name for row in self.rows().values()}
        # An actor may be between its check of the remote and its upload.
        if not self.actors and name not in known | self.bench.far.content().keys():
            self.foreign[name] = self.some_bytes(data)
            self.bench.far.save(name, ContentFile(self.foreign[name]))

    # Helpers

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
        """Choose how far an actor runs, and its fate at that point."""
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
        for row in ledger().claim_due(1, gates.open_of([ALIAS])):
            run_claimed(row)

    def do(self, action: Action, act: Callable[[], Any]) -> None:
        """Act without interruption, and check that the remote is not called."""
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
        action.is_barred = action.kind != "probe" and self.is_known_to_be_closed
        self.actors[actor] = action
        self.process_of[actor] = self.free_process()
        self.notice(action)
        self.go(actor, way, fate)

    def go(self, actor: Actor, way: float | str, fate: Fate) -> None:
        tokens = {row.lease_token for row in self.rows().values()}
        for claim in actor.claims:
            claim.is_lost |= claim.lease.row.lease_token not in tokens
        writes = self.bench.writes
        with self.processes[self.process_of[actor]].running():
            actor.go(way, fate)
        note(f"        {actor}")
        action = self.actors[actor]
        assert not action.is_barred or self.bench.writes == writes, "The remote is closed."
        self.absorb(action)
        self.absorb_remote(action)
        if actor.is_over:
            del self.actors[actor]
            self.orphans |= actor.renamed | actor.told
            self.charge(actor, action)
            self.leave(actor, action)

    def free_process(self) -> int:
        used = {self.process_of[actor] for actor in self.actors if actor in self.process_of}
        self.turns += 1
        numbers = [(self.turns + number) % ACTORS_MAX for number in range(ACTORS_MAX)]
        return next(number for number in numbers if number not in used)

    def charge(self, actor: Actor, action: Action) -> None:
        """Note the attempts that may count, since not only an outage has ended them."""
        if actor.is_dead:
            self.processes[self.process_of[actor]] = Process()
        del self.process_of[actor]
        # A remote that is away now and then may be there when the failure of a file is judged.
        is_steady = action.faults <= {None} or action.faults <= OUTAGES
        is_spared = actor.error is None and is_steady
        for claim in actor.had:
            if not is_spared or claim.is_lost:
                self.charged[claim.lease.row.pk, claim.lease.row.generation] += 1

    def leave(self, actor: Actor, action: Action) -> None:
        if actor.is_dead:
            assert isinstance(actor.error, Dead), actor.error
            self.after_death(actor, action)
        elif isinstance(actor.error, SystemExit):
            self.after_death(actor, action)  # it may have been raised during a cleanup
        elif actor.error is None:
            self.require_done(action, actor.answer)
        elif action.kind == "read":
            is_gone = isinstance(actor.error, FileNotFoundError) and None in action.seen
            is_away = isinstance(actor.error, ConnectionError) and Fault.REFUSE in action.faults
            is_away |= isinstance(actor.error, PermissionError) and DENY in action.faults
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

    # The state of the model

    def rows(self) -> dict[str, QueuedFile]:
        return {row.name: row for row in ledger().filter(alias=ALIAS)}

    def due_now(self) -> set[int]:
        return set(ledger().filter(alias=ALIAS).due().values_list("pk", flat=True))

    def due(self) -> Any:
        return ledger().filter(alias=ALIAS, due_at__isnull=False)

    def absorb(self, action: Action) -> None:
        """Apply the only change that this action may have made to the model."""
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
            gone = self.tombstones.keys() - tombstones.keys() - self.files.keys()
            for name in gone & self.squatters.keys():
                self.strays.setdefault(name, self.squatters.pop(name))
            for name in gone & self.strays.keys():
                if name not in self.bench.near.content():  # it was removed with the deleted file
                    del self.strays[name]
            self.tombstones = tombstones
        for name, row in rows.items():
            if row.remote_name in self.foreign and row.state != State.DELETING:
                if in_transaction:
                    continue  # it may be rolled back
                assert row.remote_name == name, f"{name} takes over a foreign object"
                was_deleted = row.generation > 1 and row.state != State.TRANSFERRED
                assert was_deleted, f"{name} takes over a foreign object"
                del self.foreign[name]

    def absorb_remote(self, action: Action) -> None:
        """Apply the only change of the remote's state that this action may have made."""
        found = self.remote_row()
        state = found.state if found else RemoteState.OPEN
        if state == self.remote_state:
            return
        change = f"{action} made {state} of {self.remote_state}"
        assert RemoteState.PAUSED not in {self.remote_state, state}, change
        assert action.kind == ("work" if self.remote_state == RemoteState.OPEN else "probe"), change
        assert action.faults - CLOSING if state == RemoteState.OPEN else action.faults & CLOSING, (
            change
        )
        self.know(state)

    def remote_row(self) -> Remote | None:
        rows = list(remotes().filter(alias=ALIAS))
        assert len(rows) <= 1
        return rows[0] if rows else None

    def after_death(self, actor: Actor, action: Action) -> None:
        """Note local files left by a process that died between the disk and the ledger."""
        near = self.bench.near.content()
        self.drafts |= actor.drafts | {name for name in near if is_unfinished(name)}
        if action.kind == "restore":  # it may be in place but not recorded
            for name, row in self.rows().items():
                if name in near and name in self.files and not row.is_local:
                    self.squatters.setdefault(name, near[name])
        if action.is_done or action.kind not in {"save", "write"}:
            return
        if action.kind == "write" and action.name in self.files:
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
        """Note a change of an object on the remote; called before it happens."""
        if is_claimed:
            self.tainted.discard(name)
        else:
            self.tainted.add(name)

    def value(self, name: str) -> bytes | None:
        """Return what a reader must get, or None if the file does not exist."""
        if name in self.files:
            return self.files[name].data
        if name in self.tombstones:
            return None
        return self.strays.get(name, self.foreign.get(name))

    def coming(self) -> list[bytes]:
        """Return the contents that are being saved and are not in the ledger yet."""
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
                action.seen += self.coming()  # its row may be written at this moment
                action.seen.append(self.bench.far.content().get(action.name))  # of another file

    # Invariants

    @invariant()
    def check(self) -> None:
        for action in self.actors.values():
            self.notice(action)
        rows = self.rows()
        near, far = self.bench.near.content(), self.bench.far.content()
        self.check_local(rows, near)
        self.check_remote(rows, far)
        self.check_state_of_remote()
        self.check_attempts(rows)
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
            elif name in self.files and waiting_name(name, rows[name]) in near:
                pass  # replaced next, and not read
            elif name in self.files:
                allowed: list[bytes | None] = [self.files[name].data]
                if not rows[name].is_local:  # saves may use the name until the insert
                    allowed += [*coming, self.squatters.get(name)]
                assert data in allowed, f"{name} is wrong"
            elif name not in rows and data not in coming:
                assert data == self.strays.get(name), f"{name} is left over"

    def check_remote(self, rows: dict[str, QueuedFile], far: dict[str, bytes]) -> None:
        known = {row.remote_name for row in rows.values()}
        self.note_unproved(rows, far)
        allowed = self.foreign.keys() | self.tainted | self.orphans | self.unproved
        for actor in self.actors:
            allowed |= actor.renamed | actor.told
        assert far.keys() <= known | allowed, "The remote has what the ledger does not know."
        for name, data in self.foreign.items():
            assert far.get(name) == data, f"The foreign object {name} was touched."
        for row in rows.values():
            if row.state == State.TRANSFERRED and row.remote_name not in self.tainted:
                assert far.get(row.remote_name) == self.files[row.name].data, f"{row} is not there"

    def check_state_of_remote(self) -> None:
        found = self.remote_row()
        assert (found.state if found else RemoteState.OPEN) == self.remote_state
        if found:
            is_probed = found.state in PROBED
            assert not is_probed or (found.next_probe_at and found.last_error)
            assert is_probed or not found.probes

    def check_attempts(self, rows: dict[str, QueuedFile]) -> None:
        """Require that no outage counts as an attempt of a file."""
        running = Counter(
            (claim.lease.row.pk, claim.lease.row.generation)
            for actor in self.actors
            for claim in actor.had
        )
        for name, row in rows.items():
            key = row.pk, row.generation
            allowed = self.charged[key] + running[key]
            if row.state in {State.PENDING, State.TRANSFERRING}:
                assert row.attempts <= allowed, f"{name}: {row.attempts} attempts, not {allowed}"
            if row.state == State.FAILED:
                assert allowed, f"{name} failed by an outage"

    def note_unproved(self, rows: dict[str, QueuedFile], far: dict[str, bytes]) -> None:
        """Note objects whose bytes do not prove that they are a file's."""
        self.unproved &= far.keys()
        near = self.bench.near.content()
        for row in rows.values():
            if row.unconfirmed and (found := far.get(row.remote_name)) is not None:
                expected = near.get(row.name, b"")
                is_part = self.kind != Kind.REPLACES and expected.startswith(found)
                if found != expected and not is_part:
                    self.unproved.add(row.remote_name)

    def check_file(
        self, name: str, row: QueuedFile | None, near: dict[str, bytes], far: dict[str, bytes]
    ) -> None:
        """Check all answers about a file, if anything relevant changed since the last check."""
        value = self.value(name)
        cached = cache.get(self.bench.storage.get_cache_key(name))
        state = row and (row.pk, row.generation, row.state, row.is_local, row.remote_name)
        remote = far.get(row.remote_name if row else name)
        waiting = near.get(waiting_name(name, row)) if row else None
        evidence = (value, state, near.get(name), waiting, remote, cached)
        if self.checked.get(name) != evidence:
            self.ask(name, value, row, name in near or waiting is not None, name in far)
            self.checked[name] = evidence

    def ask(
        self, name: str, value: bytes | None, row: QueuedFile | None, is_near: bool, is_far: bool
    ) -> None:
        storage = self.bench.storage
        if row is None and value is None and (is_near or is_far):
            return  # the object of another file, or a save in progress
        if value is None:
            assert not storage.exists(name), f"{name} is back"
            with pytest.raises(FileNotFoundError):
                storage.open(name)
            return
        assert storage.exists(name), f"{name} is gone"
        if not is_near and row and row.remote_name in self.tainted:
            return
        expected = [value]
        if row is None:  # a save in progress is visible before its row
            expected += self.coming()
        assert self.read_file(storage, name) in expected, f"{name} is wrong"
        assert storage.size(name) in [len(data) for data in expected]
        if row:
            is_remote = row.state == State.TRANSFERRED
            url = self.bench.far.url(row.remote_name) if is_remote else self.bench.near.url(name)
            assert storage.url(name) == url
            assert is_near or (is_remote and row.verified == "content"), f"{name} is lost"

    # The end

    def teardown(self) -> None:
        is_broken = sys.exception() is not None
        for actor in list(self.actors):
            if is_broken and actor.is_over:
                continue
            if is_broken:
                actor.kill()
            else:
                self.go(actor, math.inf, Fate.PAUSE)
                self.check()
        if not is_broken:
            self.settle()

    def settle(self) -> None:
        self.turn_into(None)
        if self.remote_state == RemoteState.PAUSED:
            self.steer_remote(operator.resume, RemoteState.OPEN)
        for _round in range(20):
            self.bench.clock.advance(READ_EVERY)
            is_over = not self.due().update(due_at=LONG_AGO)
            drain(self.bench.storage)
            self.absorb(Action(""))
            self.absorb_remote(Action("probe", faults={None}))
            self.check()
            if is_over:
                break
        rows = self.rows()
        assert self.remote_state == RemoteState.OPEN
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
                assert (name in near) == row.is_local or name in self.squatters
                assert not row.last_error or self.is_steered
            case State.FAILED:
                assert row.last_error
                assert self.charged[row.pk, row.generation], f"{name} failed by an outage"
                assert near[name] == data
            case _:
                assert row.state == State.HELD
                assert near.get(waiting_name(name, row), near.get(name)) == data


@pytest.mark.one_database
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # killed actors close no files
@pytest.mark.django_db(transaction=True)
def test_users_always_see_their_own_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"VERIFY": "content", "RETRIES": 1, "PROBE_EVERY": NEVER}
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | changes
    monkeypatch.setattr(leases, "keep", keep)
    monkeypatch.setattr(work, "solitude", Processes())
    monkeypatch.setattr(routes, "PER_PROCESS_TIMEOUT", 3600)  # no answer depends on the clock
    with stage() as pool:
        Model.bench = Bench(pool, step_remotes(monkeypatch))
        run_state_machine_as_test(Model, settings=PROFILE)
    gc.collect()  # emit ResourceWarnings here and not in the next test
