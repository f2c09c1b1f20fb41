"""A place that is lost for good, and that the ledger forgets."""

import io
import os
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command

from queued_storage.ledger import bindings
from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from queued_storage.operations import forgetting
from queued_storage.testing import drain
from queued_storage.transfers import copying, watching
from queued_storage.transfers.gates import gates
from tests.support.command import run
from tests.support.mirroring import Mirrored, bytes_on
from tests.support.moving import on, place, row_of, saved
from tests.support.scripted import LONG_AGO, file, read

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread probe beside the test."""
    monkeypatch.setattr(watching, "watch", lambda: None)


def forget(name: str, *options: str) -> str:
    return run("remotes", "forget", "default", name, "--yes", *options)


def error_of(*arguments: str) -> tuple[str, int]:
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("queued_storage", *arguments, stdout=out)
    return f"{out.getvalue()}{caught.value}", caught.value.returncode


@pytest.fixture
def lost(mirrored: Mirrored) -> Any:
    """A storage whose remote "first" is lost, with a file in each situation.

    Its mirror "second" has taken the place of the remote, and "third" that of the mirror.
    """
    storage = mirrored("first", "second")
    saved(storage, "mirrored", b"mirrored", evict=True)
    saved(storage, "deleted", evict=True)
    storage = mirrored("first")
    saved(storage, "local", b"local")
    saved(storage, "gone", b"gone", evict=True)
    storage.save("pending", file(b"pending"))
    ledger().filter(name="pending").update(remote_name="pending", unconfirmed="7 crc32:0 token")
    storage = mirrored("second", "third", previous=["first"])
    storages["first"].refuses = True  # type: ignore[attr-defined]
    run("remotes", "pause", "default", "first")
    storage.delete("deleted")
    copies().filter(file__name="deleted").delete()
    return storage


def finish(storage: Any) -> None:
    for _round in range(3):
        ledger().exclude(due_at=None).update(due_at=LONG_AGO)
        copies().exclude(due_at=None).update(due_at=LONG_AGO)
        assert drain(storage) == {}


def require_forgotten(storage: Any) -> None:
    """Check that every file but the one that was lost is where it is to be."""
    finish(storage)
    for name in ("mirrored", "local", "pending"):
        assert row_of(name).state == State.TRANSFERRED
        assert row_of(name).place == place("second")
        assert bytes_on("second", row_of(name).remote_name) == name.encode()
        assert read(storage, name) == bytes_on("third", name) == name.encode()
    assert not ledger().filter(name="deleted").exists()
    assert not copies().filter(place=place("first")).exists()
    assert {copy.state for copy in copies()} == {CopyState.TRANSFERRED}


def test_files_go_on_without_the_place(lost: Any) -> None:
    text, code = error_of("remotes", "forget", "default", "first", "--yes")
    assert code == 1
    assert "gone (default)" in text
    assert "1 file is read from another copy now." in text
    assert "1 file is uploaded again from the local copy." in text
    assert "2 files are bound to the present remote." in text
    assert "1 file is kept, because no other copy is left." in text
    assert "--lose-files" in text
    assert row_of("gone").place == place("first")
    require_forgotten(lost)
    assert row_of("gone").state == State.TRANSFERRED


def test_files_without_another_copy_are_lost_on_demand(lost: Any, mirrored: Mirrored) -> None:
    assert "1 file is marked as failed, because no other" in forget("first", "--lose-files")
    row = row_of("gone")
    assert row.state == State.FAILED
    first: Any = storages["first"]
    assert row.last_error == f"The only copy was at {first.location}, which was given up."
    require_forgotten(lost)
    with pytest.raises(OSError, match="has not been transferred yet"):
        read(lost, "gone")
    assert forget("first") == "Nothing lies there.\n"
    assert remotes().filter(digest=place("first")).exists()
    mirrored("second", "third")
    assert forget(first.location) == "Nothing lies there.\n"
    assert not remotes().filter(digest=place("first")).exists()
    assert "1 file was removed" in run("prune", "gone", "--yes")


@pytest.mark.one_database
def test_a_lost_file_that_is_found_again_is_adopted(lost: Any) -> None:
    forget("first", "--lose-files")
    storages["second"].save("gone", file(b"gone"))
    run("adopt", "--storage", "default", "gone")
    assert read(lost, "gone") == b"gone"


@pytest.mark.one_database
def test_dry_run_changes_nothing(lost: Any) -> None:
    before = list(QueuedFile.objects.values()), list(copies().values())
    text = run("remotes", "forget", "default", "first", "--dry-run")
    assert "gone (default)" in text
    assert "1 file would be read from another copy." in text
    assert "1 file would be kept" in text
    assert (list(QueuedFile.objects.values()), list(copies().values())) == before


@pytest.mark.one_database
def test_it_asks_first_and_says_what_it_does(lost: Any) -> None:
    before = list(QueuedFile.objects.values())
    text, code = error_of("remotes", "forget", "default", "first")
    assert code == 2
    assert "1 file would be read from another copy. 1 file would be uploaded again." in text
    assert "Add --yes to confirm it" in text
    assert list(QueuedFile.objects.values()) == before


@pytest.mark.one_database
def test_what_cannot_be_forgotten(mirrored: Mirrored) -> None:
    saved(mirrored("first", "second"), "a.txt")
    text, code = error_of("remotes", "forget", "default", "first", "--yes")
    assert (code, "is the one that new files go to" in text) == (1, True)
    text, code = error_of("remotes", "forget", "default", "second", "--yes")
    assert (code, "remotes pause default second" in text) == (1, True)
    text, code = error_of("remotes", "forget", "default", "secnod", "--yes")
    assert (code, "Did you mean 'second'?" in text) == (2, True)
    text, code = error_of("remotes", "forget", "default", "--yes")
    assert (code, "Choose one of: 'second'" in text) == (2, True)
    assert error_of("remotes", "forget", "defualt", "second", "--yes")[1] == 2
    assert error_of("remotes", "pause", "default", "--yes")[1] == 2
    assert error_of("remotes", "pause", "default", "--dry-run")[1] == 2
    assert copies().count() == 1


def test_a_lost_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    saved(storage, "a.txt", b"bytes", evict=True)
    saved(storage, "deleted")
    storages["second"].refuses = True  # type: ignore[attr-defined]
    run("remotes", "pause", "default", "second")
    storage.delete("deleted")
    storage = mirrored("first", "third")
    second: Any = storages["second"]
    assert forget(second.location) == "2 copies are forgotten.\n"
    run("backfill", "--mirrors", "--storage", "default")
    finish(storage)
    assert on("first") == on("third") == ["a.txt"]
    assert ledger().count() == 1
    assert not remotes().filter(digest=place("second")).exists()


@pytest.mark.one_database
def test_the_last_copy_is_kept_on_a_mirror(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    for name in ("a.txt", "b.txt"):
        saved(storage, name, b"bytes")
    ledger().update(state=State.FAILED)  # as after a disk was given up
    storages["disk"].delete("a.txt")
    run("remotes", "pause", "default", "second")
    text, code = error_of("remotes", "forget", "default", "second", "--yes")
    assert code == 1
    assert "a.txt (default)\n1 file is kept" in text
    assert "1 copy is forgotten." in text
    assert [copy.file.name for copy in copies()] == ["a.txt"]
    assert "1 copy is forgotten." in forget("second", "--lose-files")


def test_a_mirror_becomes_the_first_place(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    saved(storage, "a.txt", b"bytes", evict=True)
    storage = mirrored("third", "second", previous=["first"])
    storages["first"].refuses = True  # type: ignore[attr-defined]
    run("remotes", "pause", "default", "first")
    text = forget("first")
    assert "1 file has no copy at the present remote. Run 'manage.py queued_storage move" in text
    assert row_of("a.txt").place == place("second")
    assert read(storage, "a.txt") == b"bytes"
    run("move", "--storage", "default")
    assert row_of("a.txt").place == place("third")
    [copy] = copies()
    assert (copy.place, copy.state) == (place("second"), CopyState.TRANSFERRED)
    run("verify", "--content")
    storages["first"].refuses = False  # type: ignore[attr-defined]
    run("move", "--storage", "default", "--drop-old", "--yes")
    assert on("second") == on("third") == ["a.txt"]


@pytest.mark.one_database
def test_an_overwritten_copy_is_no_other_copy(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    saved(storage, "a.txt", b"bytes", evict=True)
    copies().update(generation=0)
    mirrored("second", previous=["first"])
    run("remotes", "pause", "default", "first")
    assert "a.txt (default)" in error_of("remotes", "forget", "default", "first", "--yes")[0]


@pytest.mark.one_database
def test_rows_of_earlier_versions(lost: Any) -> None:
    ledger().filter(place=place("first")).update(place=None)
    bindings.forget()
    forget("first", "--lose-files")
    require_forgotten(lost)
    assert not ledger().filter(place=None).exists()


def test_files_in_the_hands_of_a_worker_are_left(lost: Any) -> None:
    claimed = ledger().filter(name="mirrored")
    claimed.update(lease_token="worker", due_at=seconds_from_now(60))
    text, code = error_of("remotes", "forget", "default", "first", "--yes", "--lose-files")
    assert code == 1
    assert "1 file is in the hands of a worker" in text
    assert row_of("mirrored").place == place("first")
    claimed.update(due_at=LONG_AGO)
    forget("first", "--lose-files")
    assert row_of("mirrored").lease_token == ""
    require_forgotten(lost)


@pytest.mark.one_database
def test_a_copy_that_a_worker_makes_is_left(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    saved(storage, "a.txt")
    copies().update(state=CopyState.PENDING, due_at=LONG_AGO)
    claimed = copies().claim_to_make(copies().get())
    assert claimed
    run("remotes", "pause", "default", "second")
    assert error_of("remotes", "forget", "default", "second", "--yes")[1] == 1
    assert copying.make(claimed) is None
    assert "1 copy is forgotten" in forget("second")


@pytest.mark.one_database
def test_an_unmounted_volume_loses_nothing(lost: Any) -> None:
    disk: Any = storages["disk"]
    hidden = f"{disk.location}.hidden"
    os.rename(disk.location, hidden)
    try:
        _text, code = error_of("remotes", "forget", "default", "first", "--yes", "--lose-files")
    finally:
        os.rename(hidden, disk.location)
    assert code == 1
    assert row_of("local").state == State.TRANSFERRED


@pytest.mark.one_database
def test_many_files_are_taken_in_batches(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queued_storage.operations.passes.BATCH", 3)
    monkeypatch.setattr(forgetting, "BATCH", 3)
    storage = mirrored("first", "second")
    names = [f"{number}.txt" for number in range(10)]
    for name in names:
        storage.save(name, file(name.encode()))
    assert drain(storage) == {}
    run("evict", *names[:5])
    storage = mirrored("second", "third", previous=["first"])
    run("remotes", "pause", "default", "first")
    assert "10 files are read from another copy now." in forget("first")
    finish(storage)
    assert on("second") == on("third") == sorted(names)
    run("remotes", "pause", "default", "third")
    assert "10 copies are forgotten." in forget("third")
    assert {row.place for row in ledger()} == {place("second")}


POINTS = ["switching", "binding", "switched", "sent again from here", "left", "lost"]
POINTS += ["copies wanted", "copies dropped"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_forget_can_be_repeated(lost: Any, kill: Callable[..., None], point: str) -> None:
    if point == "copies dropped":
        row = row_of("mirrored")
        ledger().filter(pk=row.pk).update(place=place("second"))
        copies().filter(file=row.pk).update(place=place("first"))
    kill(point, "remotes", "forget", "default", "first", "--yes", "--lose-files")
    for name in ("mirrored", "local", "pending"):
        gates.forget()
        assert read(lost, name) == name.encode()
    forget("first", "--lose-files")
    if point == "copies dropped":
        run("backfill", "--mirrors", "--storage", "default")
    require_forgotten(lost)
    assert row_of("gone").state == State.FAILED
