"""Compare files with steps with a simple model of what readers may see, after every action.

Users save, overwrite and delete files, in transactions that are committed or rolled back; workers
run steps, transfer files, and die; operators release, retry and delete. What readers get of a file
is its published content or nothing, and nothing else lies on either side under its name.

QUEUED_STORAGE_TEST_MODEL_EXAMPLES is the number of runs of up to 30 actions each.
"""

import os
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from queued_storage.exceptions import NotPublished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.preparation_claims import preparation_claims
from queued_storage.ledger.preparations import preparations
from queued_storage.ledger.states import State
from queued_storage.operations import unpublished
from queued_storage.steps import LATER, PASS, REJECT, REPLACE, Outcome, Step, StepFile
from queued_storage.testing import drain
from tests.support.scripted import LONG_AGO, file, on_disk, read
from tests.support.stepping import gated, hurry, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

EXAMPLES = int(os.environ.get("QUEUED_STORAGE_TEST_MODEL_EXAMPLES", "15"))
KINDS = st.sampled_from(["good", "bad", "dirty", "later", "failing"])
NAMES = st.sampled_from(["a.txt", "b.txt"])


class Judging(Step):
    """Do what the content asks for."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def run(self, file: StepFile) -> Outcome:
        data = b"".join(file.chunks())
        is_first = data not in self.seen
        self.seen.add(data)
        if data.startswith(b"bad"):
            return REJECT("It is bad.")
        if data.startswith(b"dirty"):
            return REPLACE(b"clean" + data)
        if data.startswith(b"later") and is_first:
            return LATER(60)
        if data.startswith(b"failing") and is_first:
            raise OSError("not now")
        return PASS


@dataclass
class Model:
    """What is known of one file."""

    published: bytes | None
    waiting: bytes | None = None  # that readers do not get
    is_undecided: bool = True  # whether steps have to be run
    is_released: bool = False


class Machine(RuleBasedStateMachine):
    publish = "after_steps"

    @initialize()
    def begin(self) -> None:
        preparations().delete()  # of a run that failed
        ledger().delete()
        for place in ("disk", "far"):
            shutil.rmtree(Path(settings.DIRECTORY) / place, ignore_errors=True)
        self.judge = Judging()
        self.storage = gated(self.judge, Judging(), publish=self.publish)
        self.storage.steps[1].seen = self.judge.seen
        self.files: dict[str, Model] = {}
        self.numbers = count()

    def content(self, kind: str) -> bytes:
        return f"{kind} {next(self.numbers)}".encode()

    @property
    def is_gated(self) -> bool:
        return self.publish == "after_steps"

    # Users

    @rule(name=NAMES, kind=KINDS, is_committed=st.booleans())
    def save(self, name: str, kind: str, is_committed: bool) -> None:
        data = self.content(kind)
        before = set(on_disk())
        with transaction.atomic():
            saved = self.storage.save(name, file(data))
            transaction.set_rollback(not is_committed)
        if is_committed:
            model = Model(None, data) if self.is_gated else Model(data)
            assert saved not in self.files
            self.files[saved] = model
        else:  # as Django's own storages, it leaves a file without a row
            for name in set(on_disk()) - before:
                self.storage.local.delete(name)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), kind=KINDS)
    def overwrite(self, data: Any, kind: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        content = self.content(kind)
        with self.storage.open(name, "wb") as opened:
            opened.write(content)
        old = self.files[name].published
        self.files[name] = Model(old, content) if self.is_gated else Model(content)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.storage.delete(name)
        del self.files[name]

    # Workers

    @rule()
    def run_steps(self) -> None:
        hurry(self.storage)
        seen = set(self.judge.seen)
        run(self.storage)
        for model in self.files.values():
            self._step(model, seen)

    @rule()
    def work(self) -> None:
        hurry(self.storage)
        seen = set(self.judge.seen)
        drain(self.storage)
        for model in self.files.values():
            self._step(model, seen)
        for row in ledger().filter(state=State.TRANSFERRED):
            with self.storage.remote.open(row.remote_name) as opened:
                assert opened.read() == self.files[row.name].published

    def _step(self, model: Model, seen: set[bytes]) -> None:
        """Let the steps of a file be run."""
        if not model.is_undecided:
            return
        content = model.waiting if self.is_gated or model.is_released else model.published
        assert content is not None
        is_first = content not in seen
        if not model.is_released:
            if content.startswith(b"bad"):
                model.is_undecided = False
                if not self.is_gated:
                    model.published, model.waiting = None, content
                return
            if content.startswith(b"dirty"):
                content = b"clean" + content
            if content.startswith((b"later", b"failing")) and is_first:
                return
        model.published, model.waiting = content, None
        model.is_undecided = model.is_released = False

    @precondition(lambda self: preparations().waiting().exists())
    @rule()
    def die(self) -> None:
        """Let a worker claim a file, and die."""
        hurry(self.storage)
        each = preparations().waiting().first()
        assert each is not None
        preparation_claims().claim(each.pk, suspect=each.is_suspect)
        preparations().filter(pk=each.pk).update(attempts=0, due_at=LONG_AGO)

    # Operators

    @rule()
    def release(self) -> None:
        unpublished.release(unpublished.stopped(ledger().all()))
        for model in self.files.values():
            if model.waiting is not None and not model.is_undecided:
                model.is_undecided = model.is_released = True

    @rule()
    def retry(self) -> None:
        unpublished.retry(unpublished.of_files(ledger().all()))

    @rule()
    def discard(self) -> None:
        unpublished.discard(unpublished.stopped(ledger().all()))
        for name, model in list(self.files.items()):
            if model.waiting is not None and not model.is_undecided:
                model.waiting = None
                if model.published is None:
                    del self.files[name]

    # Always

    @invariant()
    def readers_get_what_is_published(self) -> None:
        for name, model in getattr(self, "files", {}).items():
            assert self.storage.exists(name)
            assert self.storage.is_published(name) == (model.published is not None)
            if model.published is None:
                with pytest.raises(NotPublished):
                    self.storage.open(name)
                assert name not in on_disk()
            else:
                assert read(self.storage, name) == model.published
            if model.waiting is not None:
                with self.storage.unpublished(name) as opened:
                    assert opened.read() == model.waiting

    def teardown(self) -> None:
        if not hasattr(self, "files"):
            return
        for _round in range(3):
            self.work()
        hidden = {name for name in on_disk() if ".queued-" in name}
        assert hidden == set(preparations().exclude(hidden="").values_list("hidden", flat=True))
        published = {name for name, model in self.files.items() if model.published is not None}
        assert set(on_disk()) - hidden == published
        assert published <= set(on_disk("far")) <= set(self.files)
        for name in set(on_disk("far")) - published:  # of content that was published before
            with self.storage.remote.open(name) as opened:
                assert opened.read() != self.files[name].waiting
        for name in list(self.files):
            self.storage.delete(name)
        drain(self.storage)
        assert on_disk() == on_disk("far") == []
        assert not ledger().exists()
        assert not preparations().exists()


@pytest.fixture
def examples() -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=EXAMPLES,
        stateful_step_count=30,
        deadline=None,
        derandomize=EXAMPLES < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("publish", ["after_steps", "at_once"])
def test_readers_get_what_is_published(publish: str, examples: hypothesis_settings) -> None:
    machine = type("Machine", (Machine,), {"publish": publish})
    run_state_machine_as_test(machine, settings=examples)
