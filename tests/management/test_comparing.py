import json
import os
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage, Storage
from django.core.management import CommandError, call_command

from queued_storage.ledger.states import State
from tests.support.command import on_default, run, save, states, transferred
from tests.support.scripted import file, make, on_disk

pytestmark = pytest.mark.django_db(transaction=True)


# verify and reconcile


def test_verify(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt", "c.txt")
    assert run("verify") == "3 files were compared.\n"
    Path(storage.remote.path("a.txt")).unlink()
    Path(storage.local.path("b.txt")).write_bytes(b"y" * 1000)
    out = StringIO()
    with pytest.raises(CommandError, match="1 copy differs") as caught:
        call_command("queued_storage", "verify", stdout=out)
    assert caught.value.returncode == 1
    first, last = out.getvalue().splitlines()
    assert first.startswith("a.txt (default): missing remote copy.")
    assert last == "3 files were compared."
    assert run("verify", "b.txt", "c.txt") == "2 files were compared.\n"
    with pytest.raises(CommandError, match="1 copy differs"):
        run("verify", "b.txt", "--content")


def test_verify_as_json(storage: Any) -> None:
    transferred(storage, "a.txt")
    assert run("verify", "--json") == ""
    Path(storage.remote.path("a.txt")).unlink()
    Path(storage.local.path("a.txt")).unlink()
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("queued_storage", "verify", "--json", stdout=out)
    local, remote = map(json.loads, out.getvalue().splitlines())
    assert (local["name"], local["side"], local["kind"]) == ("a.txt", "local", "missing")
    assert (remote["alias"], remote["side"], remote["kind"]) == ("default", "remote", "missing")
    assert local.keys() == {"pk", "alias", "name", "side", "kind", "details"}


def test_reconcile(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    Path(storage.remote.path("a.txt")).unlink()
    Path(storage.local.path("b.txt")).unlink()
    with pytest.raises(CommandError, match="--repair"):
        run("reconcile")
    repair = ["reconcile", "--repair", "missing-remote"]
    dry = run(*repair, "--dry-run").splitlines()
    assert dry[0].startswith("a.txt (default): missing remote copy.")
    assert dry[1:] == ["1 copy would be repaired."]
    assert states() == [State.TRANSFERRED] * 2
    assert run(*repair).splitlines()[-1] == "1 copy was repaired."
    assert storage.queue.deliver() == {}
    assert run(*repair, "--repair", "missing-local").splitlines()[-1] == "1 copy was repaired."
    assert run("verify") == "2 files were compared.\n"


def test_failed_repairs_set_the_exit_code(storage: Any) -> None:
    transferred(storage, "a.txt")
    Path(storage.remote.path("a.txt")).unlink()
    Path(storage.local.path("a.txt")).unlink()
    with pytest.raises(CommandError, match="1 copy could not") as caught:
        run("reconcile", "--repair", "missing-remote")
    assert caught.value.returncode == 1


# orphans


def put_old(place: Any, *names: str) -> None:
    for name in names:
        place.save(name, file(b"x" * 1000))
        os.utime(place.path(name), (0, 0))


def test_orphans(storage: Any) -> None:
    transferred(storage, "a.txt")
    put_old(storage.local, "b.txt", "d/.queued-x", "d/c.txt")
    out = on_default("orphans", "local").splitlines()
    assert sorted(line.split()[0] for line in out[:3]) == ["b.txt", "d/.queued-x", "d/c.txt"]
    assert out[3:] == ["3 orphans were found, 2.9 KB."]
    assert (
        on_default("orphans", "local", "--under", "d").splitlines()[-1].startswith("2 orphans were")
    )
    assert on_default("orphans", "remote") == "0 orphans were found, 0 bytes.\n"
    on_default("orphans", "local", "--delete", "--dry-run")
    assert on_disk() == ["a.txt", "b.txt", "d/.queued-x", "d/c.txt"]
    assert json.loads(on_default("orphans", "local", "--json", "--under", "d").splitlines()[0])[
        "bytes"
    ]
    with pytest.raises(CommandError, match="more"):
        on_default("orphans", "local", "--delete", "--yes", "--at-most", "1")
    assert len(on_disk()) == 3
    assert (
        on_default("orphans", "local", "--delete", "--yes")
        .splitlines()[-1]
        .startswith("2 orphans were deleted")
    )
    assert on_disk() == ["a.txt"]


@pytest.mark.parametrize("under", [".", "./d", "d//"])
def test_under_accepts_unnormalized_directories(storage: Any, under: str) -> None:
    transferred(storage, "d/a.txt")
    put_old(storage.local, "d/b.txt")
    os.utime(storage.local.path("d/a.txt"), (0, 0))
    out = on_default("orphans", "local", "--under", under, "--delete", "--yes")
    assert out.startswith("d/b.txt ")
    assert on_disk() == ["d/a.txt"]


@pytest.mark.parametrize("under", ["..", "d/../..", "/etc", "d\0"])
@pytest.mark.parametrize(
    "verb", [["orphans", "local"], ["orphans", "remote"], ["adopt"], ["backfill"]]
)
def test_under_rejects_directories_outside_the_storage(
    storage: Any, verb: list[str], under: str
) -> None:
    with pytest.raises(CommandError, match="not a directory of a storage"):
        on_default(*verb, "--under", under)


class WithoutListing(InMemoryStorage):
    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        raise NotImplementedError("no listing")


class WithoutTimes(InMemoryStorage):
    def get_modified_time(self, name: str) -> datetime:
        raise NotImplementedError("no times")


class NaiveTimes(InMemoryStorage):
    def get_modified_time(self, name: str) -> datetime:
        return datetime(2020, 1, 1)


@pytest.mark.parametrize(
    ("remote", "arguments"),
    [
        (NaiveTimes(), ["orphans", "remote"]),
        (WithoutListing(), ["orphans", "remote"]),
        (WithoutListing(), ["adopt", "--under", "."]),
        (WithoutTimes(), ["orphans", "remote"]),
    ],
)
def test_storage_without_listing_or_times(remote: Storage, arguments: list[str]) -> None:
    remote.save("a.txt", file())
    storage = make(remote=remote)
    with pytest.raises(
        CommandError,
        match=r"The storage cannot list its files.*: (no listing|no times|its times are naive)",
    ):
        run(*arguments, "--storage", storage.alias)


def test_empty_ledger_deletes_no_orphans(storage: Any) -> None:
    put_old(storage.local, "b.txt")
    with pytest.raises(CommandError, match="right database"):
        on_default("orphans", "local", "--delete")
    assert on_disk() == ["b.txt"]


# Names that cannot be decoded


def latin(place: Any, name: bytes = b"caf\xe9.txt") -> None:
    root = Path(place.location)
    root.mkdir(exist_ok=True)
    (Path(bytes.decode(bytes(root))) / name.decode("utf-8", "surrogateescape")).write_bytes(b"x")


@pytest.mark.parametrize(
    ("verb", "side"),
    [
        (["backfill", "--under", "."], "local"),
        (["adopt", "--under", "."], "remote"),
        (["orphans", "local", "--older-than", "0s"], "local"),
        (["orphans", "local", "--older-than", "0s", "--delete", "--yes"], "local"),
        (["orphans", "local", "--older-than", "0s", "--json"], "local"),
        (["orphans", "remote", "--older-than", "0s"], "remote"),
    ],
)
def test_name_that_cannot_be_decoded(storage: Any, verb: list[str], side: str) -> None:
    save(storage, "known.txt")
    place = getattr(storage, side)
    latin(place)
    latin(place, b"d\xe9p\xf4t.txt")
    out = StringIO()
    with pytest.raises(CommandError, match=r"2 files (have|were)") as caught:
        call_command("queued_storage", *verb, storage="default", stdout=out, stderr=out)
    assert caught.value.returncode == 1
    assert r"caf\udce9.txt: " in out.getvalue()
    out.getvalue().encode()
    assert len([name for name in place.listdir("")[1] if not name.isascii()]) == 2
