"""Copies on several remotes that are compared, repaired from each other, and searched."""

import io
import json
import os
from typing import Any

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command

from queued_storage.ledger.copies import CopyState, copies
from queued_storage.ledger.states import State
from queued_storage.testing import drain
from queued_storage.transfers import watching
from tests.support.command import run
from tests.support.mirroring import Mirrored, bytes_on, copy_at
from tests.support.moving import on, place, row_of, saved
from tests.support.scripted import file, read

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

KINDS = ["missing", "different"]


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread probe beside the test."""
    monkeypatch.setattr(watching, "watch", lambda: None)


def damage(remote: str, name: str, kind: str) -> None:
    storages[remote].delete(name)
    if kind == "different":
        storages[remote].save(name, file(b"BYTES"))


def verified() -> str:
    """The output of verify, which finds differences."""
    out = io.StringIO()
    with pytest.raises(CommandError, match="differ"):
        call_command("queued_storage", "verify", "--content", stdout=out)
    return out.getvalue()


def reconcile(*kinds: str) -> None:
    chosen = [word for kind in kinds for word in ("--repair", kind)]
    run("reconcile", *chosen, "--content", "--yes")


@pytest.mark.parametrize("is_evicted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_first_copy_is_repaired(mirrored: Mirrored, kind: str, is_evicted: bool) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"bytes", evict=is_evicted)
    damage("first", name, kind)
    assert f"{kind} remote copy" in verified()
    reconcile(f"{kind}-mirror")  # the wrong kind
    assert f"{kind} remote copy" in verified()
    reconcile(f"{kind}-remote")
    assert drain(storage) == {}
    run("verify", "--content")
    assert [bytes_on(each, name) for each in ("first", "second", "third")] == [b"bytes"] * 3
    assert row_of(name).place == place("first")


@pytest.mark.parametrize("is_evicted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_is_repaired(mirrored: Mirrored, kind: str, is_evicted: bool) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"bytes", evict=is_evicted)
    damage("second", name, kind)
    assert f"{kind} mirror copy" in verified()
    reconcile(f"{kind}-remote")  # the wrong kind
    assert f"{kind} mirror copy" in verified()
    before = storages["third"].calls["_save"]  # type: ignore[attr-defined]
    reconcile(f"{kind}-mirror")
    assert copy_at_place("second").state == CopyState.PENDING
    assert read(storage, name) == b"bytes"
    assert drain(storage) == {}
    run("verify", "--content")
    assert bytes_on("second", name) == b"bytes"
    assert storages["third"].calls["_save"] == before  # type: ignore[attr-defined]


def copy_at_place(remote: str) -> Any:
    return copies().get(place=place(remote))


def test_both_are_repaired_from_the_last_good_copy(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", "third")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    damage("first", name, "missing")
    damage("second", name, "different")
    found = verified()
    assert "missing remote copy" in found
    assert "different mirror copy" in found
    reconcile("missing-remote", "different-remote", "missing-mirror", "different-mirror")
    assert drain(storage) == {}
    run("verify", "--content")
    assert [bytes_on(each, name) for each in ("first", "second", "third")] == [b"bytes"] * 3


def test_without_a_good_copy_nothing_is_replaced(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    name = saved(storage, "a.txt", b"bytes", evict=True)
    damage("first", name, "different")
    damage("second", name, "different")
    with pytest.raises(CommandError):
        reconcile("different-remote")
    assert row_of(name).state == State.TRANSFERRED
    assert bytes_on("first", name) == bytes_on("second", name) == b"BYTES"


# Orphans


def orphan(remote: str, name: str) -> None:
    assert storages[remote].save(name, file()) == name
    os.utime(storages[remote].path(name), (0, 0))  # type: ignore[attr-defined]


def test_orphans_are_found_on_each_remote(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second", previous=["third"])
    name = saved(storage, "a.txt")
    for remote in ("first", "second", "third"):
        orphan(remote, f"{remote}.txt")
    second: Any = storages["second"]
    shown = run("orphans", "remote", "--storage", "default")
    assert f"at {second.location}" in next(
        line for line in shown.splitlines() if line.startswith("second.txt ")
    )
    assert "3 orphans were found" in shown
    lines = run("orphans", "remote", "--storage", "default", "--json").splitlines()
    assert {json.loads(line)["place"] for line in lines} == {
        storages[each].location  # type: ignore[attr-defined]
        for each in ("first", "second", "third")
    }
    assert "0 orphans were found" in run("orphans", "local", "--storage", "default")
    run("orphans", "remote", "--storage", "default", "--delete", "--yes")
    assert (on("first"), on("second"), on("third")) == ([name], [name], [])
    assert copy_at("second").state == CopyState.TRANSFERRED


def test_a_closed_mirror_is_not_searched(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    saved(storage, "a.txt")
    orphan("second", "b.txt")
    run("remotes", "pause", "default", "second")
    shown = run("orphans", "remote", "--storage", "default", "--delete", "--yes")
    assert "Left out, since it is closed" in shown
    assert "b.txt" in on("second")


def test_copies_under_other_names_are_no_orphans(mirrored: Mirrored) -> None:
    storage = mirrored("first", "second")
    orphan("second", "a.txt")  # another object, so that the copy gets another name
    name = saved(storage, "a.txt")
    copy = copy_at("second")
    assert copy.remote_name != name
    os.utime(storages["second"].path(copy.remote_name), (0, 0))  # type: ignore[attr-defined]
    run("orphans", "remote", "--storage", "default", "--delete", "--yes")
    assert copy.remote_name in on("second")
