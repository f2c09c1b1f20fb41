"""Old copies of many files that are removed together, by ``move --drop-old`` and by workers."""

import os
import signal
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext

from queued_storage.exceptions import LeaseLost
from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import Content, State
from queued_storage.maintenance import sweep
from queued_storage.operations.errands import CHANGED
from queued_storage.operations.moving import Unfinished, drop_old, old_copies
from queued_storage.operations.passes import Step
from queued_storage.transfers import crews, surplus
from queued_storage.transfers.executor import Executor
from queued_storage.transfers.surplus import Batch, dispose_due
from tests.support.command import silently
from tests.support.moving import Switch, on, overwritten, place, row_of, saved
from tests.support.scripted import LONG_AGO, ScriptedStorage, file, make, read
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

DROP = ["move", "--storage", "default", "--drop-old", "--yes"]


def moved(switch: Switch, count: int) -> tuple[Any, list[str]]:
    """Return the storage, and the names of files whose old copies are still there."""
    storage = switch("old")
    names = [saved(storage, f"{number:02}.txt", evict=True) for number in range(count)]
    storage = switch("new", "old")
    call_command("queued_storage", "move", storage="default")
    assert (on("old"), on("new")) == (names, names)
    return storage, names


class Reports:
    """The errors of a pass by file; an empty text if there was none."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}

    def __call__(self, step: Step) -> None:
        self.errors[step.name.split(":")[-1]] = step.error


def require_no_claims() -> None:
    assert not ledger().exclude(lease_token="").exists()
    assert not copies().exclude(lease_token="").exists()


# One file of a batch


@pytest.mark.parametrize("change", ["overwrite", "delete"])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_changed_file_keeps_its_copy(switch: Switch, change: str, threads: int) -> None:
    storage, _names = moved(switch, 5)
    seen: list[str] = []

    def changes(name: str) -> None:
        seen.append(name)
        if change == "delete":
            storage.delete(name)
        else:
            overwritten(storage, name, b"new")

    storages["new"].after["size"] = changes
    reports = Reports()
    assert drop_old(storage, reports, threads=threads) == 4
    assert on("old") == seen
    assert [text for text in reports.errors.values() if text] == [CHANGED]
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert on("old") == []
    if change == "overwrite":
        assert read(storage, seen[0]) == b"new"
    assert ledger().count() == len(on("new")) == (4 if change == "delete" else 5)
    require_no_claims()


def test_a_missing_new_copy_keeps_the_old_one(switch: Switch, capsys: Any) -> None:
    storage, names = moved(switch, 5)
    storages["new"].delete(names[2])
    with pytest.raises(CommandError, match="1 old copy could not be removed"):
        call_command("queued_storage", *DROP)
    assert "4 old copies were removed" in capsys.readouterr().out
    assert on("old") == [names[2]]
    assert names[2] in row_of(names[2]).last_error
    assert [copy.file.name for copy in old_copies(storage)] == [names[2]]
    require_no_claims()


def test_an_object_of_another_file_stays(switch: Switch) -> None:
    storage, names = moved(switch, 5)
    other = make(remote=ScriptedStorage("old"))
    ledger().record_remote(
        other.alias,
        names[3],
        Content(5, row_of(names[3]).checksum),
        datetime.now(UTC),
        is_local=False,
        verified="checksum",
        place=place("old"),
    )
    assert drop_old(storage) == 5
    assert on("old") == [names[3]]
    assert read(other, names[3]) == b"bytes"
    assert not copies().exists()


def test_a_refused_removal_is_repeated_later(switch: Switch) -> None:
    storage, _names = moved(switch, 5)
    refused: list[str] = []

    def refuse(name: str) -> None:
        refused.append(name)
        raise PermissionError("No right to delete.")

    storages["old"].before["delete"] = refuse
    reports = Reports()
    assert drop_old(storage, reports, threads=1) == 4
    [error] = filter(None, reports.errors.values())
    assert "No right to delete" in error
    assert on("old") == refused
    [copy] = copies()
    assert (copy.state, copy.lease_token, copy.attempts) == (CopyState.REMOVING, "", 1)
    assert "No right to delete" in copy.last_error
    require_no_claims()
    copies().update(due_at=LONG_AGO)
    assert dispose_due(10) == 1
    assert on("old") == []


def test_a_claimed_file_keeps_its_copy(switch: Switch) -> None:
    storage, names = moved(switch, 3)
    assert ledger().claim_settled(row_of(names[1]).pk)
    reports = Reports()
    assert drop_old(storage, reports) == 2
    assert [text for text in reports.errors.values() if text] == [CHANGED]
    assert on("old") == [names[1]]


def test_a_wanted_copy_is_not_forgotten(switch: Switch) -> None:
    """A mirror wants the copy again while its object is being removed."""
    moved(switch, 1)
    copies().discard()
    [copy] = copies().claim_all([copies().get().pk])
    copies().update(state=CopyState.PENDING)
    assert copies().drop_all([copy]) == set()
    found = copies().get()
    assert (found.state, found.lease_token, found.remote_name) == (CopyState.PENDING, "", "")


# The end of a pass


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("remote", ["old", "new"])
def test_drop_old_stops_after_failures_in_a_row(switch: Switch, remote: str, threads: int) -> None:
    storage, names = moved(switch, 30)
    storages[remote].rejects = True
    with pytest.raises(Unfinished, match="10 files in a row failed"):
        drop_old(storage, threads=threads)
    storages[remote].rejects = False
    require_no_claims()
    assert (on("old"), on("new")) == (names, names)
    copies().exclude(due_at=None).update(due_at=LONG_AGO)
    assert drop_old(storage, threads=threads) + dispose_due(30) == 30
    assert on("old") == []


def test_interrupted_drop_old_ends_its_claims(switch: Switch) -> None:
    storage, names = moved(switch, 5)

    def crash(name: str) -> None:
        raise KeyboardInterrupt

    storages["old"].before["delete"] = crash
    with pytest.raises(CommandError, match="Stopped"):
        call_command("queued_storage", *DROP, threads=1)
    assert not ledger().exclude(lease_token="").exists()
    assert copies().exclude(lease_token="").count() == 1  # until the lease ends
    copies().update(due_at=LONG_AGO)
    assert dispose_due(10) + drop_old(storage) == 5
    assert (on("old"), on("new")) == ([], names)


@pytest.mark.parametrize(
    "point",
    ["old copies claimed", "removing the third", "third removed", "old copies removed"],
)
def test_killed_batch_can_be_repeated(switch: Switch, kill: Any, point: str) -> None:
    storage, names = moved(switch, 6)
    kill(point, *DROP, "--threads", "4")
    assert [read(storage, name) for name in names] == [b"bytes"] * 6
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)
    copies().exclude(due_at=None).update(due_at=LONG_AGO)
    while sweep():
        assert storage.queue.deliver() == {}
    silently(*DROP)
    dispose_due(10)
    assert (on("old"), on("new")) == ([], names)
    assert not copies().exists()
    assert set(ledger().values_list("state", flat=True).order_by()) == {State.TRANSFERRED}


def test_what_another_process_has_removed_is_not_counted(switch: Switch) -> None:
    storage, names = moved(switch, 5)
    others: list[int] = []
    storages["new"].after["size"] = lambda name: others.append(drop_old(storage))
    before = storages["new"].calls["size"]
    assert drop_old(storage) == 1
    assert others == [4]
    assert storages["new"].calls["size"] - before == len(names)
    assert on("old") == []
    require_no_claims()


# Statements and claims


def test_workers_need_few_statements(switch: Switch) -> None:
    moved(switch, 40)
    copies().discard()
    with CaptureQueriesContext(connections[ledger().db]) as queries:
        assert dispose_due(40) == 40
    assert len(queries) < 40


def test_void_claims_remove_nothing(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surplus, "FRESH", 0)
    _storage, names = moved(switch, 2)
    copies().discard()
    batch = Batch(lambda: copies().claim_all(list(copies().values_list("pk", flat=True))))
    first, second = batch.copies
    copies().filter(pk=first.pk).update(lease_token="another")
    with pytest.raises(LeaseLost):
        batch.remove(first)
    assert batch.remove(second) == ""
    assert on("old") == [first.file.name] != names


def test_what_was_not_tried_is_given_back(switch: Switch) -> None:
    moved(switch, 5)
    copies().discard()
    answers = [True, True, True, False]
    assert dispose_due(10, lambda: answers.pop(0)) == 2
    require_no_claims()
    assert len(on("old")) == copies().removable().count() == 3


def test_a_removal_that_hangs_delays_no_transfer(switch: Switch) -> None:
    storage, names = moved(switch, 2)
    copies().discard()
    began, may_go_on = threading.Event(), threading.Event()

    def hang(name: str) -> None:
        began.set()
        assert may_go_on.wait(60)

    storages["old"].before["delete"] = hang
    executor = Executor(1, 0.05, lambda: [storage.alias])
    executor.start()
    try:
        assert began.wait(20)
        later = storage.save("later.txt", file())
        until(lambda: row_of(later).state == State.TRANSFERRED)
        assert on("old") == names
        may_go_on.set()
        until(lambda: on("old") == [])
    finally:
        may_go_on.set()
        assert executor.stop(60)


def test_a_signal_ends_the_removals_of_a_worker_until_empty(
    switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _storage, names = moved(switch, 3)
    copies().discard()
    monkeypatch.setattr(crews.Remover, "look", lambda self: None)
    storages["old"].before["delete"] = lambda name: os.kill(os.getpid(), signal.SIGTERM)
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert on("old") == names[1:]
    require_no_claims()
