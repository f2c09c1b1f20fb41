"""Compare the limits of a local storage with a simple model, after every step.

Hypothesis saves, overwrites, reads, deletes and transfers files, lets time pass, closes the remote,
opens files, and has a worker look at the local storage. The model knows which files are only local
and when each was last read. So it knows which saves must be refused and which not, which files must
go, in which order, and that no more go than necessary.

QUEUED_STORAGE_TEST_MODEL_EXAMPLES is the number of runs of up to 20 steps each.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from django.db import transaction
from hypothesis import HealthCheck, Phase, event
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from queued_storage.exceptions import NoRoom
from queued_storage.files.limits import AHEAD_MAX
from queued_storage.ledger.database import ledger
from queued_storage.ledger.localsides import local_sides
from queued_storage.ledger.remotes import remotes
from queued_storage.storage import room, sums
from queued_storage.transfers import evicting
from queued_storage.transfers.gates import gates
from tests.support.scripted import file, make, read
from tests.support.small_disks import age

pytestmark = pytest.mark.one_lane

PROFILE = hypothesis_settings(
    max_examples=int(os.environ.get("QUEUED_STORAGE_TEST_MODEL_EXAMPLES", "8")),
    stateful_step_count=20,
    derandomize="QUEUED_STORAGE_TEST_MODEL_EXAMPLES" not in os.environ,
    # A failure is shown at once: to find a shorter one takes longer than a test may.
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MAX_BYTES, MAX_PENDING = 640, 600
SIZES = st.integers(50, 400)
HOUR = 3600
LONG_AGO = 1000  # hours


@dataclass
class Known:
    """A file as the model knows it."""

    content: bytes
    is_pending: bool
    unread: int  # hours; the largest number goes first


class Limits(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        sums._sums.clear()
        room._evict_again_at.clear()
        self.directory = tempfile.TemporaryDirectory()
        self.storage = make(
            local=FileSystemStorage(self.directory.name),
            keep_local={"max_bytes": MAX_BYTES},
            max_pending_bytes=MAX_PENDING,
        )
        remotes().register(self.storage.alias, self.storage.remote_place)
        self.files: dict[str, Known] = {}
        self.opened: dict[str, Any] = {}
        self.hours = 0
        self.is_closed = False
        self.saved = 0

    def teardown(self) -> None:
        for opened in self.opened.values():
            opened.close()
        self.directory.cleanup()

    # What the model knows

    @property
    def pending(self) -> int:
        return sum(len(each.content) for each in self.files.values() if each.is_pending)

    def local(self) -> set[str]:
        rows = ledger().filter(alias=self.storage.alias, is_local=True)
        return set(rows.exclude(state="deleting").values_list("name", flat=True))

    def size_of(self, names: set[str]) -> int:
        return sum(len(self.files[name].content) for name in names)

    def choose(self, number: int) -> str:
        return sorted(self.files)[number % len(self.files)]

    def touch(self, name: str) -> None:
        """Let the local copy have the age that the model knows."""
        with contextlib.suppress(FileNotFoundError):
            hours = LONG_AGO - self.hours
            self.files[name].unread = hours
            age(self.storage.local.path(name), hours * HOUR)

    # Steps

    @rule(size=SIZES, is_rolled_back=st.booleans())
    def save(self, size: int, is_rolled_back: bool) -> None:
        self.saved += 1
        self.hours += 2
        name, content = f"{self.storage.alias}-{self.saved}.txt", bytes([self.saved % 256]) * size
        must_fit = self.pending + size <= MAX_PENDING
        before = self.local()
        try:
            with transaction.atomic() if is_rolled_back else contextlib.nullcontext():
                self.storage.save(name, file(content))
                if is_rolled_back:
                    raise KeyError
        except NoRoom:
            assert not must_fit
        except KeyError:
            assert must_fit
        else:
            assert must_fit
            self.files[name] = Known(content, True, 0)
            self.touch(name)
        self.check_evicted(before, size)

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 50), size=SIZES)
    def overwrite(self, number: int, size: int) -> None:
        name, content = self.choose(number), b"n" * size
        if name in self.opened:
            return
        must_fit = self.pending + size <= MAX_PENDING
        try:
            with self.storage.open(name, "wb") as opened:
                opened.write(content)
        except NoRoom:
            assert not must_fit
        else:
            assert must_fit
            self.files[name] = Known(content, True, 0)
            self.touch(name)

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 50))
    def read(self, number: int) -> None:
        name = self.choose(number)
        self.hours += 2
        assert read(self.storage, name) == self.files[name].content
        self.touch(name)

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 50))
    def open(self, number: int) -> None:
        name = self.choose(number)
        if name in self.opened:
            self.opened.pop(name).close()
        elif name in self.local():
            self.opened[name] = self.storage.local.open(name)

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 50))
    def delete(self, number: int) -> None:
        name = self.choose(number)
        if opened := self.opened.pop(name, None):
            opened.close()
        self.storage.delete(name)
        del self.files[name]

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=4))
    def save_and_transfer(self, sizes: list[int]) -> None:
        for size in sizes:
            self.save(size, is_rolled_back=False)
            self.transfer()

    @rule()
    def transfer(self) -> None:
        if not self.is_closed:
            self.storage.queue.deliver()
            for name, each in self.files.items():
                if each.is_pending and name in self.local():  # the upload has read it
                    age(self.storage.local.path(name), each.unread * HOUR)
                each.is_pending = False

    @rule()
    def outage(self) -> None:
        """Close the remote, save and look, and open it again."""
        its = remotes().filter(alias=self.storage.alias)
        its.pause()
        self.is_closed = True
        gates.forget()
        self.save(300, is_rolled_back=False)
        self.look()
        its.resume()
        self.is_closed = False
        gates.forget()

    @rule()
    def look(self) -> None:
        before = self.local()
        local_sides().update(due_at=None)
        assert evicting.keep_within_limits(self.storage)
        self.check_evicted(before, 0)
        left = {name for name in self.local() if self.is_evictable(name)}
        if left and not self.is_closed:
            assert self.size_of(self.local()) <= MAX_BYTES
        side = local_sides().get(alias=self.storage.alias)
        assert side.pending_bytes == self.pending
        assert side.is_full == (
            self.pending >= MAX_PENDING or self.size_of(self.local()) > MAX_BYTES
        )

    def is_evictable(self, name: str) -> bool:
        return not self.files[name].is_pending and name not in self.opened

    def check_evicted(self, before: set[str], saved: int) -> None:
        """Check that only evictable files went, the longest unread first, and no more than had
        to."""
        gone = before - self.local()
        event(f"{len(gone)} evicted")
        if not gone:
            return
        assert not self.is_closed
        assert all(map(self.is_evictable, gone))
        stayed = {name for name in self.local() if name in before and self.is_evictable(name)}
        last = min(self.files[name].unread for name in gone)
        assert all(self.files[name].unread <= last for name in stayed)
        # The last one that went, which may be any of those that were last read at one time
        needed = max(
            len(self.files[name].content) for name in gone if self.files[name].unread == last
        )
        left = self.size_of(self.local() & before) + saved
        assert left + needed > MAX_BYTES - MAX_BYTES // AHEAD_MAX

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        assert self.pending <= MAX_PENDING

    @invariant()
    def all_files_are_whole(self) -> None:
        for name, known in self.files.items():
            path = Path(self.storage.local.path(name))
            where = self.storage.local if name in self.local() else self.storage.remote
            if where is self.storage.local:
                assert path.stat().st_size == len(known.content)
            else:
                assert not known.is_pending
                assert where.size(name) == len(known.content)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evicting, "EVERY", 0.0)
    monkeypatch.setattr(evicting, "COST", 0)
    monkeypatch.setattr(room, "EVICT_EVERY", 0.0)
    monkeypatch.setattr(room, "EVICT_FOR", 60.0)  # on a busy machine
    monkeypatch.setattr(sums, "COST", 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.one_database
def test_limits_of_a_model() -> None:
    run_state_machine_as_test(Limits, settings=PROFILE)
