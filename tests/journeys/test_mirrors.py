"""Files that get a copy on each mirror."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.urls import reverse
from pytest_django import Settings

from queued_storage.exceptions import TransferError, TransferTimeout
from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.states import State
from queued_storage.maintenance import sweep
from queued_storage.operations import errands
from queued_storage.storage.sides import Sides
from queued_storage.testing import drain
from queued_storage.transfers import copying, probing
from queued_storage.transfers.executor import Executor
from queued_storage.transfers.gates import gates
from queued_storage.transfers.surplus import dispose_due
from tests.support.failpoints import FailPoint
from tests.support.forks import ended, forks
from tests.support.mirroring import Mirrored, bytes_on, copy_at
from tests.support.moving import on, overwritten, place, row_of, saved
from tests.support.scripted import LONG_AGO, file, make, read
from tests.support.stepping import EICAR
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


def make_copies_due() -> None:
    """Let all delays end, and mirrors that are closed be probed."""
    probing.probe_closed(["default"])
    copies().exclude(due_at=None).update(due_at=LONG_AGO)


def test_each_file_gets_a_copy_on_each_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"bytes")
    assert on("first") == on("second") == on("third") == [name]
    assert bytes_on("second", name) == bytes_on("third", name) == b"bytes"
    assert {copy.state for copy in copies()} == {CopyState.TRANSFERRED}
    assert {(copy.generation, copy.verified) for copy in copies()} == {(1, "size")}
    assert row_of(name).place == place("first")


def test_new_content_replaces_the_copies(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"old")
    overwritten(storage, name, b"newer")
    assert storage.queue.deliver() == {}
    assert bytes_on("first", name) == bytes_on("second", name) == b"newer"
    copy = copy_at("second")
    assert (copy.state, copy.generation) == (CopyState.TRANSFERRED, row_of(name).generation)
    assert on("second") == [name]


def test_new_content_while_a_copy_is_made(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = storage.save("a.txt", file(b"old"))
    storages["second"].after["_save"] = lambda _name: overwritten(storage, name, b"newer")
    assert storage.queue.deliver() == {}
    assert copy_at("second").state == CopyState.PENDING
    assert storage.queue.deliver() == {}
    assert bytes_on("first", name) == bytes_on("second", name) == b"newer"
    assert copy_at("second").state == CopyState.TRANSFERRED


def test_new_content_is_transferred_while_a_copy_is_made(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = storage.save("a.txt", file(b"old"))

    def change(_name: str) -> None:
        overwritten(storage, name, b"newer")
        assert storage.queue.deliver() == {}
        assert bytes_on("first", name) == b"newer"

    storages["second"].after["_save"] = change
    assert storage.queue.deliver() == {}
    assert (copy_at("second").state, copy_at("second").attempts) == (CopyState.PENDING, 0)
    assert drain(storage) == {}
    assert bytes_on("second", name) == b"newer"


def test_delete_while_a_copy_is_made(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = storage.save("a.txt", file())
    storages["second"].after["_save"] = lambda _name: storage.delete(name)
    assert storage.queue.deliver() == {} == storage.queue.deliver()
    assert (on("first"), on("second")) == ([], [])
    assert not ledger().exists()


def test_delete_waits_for_a_claim_on_a_copy(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt")
    copies().update(state=CopyState.PENDING, due_at=LONG_AGO)
    claimed = copies().claim_to_make(copies().get())
    assert claimed
    storage.delete(name)
    [error] = storage.queue.deliver().values()
    assert "making or removing" in str(error)
    assert on("second") == [name]
    assert copying.make(claimed) is None
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert (on("first"), on("second")) == ([], [])
    assert not ledger().exists()


def test_mirror_that_is_away_delays_nothing(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    storages["second"].refuses = True
    names = [storage.save(f"{number}.txt", file()) for number in range(3)]
    storage.queue.deliver()
    assert on("first") == names
    assert {row_of(name).state for name in names} == {State.TRANSFERRED}
    assert {copy.attempts for copy in copies()} == {0}
    assert {copy.state for copy in copies()} == {CopyState.PENDING}
    storages["second"].refuses = False
    make_copies_due()
    assert sweep() == 3
    assert storage.queue.deliver() == {}
    assert on("second") == names


def test_copy_that_fails_again_and_again(mirrored: Mirrored, settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 1}
    storage = mirrored("first", "second")
    storages["second"].rejects = True
    name = storage.save("a.txt", file())
    [error] = storage.queue.deliver().values()
    assert "rejects" in str(error)
    assert (copy_at("second").state, copy_at("second").attempts) == (CopyState.PENDING, 1)
    make_copies_due()
    assert len(drain(storage)) == 1
    copy = copy_at("second")
    assert (copy.state, copy.due_at, copy.lease_token) == (CopyState.FAILED, None, "")
    assert "rejects" in copy.last_error
    assert row_of(name).state == State.TRANSFERRED


def test_copy_is_read_from_the_first_place(mirrored: Mirrored) -> None:
    storage = mirrored("first")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storage = mirrored("first", "second")
    copies().add([row_of(name)], place("second"))
    assert drain(storage) == {}
    assert bytes_on("second", name) == b"bytes"


def test_copy_is_read_from_another_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    storage = mirrored("first", "second", "third")
    copies().add([row_of(name)], place("third"))
    assert drain(storage) == {}
    assert bytes_on("third", name) == b"bytes"


def test_copy_of_wrong_bytes_is_not_made(mirrored: Mirrored) -> None:
    storage = mirrored("first")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    with open(storages["first"].path(name), "wb") as opened:
        opened.write(b"other")
    storage = mirrored("first", "second")
    copies().add([row_of(name)], place("second"))
    [error] = drain(storage).values()
    assert "Nothing was copied" in str(error)
    assert on("second") == []


def test_foreign_objects_on_a_mirror_stay(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    storages["second"].save("a.txt", file(b"foreign"))
    name = saved(storage, "a.txt", b"ours")
    copy = copy_at("second")
    assert copy.remote_name != name
    assert bytes_on("second", copy.remote_name) == b"ours"
    storage.delete(name)
    assert storage.queue.deliver() == {}
    assert on("second") == ["a.txt"]
    assert bytes_on("second", "a.txt") == b"foreign"


def test_copy_of_a_mirror_that_is_none_any_more(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"old")
    storage = mirrored("first", "third", previous=["second"])
    overwritten(storage, name, b"newer")
    assert storage.queue.deliver() == {}
    assert copy_at("second").state == CopyState.REMOVING
    assert dispose_due(10) == 1
    assert (on("second"), on("third")) == ([], [name])


def test_remote_and_mirror_can_be_swapped(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"old", evict=True)
    storage = mirrored("second", "first")
    assert read(storage, name) == b"old"
    overwritten(storage, name, b"newer")
    assert storage.queue.deliver() == {}
    assert row_of(name).place == place("second")
    assert (copy_at("first").state, on("first"), on("second")) == ("transferred", [name], [name])
    assert bytes_on("first", name) == bytes_on("second", name) == b"newer"


def test_worker_makes_copies_until_there_are_none(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    names = [storage.save(f"{number}.txt", file()) for number in range(5)]
    storage.queue.messages.clear()
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert on("first") == on("second") == names


@pytest.mark.one_database
@pytest.mark.parametrize("mirrors", ["second", {"second"}, 5])
def test_mirrors_must_be_a_list(mirrors: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="mirrors must be a list"):
        Sides.from_options({"local": "disk", "remote": "far", "mirrors": mirrors}, "Storage")


@pytest.mark.one_database
@pytest.mark.parametrize("mirror", ["first", "disk"])
def test_mirror_must_be_another_place(mirrored: Mirrored, mirror: str) -> None:
    storage = mirrored("first", mirror)
    with pytest.raises(ImproperlyConfigured, match="mirrors point to the same"):
        storage.require_two_places()


# Reading while a remote is away


def close(remote: str) -> None:
    storage = storages["default"]
    found = next(
        each for each in storage.with_each_remote if each.remote_place.digest == place(remote)
    )
    remotes().register("default", found.remote_place)
    remotes().filter(digest=place(remote)).close(RemoteState.AWAY, "It is away.", 60)
    gates.forget()


@pytest.mark.one_database
def test_reads_fall_over_while_the_first_place_is_closed(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    close("first")
    storages["first"].calls.clear()
    assert read(storage, name) == b"bytes"
    assert storage.url(name) == "https://second.example/a.txt"
    assert storage.urls([name]) == {name: "https://second.example/a.txt"}
    assert storage.get_storage(name) is storages["second"]
    with storage.local_path(name) as path, open(path, "rb") as opened:
        assert opened.read() == b"bytes"
    assert storages["first"].calls == {}
    remotes().reopen()
    gates.forget()
    assert storage.url(name) == "https://first.example/a.txt"


@pytest.mark.one_database
def test_a_read_that_fails_falls_over_at_once(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].refuses = True
    assert read(storage, name) == b"bytes"
    assert storage.url(name) == "https://first.example/a.txt"
    storages["second"].refuses = True
    with pytest.raises(ConnectionError):
        read(storage, name)


@pytest.mark.one_database
def test_a_lost_first_copy_is_read_from_a_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    assert read(storage, name) == b"bytes"


@pytest.mark.one_database
def test_a_lost_first_copy_is_restored_from_a_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    storages["second"].refuses = True
    assert errands.restore(ledger().filter(name=name)) == 1
    assert bytes_on("disk", name) == b"bytes"


@pytest.mark.one_database
def test_a_file_without_any_copy_is_not_restored(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    storages["second"].delete(name)
    assert errands.restore(ledger().filter(name=name)) == 0
    assert "FileNotFoundError" in row_of(name).last_error


@pytest.mark.one_database
def test_a_lost_remote_is_replaced_by_its_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    storage = mirrored("second", "first")
    assert read(storage, name) == b"bytes"
    call_command("queued_storage", "reconcile", "--repair", "missing-remote")
    assert drain(storage) == {}
    assert row_of(name).place == place("second")
    assert on("first") == on("second") == [name]


@pytest.mark.one_database
def test_a_mirror_takes_the_place_of_a_lost_remote(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    storage = mirrored("second", "third", previous=["first"])
    storages["first"].refuses = True
    close("first")
    assert read(storage, name) == b"bytes"
    call_command("queued_storage", "move", storage="default")
    assert row_of(name).place == place("second")
    call_command("queued_storage", "backfill", mirrors=True, storage="default")
    assert drain(storage) == {}
    assert on("second") == on("third") == [name]


@pytest.mark.one_database
def test_copies_of_older_content_are_not_read(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    copies().update(generation=0)
    close("first")
    assert storage.url(name) == "https://first.example/a.txt"
    storages["first"].refuses = True
    with pytest.raises(ConnectionError):
        read(storage, name)


@pytest.mark.one_database
def test_closed_mirrors_are_not_used(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", evict=True)
    close("first")
    remotes().filter(digest=place("second")).close(RemoteState.AWAY, "It is away.", 60)
    gates.forget()
    assert storage.url(name) == "https://first.example/a.txt"


@pytest.mark.one_database
@pytest.mark.parametrize("url_mode", ["stable", "proxied"])
def test_stable_urls_fall_over(mirrored: Mirrored, client: Any, url_mode: str) -> None:
    storage = mirrored("first", "second", url_mode=url_mode)
    name = saved(storage, "a.txt", b"bytes", evict=True)
    close("first")
    storages["first"].refuses = True
    response = client.get(storage.url(name))
    if url_mode == "stable":
        assert response["Location"] == "https://second.example/a.txt"
    else:
        assert b"".join(response) == b"bytes"


@pytest.mark.one_database
def test_proxied_reads_that_fail_fall_over(mirrored: Mirrored, client: Any) -> None:
    storage = mirrored("first", "second", url_mode="proxied")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].refuses = True
    assert b"".join(client.get(storage.url(name))) == b"bytes"
    storages["second"].refuses = True
    assert client.get(storage.url(name)).status_code == 502


@pytest.mark.one_database
def test_the_read_cache_is_filled_from_a_mirror(
    mirrored: Mirrored, settings: Settings, tmp_path: Path
) -> None:
    cache = {"LOCATION": str(tmp_path / "cache"), "MAX_BYTES": 1_000_000}
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"READ_CACHE": cache}
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].refuses = True
    assert read(storage, name) == b"bytes"
    storages["second"].refuses = True
    assert read(storage, name) == b"bytes"


@pytest.mark.one_database
def test_queries_of_a_url(
    mirrored: Mirrored, django_assert_num_queries: Any, settings: Settings
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"CACHE": None}
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", evict=True)
    gates.closed()
    with django_assert_num_queries(1):
        storage.url(name)
    close("first")
    gates.closed()
    with django_assert_num_queries(2):
        storage.url(name)
    with django_assert_num_queries(2):
        storage.urls([name])


# Waiting for all copies


def away(remote: str) -> None:
    storages[remote].refuses = True


def back(remote: str) -> None:
    storages[remote].refuses = False
    make_copies_due()


def test_an_eviction_after_a_transfer_waits_for_all_copies(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", task="queued_storage.tasks.TransferAndDelete")
    away("second")
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    assert (row_of(name).state, row_of(name).is_local) == (State.TRANSFERRED, True)
    back("second")
    drain(storage)
    assert drain(storage) == {}
    assert (row_of(name).is_local, row_of(name).due_at) == (False, None)
    assert on("second") == [name]


def test_evict_waits_for_all_copies(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    away("second")
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    with pytest.raises(CommandError, match="could not be evicted"):
        call_command("queued_storage", "evict", name)
    assert row_of(name).is_local
    back("second")
    call_command("queued_storage", "worker", until_empty=True, poll=0.05)
    assert not row_of(name).is_local


def test_evict_after_the_first_copy(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", evict_after="first")
    away("second")
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    call_command("queued_storage", "evict", name)
    assert not row_of(name).is_local
    back("second")
    assert drain(storage) == {}
    assert on("second") == [name]


def test_wait_for_copies(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", "third")
    away("second")
    name = storage.save("a.txt", file())
    storage.queue.deliver()
    storage.wait([name], 1)
    storage.wait(timeout=1, copies=2)
    with pytest.raises(TransferTimeout):
        storage.wait([name], 0.01, copies=3)
    copies().filter(place=place("second")).update(state=CopyState.FAILED, last_error="It is full.")
    with pytest.raises(TransferError, match=r"It is full\."):
        storage.wait([name], 1, copies=3)
    storage.wait([name], 1, copies=2)
    assert copies().retry() == 1
    back("second")
    assert drain(storage) == {}
    storage.wait([name], 1, copies=3)


@pytest.mark.one_database
def test_more_copies_than_remotes_cannot_be_waited_for(mirrored: Mirrored) -> None:
    with pytest.raises(ValueError, match="'mirrors'"):
        mirrored("first", "second").wait(copies=3)


@pytest.mark.one_database
def test_evict_after_must_be_known() -> None:
    with pytest.raises(ImproperlyConfigured, match="'all' or 'first'"):
        make(evict_after="last")


# Operating


def test_backfill_of_a_mirror_that_is_added_later(mirrored: Mirrored, capsys: Any) -> None:
    storage = mirrored("first", "third")
    names = [saved(storage, f"{number}.txt", evict=number == 1) for number in range(3)]
    storage = mirrored("first", "third", "second")
    copies().filter(file__name=names[2]).update(generation=0)
    call_command("queued_storage", "backfill", mirrors=True, storage="default", dry_run=True)
    assert "4 copies on mirrors would be due" in capsys.readouterr().out
    call_command("queued_storage", "backfill", mirrors=True, storage="default")
    assert drain(storage) == {}
    assert on("second") == on("third") == names
    assert set(copies().values_list("state", "generation")) == {("transferred", 1)}
    call_command("queued_storage", "backfill", mirrors=True, storage="default")
    assert "0 copies on mirrors are due" in capsys.readouterr().out


@pytest.mark.one_database
def test_backfill_needs_mirrors(mirrored: Mirrored) -> None:
    mirrored("first")
    with pytest.raises(CommandError, match="has no mirrors"):
        call_command("queued_storage", "backfill", mirrors=True, storage="default")
    with pytest.raises(CommandError, match="all files"):
        call_command("queued_storage", "backfill", "a.txt", mirrors=True, storage="default")


def test_failed_copies_are_shown_and_retried(mirrored: Mirrored, capsys: Any) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt")
    call_command("queued_storage", "status", check=True)
    copies().update(state=CopyState.FAILED, last_error="It is full.")
    with pytest.raises(CommandError, match=r"1 file of 'default' .*second: It is full"):
        call_command("queued_storage", "status", check=True)
    assert "0 pending, 1 failed" in capsys.readouterr().out
    call_command("queued_storage", "status", json=True)
    mirrors = json.loads(capsys.readouterr().out)["mirrors"]
    [mirror] = [each for each in mirrors if each["alias"] == "default"]
    assert (mirror["pending"], mirror["failed"]) == (0, 1)
    call_command("queued_storage", "retry", name, dry_run=True)
    assert "1 copy on a mirror would be retried." in capsys.readouterr().out
    assert copies().get().state == CopyState.FAILED
    call_command("queued_storage", "retry", name)
    assert "1 copy on a mirror will be retried." in capsys.readouterr().out
    assert drain(storage) == {}
    call_command("queued_storage", "status", check=True)


@pytest.mark.one_database
def test_the_admin_shows_the_copies(mirrored: Mirrored, admin_client: Any) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt")
    copies().update(state=CopyState.FAILED, last_error="It is full.")
    url = reverse("admin:queued_storage_queuedfile_change", args=[row_of(name).pk])
    page = admin_client.get(url).content.decode()
    assert storages["second"].location in page
    assert "It is full." in page


def reconcile(*kinds: str) -> None:
    chosen = [word for kind in kinds for word in ("--repair", kind)]
    call_command("queued_storage", "reconcile", *chosen, "--content", "--yes")


def test_lost_and_wrong_copies_are_repaired(mirrored: Mirrored, capsys: Any) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    call_command("queued_storage", "verify", content=True)
    storages["second"].delete(name)
    with open(storages["third"].path(name), "wb") as opened:
        opened.write(b"BYTES")
    with pytest.raises(CommandError, match="2 copies differ"):
        call_command("queued_storage", "verify", content=True)
    assert "missing mirror copy" in capsys.readouterr().out
    reconcile("missing-mirror", "different-mirror")
    assert drain(storage) == {}
    call_command("queued_storage", "verify", content=True)
    assert bytes_on("second", name) == bytes_on("third", name) == b"bytes"


@pytest.mark.parametrize("damage", ["missing", "different"])
def test_the_first_copy_is_repaired_from_a_mirror(mirrored: Mirrored, damage: str) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    storages["first"].delete(name)
    if damage == "different":
        storages["first"].save(name, file(b"BYTES"))
    reconcile(f"{damage}-remote")
    assert drain(storage) == {}
    assert bytes_on("first", name) == bytes_on("second", name) == b"bytes"
    call_command("queued_storage", "verify", content=True)


@pytest.mark.one_database
def test_remotes_that_are_mirrors_are_shown_as_such(mirrored: Mirrored, capsys: Any) -> None:
    storage = mirrored("first", "second")
    away("second")
    storage.save("a.txt", file())
    storage.queue.deliver()
    call_command("queued_storage", "remotes")
    shown = capsys.readouterr().out
    assert "a mirror, 1 copy is missing" in shown
    assert "uploads to another place" not in shown
    remotes().filter(digest=place("second")).update(since=LONG_AGO)
    with pytest.raises(CommandError, match=r"second.* has been away for .*1 copy waits"):
        call_command("queued_storage", "status", check=True)


# Killed workers


def work() -> None:
    with open(os.devnull, "w") as nowhere:
        call_command("queued_storage", "worker", until_empty=True, poll=0.05, stdout=nowhere)


POINTS = ["copy wanted", "copy claimed", "mirror reserved", "copy sent", "finishing", "finished"]


CHANGES = [
    pytest.param(then, point, marks=pytest.mark.one_database)
    for then in ("overwrite", "delete")
    for point in ("mirror reserved", "copy sent")
]


@pytest.mark.parametrize(("then", "point"), [*(("go on", point) for point in POINTS), *CHANGES])
def test_killed_workers(
    mirrored: Mirrored,
    child_environment: dict[str, str],
    settings: Settings,
    tmp_path: Path,
    point: str,
    then: str,
) -> None:
    storage = mirrored("first", "second")
    name = storage.save("a.txt", file(b"bytes"))
    with forks(child_environment, settings) as found:
        child = found.start(work, point=FailPoint(point, tmp_path / "reached"))
        assert ended(child) == -signal.SIGKILL
    data = b"bytes"
    if then == "delete":
        storage.delete(name)
    elif then == "overwrite":
        data = b"newer bytes"
        overwritten(storage, name, data)
    for _round in range(3):  # leases and delays end
        ledger().exclude(due_at=None).update(due_at=LONG_AGO)
        make_copies_due()
        drain(storage)
    if then == "delete":
        assert (on("first"), on("second")) == ([], [])
        assert not ledger().exists()
        return
    copy = copy_at("second")
    assert (copy.state, copy.generation) == (CopyState.TRANSFERRED, row_of(name).generation)
    assert bytes_on("first", row_of(name).remote_name) == data
    assert bytes_on("second", copy.remote_name) == data
    if then == "go on":
        assert on("first") == on("second") == [name]


@pytest.mark.one_database
def test_a_mirror_that_hangs_blocks_nothing(mirrored: Mirrored, settings: Settings) -> None:
    short = {"LEASE": 0.5, "STALL_TIMEOUT": 0.5, "RETRY_DELAY": 0.01}
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | short
    storage = mirrored("first", "second", "third")
    released = threading.Event()
    storages["second"].before["_save"] = lambda _name: released.wait(30)
    executor = Executor(1, 0.05, lambda: ["default"])
    executor.start()
    try:
        names = [storage.save(f"{number}.txt", file()) for number in range(3)]
        done = copies().filter(state=CopyState.TRANSFERRED)
        until(lambda: done.count() == 6, 10)
        assert on("first") == on("second") == on("third") == names
        assert storages["second"].before == {}  # one hangs
    finally:
        released.set()
        assert executor.stop(10)


# Steps


PUBLISH = pytest.mark.parametrize("publish", ["after_steps", "at_once"])
SCAN = ["tests.support.stepping.Scanning"]


@PUBLISH
def test_a_rejected_file_is_on_no_mirror(mirrored: Mirrored, publish: str) -> None:
    storage = mirrored("first", "second", steps=SCAN, publish=publish)
    storage.save("bad.txt", file(EICAR))
    assert drain(storage) == {}
    assert storage.rejection("bad.txt")
    assert on("first") == on("second") == []
    assert not copies().exists()
    good = saved(storage, "good.txt", b"good")
    assert on("first") == on("second") == [good]


@PUBLISH
def test_rejected_new_content_is_on_no_mirror(mirrored: Mirrored, publish: str) -> None:
    storage = mirrored("first", "second", steps=SCAN, publish=publish)
    name = saved(storage, "a.txt", b"old")
    overwritten(storage, name, EICAR)
    assert drain(storage) == {}
    assert bytes_on("first", name) == bytes_on("second", name) == b"old"
    assert storage.is_published(name) == (publish == "after_steps")
    assert storage.rejection(name)
