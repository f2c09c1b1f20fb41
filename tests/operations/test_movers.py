"""Files that are moved in batches: claims that are lost, given back, and locked by others."""

import threading
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.operations import moving as operations
from queued_storage.operations.errands import CHANGED
from queued_storage.operations.movers import Movers
from queued_storage.operations.moving import Unfinished, left, move
from queued_storage.operations.passes import Step
from queued_storage.transfers import leases, moving
from queued_storage.transfers.gates import gates
from queued_storage.uploaders.generic import GenericUploader
from tests.journeys.conftest import switch
from tests.support.moving import Switch, on, overwritten, place, row_of, saved
from tests.support.scripted import LONG_AGO, read
from tests.support.waiting import until

__all__ = ["switch"]
pytestmark = pytest.mark.django_db(transaction=True)

NAMES = [f"{number}.txt" for number in range(5)]


@pytest.fixture
def storage(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A storage with five files at a previous remote, and none at the present one."""
    storage = switch("old")
    for name in NAMES:
        saved(storage, name, name.encode(), evict=True)
    return switch("new", "old")


@pytest.fixture
def never_overwriting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names at remotes are reserved with the claims, as for S3."""
    monkeypatch.setattr(GenericUploader, "never_overwrites", lambda self, size: True)


def claims() -> list[QueuedFile]:
    return list(ledger().exclude(lease_token=""))


def test_files_share_their_statements(
    switch: Switch, never_overwriting: None, django_assert_max_num_queries: Any
) -> None:
    storage = switch("old")
    names = sorted(saved(storage, f"{number}.txt") for number in range(40))
    storage = switch("new", "old")
    with django_assert_max_num_queries(3 * len(names)):  # it was eleven for each
        assert move(storage) == len(names)
    assert on("new") == names
    assert {row.place for row in ledger()} == {place("new")}
    kept = {(copy.state, copy.remote_name, copy.unconfirmed) for copy in copies()}
    assert kept == {(CopyState.TRANSFERRED, name, "") for name in names}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_that_is_changed_does_not_stop_others(storage: Any, threads: int) -> None:
    storages["new"].after["_save"] = lambda name: overwritten(storage, name, b"new")
    steps: list[Step] = []
    assert move(storage, steps.append, threads=threads) == len(NAMES) - 1
    [failed] = [step for step in steps if step.error]
    assert "changed" in failed.error
    [changed] = ledger().exclude(state=State.TRANSFERRED)
    assert changed.lease_token == ""
    # What was sent of the old content is known, so that it can be replaced.
    copy = copies().get(file=changed)
    assert (copy.place, copy.remote_name, copy.unconfirmed) == (place("new"), changed.name, "")
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert read(storage, changed.name) == b"new"
    assert on("new") == NAMES


@pytest.mark.parametrize("change", ["claim", "copy"])
def test_a_claim_that_is_lost_before_the_exchange(
    storage: Any, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one transaction are told apart."""
    exchange = moving.exchange_all

    def late(rows: Any, *args: Any, **kwargs: Any) -> set[int]:
        if NAMES[1] not in {row.name for row in rows}:
            pass
        elif change == "claim":
            ledger().filter(name=NAMES[1]).update(lease_token="other")
        else:
            copies().filter(file__name=NAMES[1]).update(lease_token="other")
        return exchange(rows, *args, **kwargs)

    monkeypatch.setattr(moving, "exchange_all", late)
    assert move(storage) == len(NAMES) - 1
    [lost] = left(storage)
    assert lost.name == NAMES[1]
    assert lost.place == place("old")
    copy = copies().get(file=lost)
    assert (copy.place, copy.remote_name, copy.unconfirmed) == (place("new"), NAMES[1], "")
    assert copies().filter(state=CopyState.TRANSFERRED).count() == len(NAMES) - 1


@pytest.mark.usefixtures("never_overwriting")
def test_files_that_are_not_begun_are_given_back(storage: Any) -> None:
    """A closed remote ends the pass. Nothing says of the files that wait that they were sent."""

    def close(name: str) -> None:
        remotes().filter(digest=place("new")).close("paused", "By a test.", 0)
        gates.forget()

    storages["new"].after["_save"] = close
    with pytest.raises(Unfinished, match="closed"):
        move(storage, threads=3)
    assert claims() == []
    moved = on("new")
    assert 1 <= len(moved) < len(NAMES)
    assert {row.name for row in left(storage)} == set(NAMES) - set(moved)
    assert not copies().exclude(unconfirmed="").exists()
    assert {copy.object_name for copy in copies().filter(state=CopyState.PENDING)} <= {""}


@pytest.mark.usefixtures("never_overwriting")
def test_an_unreadable_file_is_not_taken_for_sent(storage: Any) -> None:
    storages["old"].delete(NAMES[0])
    assert move(storage) == len(NAMES) - 1
    copy = copies().get(file__name=NAMES[0])
    assert (copy.state, copy.object_name) == (CopyState.PENDING, "")
    assert claims() == []


def test_what_was_sent_is_finished_when_the_pass_is_interrupted(storage: Any) -> None:
    sent: list[str] = []

    def interrupt(name: str) -> None:
        sent.append(name)
        if len(sent) == 3:
            raise KeyboardInterrupt
        storages["new"].after["_save"] = interrupt

    storages["new"].after["_save"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        move(storage)
    assert {row.name for row in left(storage)} == {*NAMES} - {*sent[:2]}
    assert claims() == []


def test_two_processes_leave_each_other_their_files(storage: Any) -> None:
    theirs = ledger().claim_all_settled([row_of(name).pk for name in NAMES[:3]])
    steps: list[Step] = []
    assert move(storage, steps.append) == 2
    assert [step.error for step in steps] == ["", ""]
    assert {row.name for row in left(storage)} == {row.name for row in theirs} == {*NAMES[:3]}
    assert ledger().settle_all(theirs) == 3
    assert move(storage) == 3


def test_files_that_others_lock_are_waited_for(storage: Any) -> None:
    """One that somebody overwrites in a long transaction delays no other one."""
    if not connections[ledger().db].features.has_select_for_update_skip_locked:
        pytest.skip("needs SELECT FOR UPDATE SKIP LOCKED")
    steps: list[Step] = []

    def move_all() -> None:
        try:
            move(storage, steps.append, threads=3)
        finally:
            connections.close_all()

    thread = threading.Thread(target=move_all)
    with transaction.atomic(using=ledger().db):
        ledger().filter(name=NAMES[0]).select_for_update().get()
        thread.start()
        until(lambda: len(steps) == len(NAMES) - 1)
    thread.join()
    assert [step.error for step in steps] == [""] * len(NAMES)
    assert not left(storage).exists()


def test_claims_of_a_killed_process_expire(storage: Any) -> None:
    """The rows of a batch become due, and a worker settles them."""
    pks = [row_of(name).pk for name in NAMES]
    assert len(ledger().claim_all_settled(pks)) == len(NAMES)
    ledger().update(due_at=LONG_AGO)
    with pytest.raises(CommandError, match="still at a previous"):
        call_command("queued_storage", "move", storage="default")
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert claims() == []
    call_command("queued_storage", "move", storage="default")
    assert on("new") == NAMES


def test_a_move_in_a_transaction(storage: Any) -> None:
    """Only its connection sees the claims, so no other thread may try to renew them."""
    with transaction.atomic(using=ledger().db):
        assert move(storage, threads=3) == len(NAMES)
    assert list(leases._kept()) == []
    assert on("new") == NAMES


def test_files_that_another_process_has_moved(
    storage: Any, switch: Switch, never_overwriting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are passed over, and can be moved back."""
    moved: list[int] = []

    def move_before(its: Any) -> None:  # the keys of the files are read by now
        if not moved:
            moved.append(0)
            moved[0] = move(storage)

    monkeypatch.setattr(operations, "_require_open", move_before)
    steps: list[Step] = []
    assert move(storage, steps.append) == 0
    assert (moved, steps, claims()) == ([len(NAMES)], [], [])
    assert {copy.place for copy in copies()} == {place("old")}
    storage = switch("old", "new")
    assert move(storage) == len(NAMES)
    assert {row.place for row in ledger()} == {place("old")}


def test_one_file_that_another_process_has_moved(storage: Any) -> None:
    """It was locked when the others were claimed, so a thread claims it."""
    row = row_of(NAMES[0])
    movers = Movers(
        storage,
        left(storage),
        lambda step: None,
        threads=1,
        is_kept=False,
        throttle=None,
        require_open=lambda: None,
        on_result=lambda error: None,
    )
    assert move(storage) == len(NAMES)
    assert movers._run_alone(row).error == CHANGED
    assert claims() == []
    assert {copy.place for copy in copies()} == {place("old")}


def test_a_copy_at_the_place_of_the_file_is_not_in_the_way(storage: Any) -> None:
    """Earlier versions, and operators who declare where files are, may leave one there."""
    copies().add([row_of(NAMES[2])], place("old"))
    steps: list[Step] = []
    assert move(storage, steps.append) == len(NAMES)
    assert [step.error for step in steps] == [""] * len(NAMES)
    assert {(copy.state, copy.place) for copy in copies()} == {
        (CopyState.TRANSFERRED, place("old"))
    }
    assert claims() == []
