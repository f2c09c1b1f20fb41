"""Files that are moved from a previous remote to the present one."""

import json
from contextlib import suppress
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command

from queued_storage.conf import settings
from queued_storage.exceptions import RemoteChanged
from queued_storage.ledger import bindings
from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.sql.clock import database_time, seconds_between
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.operations.moving import move
from queued_storage.transfers import probing
from queued_storage.transfers.gates import gates
from queued_storage.transfers.surplus import dispose, dispose_due
from tests.support.command import silently
from tests.support.moving import Switch, on, overwritten, place, row_of, saved
from tests.support.scripted import LONG_AGO, file, make_due, read
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


def test_new_content_goes_to_the_present_remote(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt", b"old")
    storage = switch("new", "old")
    overwritten(storage, name, b"new")
    assert storage.queue.deliver() == {}
    assert (on("old"), on("new")) == ([name], [name])
    assert storage.url(name) == "https://new.example/a.txt"
    copy = copies().get()
    assert (copy.state, copy.place) == (CopyState.REMOVING, place("old"))
    assert dispose_due(10) == 1
    assert (on("old"), on("new")) == ([], [name])
    assert not copies().exists()


def test_sweep_removes_old_copies(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    overwritten(storage, name, b"new")
    assert storage.queue.deliver() == {}
    sweep()
    assert (on("old"), on("new")) == ([], [name])


def test_workers_remove_old_copies(switch: Switch, fork: Any) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    overwritten(storage, name, b"new")
    fork(silently, "worker", "--poll", "0.05")
    until(lambda: on("old") == [] and on("new") == [name])


def test_worker_until_empty_removes_old_copies(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    overwritten(storage, name, b"new")
    silently("worker", "--until-empty", "--poll", "0.05")
    assert (on("old"), on("new")) == ([], [name])


def test_new_content_while_the_old_copy_is_removed(switch: Switch) -> None:
    """Going back while an old object is being removed never overwrites it in between."""
    name = saved(switch("old"), "a.txt", b"1")
    storage = switch("new", "old")
    overwritten(storage, name, b"2")
    assert storage.queue.deliver() == {}
    claimed = copies().claim(copies().get())
    assert claimed
    storage = switch("old", "new")
    overwritten(storage, name, b"3")
    [error] = storage.queue.deliver().values()
    assert "removing" in str(error)
    assert dispose(claimed)
    make_due(storage, name)
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    dispose_due(10)
    assert (on("old"), on("new")) == ([name], [])
    assert read(storages["old"], name) == b"3"


def test_delete_removes_further_copies(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    call_command("queued_storage", "move", storage="default", keep=True)
    assert (on("old"), on("new")) == ([name], [name])
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert (on("old"), on("new")) == ([], [])
    assert not ledger().exists()


def test_delete_waits_for_a_remote_that_is_not_configured(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    switch("new", "old")
    call_command("queued_storage", "move", storage="default")
    storage = switch("new")
    storage.delete(name)
    [error] = storage.queue.deliver().values()
    assert isinstance(error, RemoteChanged)
    assert row_of(name).state == State.DELETING
    storage = switch("new", "old")
    ledger().update(due_at=LONG_AGO)
    assert storage.queue.deliver() == {} == storage.queue.deliver()
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert (on("old"), on("new")) == ([], [])


# The verb


@pytest.mark.parametrize("evict", [False, True])
def test_move(switch: Switch, evict: bool, capsys: Any) -> None:
    name = saved(switch("old"), "a/b.txt", b"bytes", evict=evict)
    storage = switch("new", "old")
    storage.url(name)  # the cache remembers the old place
    call_command("queued_storage", "move", storage="default")
    found = row_of(name)
    assert (found.place, found.remote_name, found.state) == (place("new"), name, "transferred")
    assert (found.lease_token, found.due_at, found.is_local) == ("", None, not evict)
    assert storage.url(name) == "https://new.example/a/b.txt"
    assert read(storages["new"], name) == b"bytes"
    copy = copies().get()
    assert (copy.place, copy.remote_name, copy.state) == (place("old"), name, "transferred")
    assert "1 file was moved" in capsys.readouterr().out


def test_move_back_uses_the_old_copy(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt", b"bytes", evict=True)
    switch("new", "old")
    call_command("queued_storage", "move", storage="default")
    storage = switch("old", "new")
    storages["old"].calls.clear()
    call_command("queued_storage", "move", storage="default")
    assert row_of(name).place == place("old")
    assert storages["old"].calls["_save"] == 0
    assert read(storage, name) == b"bytes"


def test_drop_old_removes_only_what_was_moved(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt", evict=True)
    storage = switch("new", "old")
    storages["old"].save("unknown.txt", file())
    call_command("queued_storage", "move", storage="default", drop_old=True, yes=True)
    assert (on("old"), on("new")) == (["unknown.txt"], [name])
    assert read(storage, name) == b"bytes"
    assert not copies().exists()


def test_drop_old_leaves_kept_copies(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    switch("new", "old")
    call_command("queued_storage", "move", storage="default", keep=True)
    call_command("queued_storage", "move", storage="default", drop_old=True, yes=True)
    assert on("old") == [name]


def test_drop_old_verifies_the_new_copy_first(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt", evict=True)
    switch("new", "old")
    call_command("queued_storage", "move", storage="default")
    storages["new"].delete(name)
    with pytest.raises(CommandError, match="could not be removed"):
        call_command("queued_storage", "move", storage="default", drop_old=True, yes=True)
    assert on("old") == [name]


def test_drop_old_asks_first(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    switch("new", "old")
    with pytest.raises(CommandError, match="Add --yes"):
        call_command("queued_storage", "move", storage="default", drop_old=True)
    assert (on("old"), on("new")) == ([name], [])


def test_dry_run_moves_nothing(switch: Switch, capsys: Any) -> None:
    name = saved(switch("old"), "a.txt")
    switch("new", "old")
    call_command("queued_storage", "move", storage="default", drop_old=True, dry_run=True)
    assert "1 file would be moved" in capsys.readouterr().out
    assert (on("old"), on("new")) == ([name], [])


def test_move_does_not_overwrite_foreign_objects(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt", b"ours", evict=True)
    storage = switch("new", "old")
    storages["new"].save(name, file(b"foreign"))
    call_command("queued_storage", "move", storage="default")
    assert row_of(name).remote_name != name
    assert read(storage, name) == b"ours"
    assert read(storages["new"], name) == b"foreign"


def test_a_bad_old_copy_is_not_moved(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt", b"bytes", evict=True)
    switch("new", "old")
    with open(storages["old"].path(name), "wb") as opened:
        opened.write(b"other")
    with pytest.raises(CommandError, match="still at a previous"):
        call_command("queued_storage", "move", storage="default")
    assert row_of(name).place == place("old")
    assert "Nothing was copied" in row_of(name).last_error
    assert on("new") == []


@pytest.mark.parametrize("change", ["overwrite", "delete"])
def test_a_file_that_is_changed_during_its_move(switch: Switch, change: str) -> None:
    name = saved(switch("old"), "a.txt", b"old", evict=True)
    storage = switch("new", "old")

    def changes(_name: str) -> None:
        if change == "delete":
            storage.delete(name)
        else:
            overwritten(storage, name, b"new")

    storages["new"].after["_save"] = changes
    with suppress(CommandError):
        call_command("queued_storage", "move", storage="default", threads=1)
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    dispose_due(10)
    assert on("old") == []
    if change == "delete":
        assert on("new") == []
        assert not ledger().exists()
    else:
        assert read(storage, name) == b"new"
        assert on("new") == [row_of(name).remote_name]
    assert not copies().exists()


@pytest.mark.parametrize("method", ["_save", "size"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_move_goes_on_after_a_crash(switch: Switch, method: str, when: str) -> None:
    name = saved(switch("old"), "a.txt", b"bytes", evict=True)
    storage = switch("new", "old")

    def crash(_name: str) -> None:
        raise KeyboardInterrupt

    getattr(storages["new"], when)[method] = crash
    with pytest.raises(CommandError, match="Stopped"):
        call_command("queued_storage", "move", storage="default", threads=1)
    assert read(storage, name) == b"bytes"
    call_command("queued_storage", "move", storage="default")
    assert on("new") == [name]
    assert read(storage, name) == b"bytes"
    assert storage.url(name) == "https://new.example/a.txt"


def test_remotes_shows_what_is_left(switch: Switch, capsys: Any) -> None:
    storage = switch("old")
    for name in ("a.txt", "b.txt"):
        saved(storage, name)
    storage = switch("new", "old")
    overwritten(storage, "a.txt", b"new")
    assert storage.queue.deliver() == {}
    call_command("queued_storage", "remotes")
    assert "1 file is left, 1 old copy" in capsys.readouterr().out
    call_command("queued_storage", "remotes", json=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    its = [each for each in found if each["alias"] == "default"]
    assert [(each["is_configured"], each.get("left")) for each in its] == [(True, None), (False, 1)]


@pytest.mark.parametrize("is_filled", [True, False])
def test_accept_leaves_files_at_previous_remotes(switch: Switch, is_filled: bool) -> None:
    name = saved(switch("old"), "a.txt", b"bytes", evict=True)
    if not is_filled:
        ledger().update(place=None)
        bindings.forget()
    storage = switch("new", "old")
    call_command("queued_storage", "remotes", "accept", "default")
    assert row_of(name).place == (place("old") if is_filled else None)
    assert read(storage, name) == b"bytes"
    call_command("queued_storage", "move", storage="default")
    assert row_of(name).place == place("new")


@pytest.mark.parametrize("is_late", [False, True])
def test_accepted_objects_are_not_removed(switch: Switch, is_late: bool) -> None:
    """The row of a file is bound to a place where an old copy of it waits for its removal."""
    name = saved(switch("old"), "a.txt", b"1")
    storage = switch("new", "old")
    overwritten(storage, name, b"2")
    assert storage.queue.deliver() == {}
    with open(storages["old"].path(name), "wb") as copied:  # by the operator
        copied.write(b"2")

    def accept() -> None:
        switch("old")
        silently("remotes", "accept", "default")

    if is_late:
        claimed = copies().claim(copies().get())
        assert claimed
        accept()
        dispose(claimed)
        copies().update(due_at=LONG_AGO)  # the lease expires
    else:
        accept()
    dispose_due(10)
    assert read(storages["default"], name) == b"2"
    assert on("old") == [name]
    assert not copies().exists()


def test_move_needs_previous_remotes(switch: Switch) -> None:
    switch("new")
    with pytest.raises(CommandError, match="no previous remotes"):
        call_command("queued_storage", "move", storage="default")


def test_move_stops_after_failures_in_a_row(switch: Switch) -> None:
    storage = switch("old")
    for number in range(12):
        saved(storage, f"{number}.txt", evict=True)
    switch("new", "old")
    storages["new"].refuses = True
    ended = r"10 files in a row failed: .*[^.]\. Run the command again"
    with pytest.raises(CommandError, match=ended):
        call_command("queued_storage", "move", storage="default", threads=1)
    storages["new"].refuses = False
    call_command("queued_storage", "move", storage="default", threads=3)
    assert len(on("new")) == 12


def test_limited_move_reads_through_the_limit(switch: Switch) -> None:
    saved(switch("old"), "here.txt", b"12345")
    saved(storages["default"], "there.txt", b"123", evict=True)
    storage = switch("new", "old")
    counts: list[int] = []
    assert move(storage, limit=counts.append) == 2
    assert sum(counts) >= 8


# A previous remote that is away


def closed() -> list[tuple[int, str]]:
    return list(remotes().closed().values_list("digest", "state"))


def test_only_the_previous_remote_is_closed(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    storages["old"].refuses = True
    storage.delete(name)
    assert len(storage.queue.deliver()) == 1
    assert closed() == [(place("old"), "away")]
    assert not gates.is_closed("default")
    found = row_of(name)
    assert (found.state, found.lease_token) == (State.DELETING, "")
    assert found.due_at > database_time(ledger().db)  # not at once, again and again
    saved(storage, "b.txt")
    assert on("new") == ["b.txt"]


def test_nothing_is_tried_at_a_closed_previous_remote(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    saved(storages["default"], "b.txt")
    storage = switch("new", "old")
    remotes().filter(digest=place("old")).close("away", "It is away.", 60)
    gates.forget()
    storages["old"].calls.clear()
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert storages["old"].calls == {}
    assert "has a copy is closed" in row_of(name).last_error
    with pytest.raises(CommandError, match="is closed"):
        call_command("queued_storage", "move", storage="default")


def test_previous_remote_is_probed_and_opened(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    remotes().filter(digest=place("old")).close("away", "It is away.", 0)
    gates.forget()
    storages["old"].refuses = True
    probing.probe_due()
    assert closed() == [(place("old"), "away")]
    storages["old"].refuses = False
    remotes().probed().update(next_probe_at=LONG_AGO)
    probing.probe_due()
    assert closed() == []
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert on("old") == []


# Killed processes


def finish(storage: Any) -> None:
    """Let all leases expire, and do what is due."""
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)
    copies().exclude(due_at=None).update(due_at=LONG_AGO)
    while sweep():
        assert storage.queue.deliver() == {}
    dispose_due(10)


MOVE = ["move", "--storage", "default", "--threads", "1"]


@pytest.mark.parametrize(
    "point",
    ["files claimed", "copy begun", "copy reserved", "copy sent", "moving", "rows moved", "moved"],
)
def test_killed_move_can_be_repeated(switch: Switch, kill: Any, point: str) -> None:
    names = [saved(switch("old"), f"{each}.txt", b"bytes", evict=True) for each in range(2)]
    storage = switch("new", "old")
    kill(point, *MOVE)
    assert [read(storage, name) for name in names] == [b"bytes"] * 2
    finish(storage)
    silently(*MOVE)
    assert (on("old"), on("new")) == (names, names)
    assert [storage.url(name) for name in names] == [f"https://new.example/{n}" for n in names]
    assert {copy.state for copy in copies()} == {CopyState.TRANSFERRED}


@pytest.mark.parametrize(
    "point",
    ["old copies claimed", "removing the old copy", "old copies removed", "old copies dropped"],
)
def test_killed_drop_old_can_be_repeated(switch: Switch, kill: Any, point: str) -> None:
    names = [saved(switch("old"), f"{each}.txt", b"bytes", evict=True) for each in range(2)]
    storage = switch("new", "old")
    silently(*MOVE)
    kill(point, *MOVE, "--drop-old", "--yes")
    assert [read(storage, name) for name in names] == [b"bytes"] * 2
    finish(storage)
    silently(*MOVE, "--drop-old", "--yes")
    assert (on("old"), on("new")) == ([], names)
    assert not copies().exists()


@pytest.mark.parametrize("point", ["copy reserved", "copy sent", "moving"])
def test_drop_old_removes_what_a_killed_move_left(switch: Switch, kill: Any, point: str) -> None:
    name = saved(switch("old"), "a.txt", b"bytes", evict=True)
    switch("new", "old")
    kill(point, *MOVE)
    storage = switch("old", "new")
    finish(storage)
    silently(*MOVE, "--drop-old", "--yes")
    assert (on("old"), on("new")) == ([name], [])
    assert not copies().exists()


def test_old_copy_is_removed_soon_after_an_outage(switch: Switch) -> None:
    name = saved(switch("old"), "a.txt")
    storage = switch("new", "old")
    overwritten(storage, name, b"new")
    assert storage.queue.deliver() == {}
    storages["old"].refuses = True
    assert dispose_due(10) == 0
    waits = seconds_between(database_time(ledger().db), copies().get().due_at)
    assert 0 < waits <= 1.2 * settings.retry_delay
    storages["old"].refuses = False
    copies().update(due_at=LONG_AGO)
    assert dispose_due(10) == 1


@pytest.mark.parametrize("point", ["copy reserved", "copy sent", "moving"])
def test_delete_after_a_killed_move(switch: Switch, kill: Any, point: str) -> None:
    name = saved(switch("old"), "a.txt", b"bytes")
    storage = switch("new", "old")
    kill(point, *MOVE)
    storage.delete(name)
    finish(storage)
    assert (on("old"), on("new")) == ([], [])
    assert not ledger().exists()


@pytest.mark.parametrize("threads", ["0", "101", "²", "many"])
def test_a_wrong_number_of_threads(threads: str) -> None:
    with pytest.raises(CommandError, match="is not a number from 1 to 100"):
        call_command("queued_storage", "move", "--threads", threads)
