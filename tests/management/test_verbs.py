"""The verbs that work on many files, as somebody types them."""

import json
import os
import re
from collections import namedtuple
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage, storages
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.utils import timezone
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.management.progress import Progress, duration
from queued_storage.management.verbs import base, copies, ending
from queued_storage.operations.passes import Step
from queued_storage.queues.base import run_all
from tests.support.scripted import LONG_AGO, file, make, on_disk, read
from tests.support.testapp.models import Document

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def run(*arguments: str) -> str:
    """What it prints; errors are asked for apart."""
    out = StringIO()
    call_command("queued_storage", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def on_default(verb: str, *arguments: str) -> str:
    """Other tests may have left storages."""
    return run(verb, *arguments, "--storage", "default")


def save(storage: Any, *names: str) -> None:
    for name in names:
        assert storage.save(name, file(b"x" * 1000)) == name


def transferred(storage: Any, *names: str) -> None:
    save(storage, *names)
    assert storage.queue.deliver() == {}


def states() -> list[State]:
    return list(ledger().order_by("pk").values_list("state", flat=True))


# The choice of files


@pytest.mark.parametrize("verb", ["retry", "cancel", "evict", "restore"])
def test_what_changes_many_files_wants_to_be_told_which(verb: str) -> None:
    with pytest.raises(CommandError, match="--all"):
        run(verb)


def test_files_are_chosen_by_name_storage_and_age(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other")
    save(storage, "a.txt", "b.txt")
    save(other, "c.txt", "d.txt")
    ledger().filter(name__in=["b.txt", "d.txt"]).update(saved_at=LONG_AGO)
    for arguments, names in [
        (["a.txt", "c.txt", "e.txt"], "ac"),
        (["--storage", "other"], "cd"),
        (["--older-than", "30d"], "bd"),
        (["--storage", "other", "--older-than", "1h"], "d"),
        (["--all"], "abcd"),
    ]:
        ledger().update(state=State.PENDING)
        out = run("cancel", *arguments)
        held = ledger().filter(state=State.HELD).order_by("name").values_list("name", flat=True)
        assert list(held) == [f"{name}.txt" for name in names]
        assert out.startswith(f"{len(names)} files are held.")


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("30D", 2592000), ("1w", 604800)]
)
def test_ages(text: str, seconds: int) -> None:
    assert base.age(text) == timedelta(seconds=seconds)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("text", "count"), [("500", 500), ("20M", 20 << 20), ("1.5GiB", 3 << 29), ("2 kb", 2048)]
)
def test_sizes(text: str, count: int) -> None:
    assert base.size(text) == count


@pytest.mark.parametrize(
    "arguments",
    [
        ["--older-than", "5"],
        ["--older-than", "9999999d"],
        ["--older-than", f"{'9' * 40}w"],
        ["--older-than", f"{'9' * 400}s"],
        ["--size", "much"],
        ["--size", "9" * 400],
        ["--until-free", "100%"],
        ["--until-free", "9" * 400],
    ],
)
def test_what_is_no_age_or_size(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=re.escape(arguments[1])):
        run("evict", *arguments)


# Progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(out: StringIO, errors: StringIO | None = None, **options: Any) -> tuple[Any, Clock]:
    clock = Clock()
    wrapped = OutputWrapper(errors or StringIO())
    return Progress(OutputWrapper(out), wrapped, clock=clock, **options), clock


@pytest.mark.one_database
def test_plain_lines_now_and_then() -> None:
    out = StringIO()
    bar, clock = progress(out, files=100, bytes=10_000)
    for _file in range(25):
        clock.now += 1
        bar(Step(1, 100))
    assert out.getvalue().splitlines() == [
        "10 of 100 files, 1000 bytes, 1 files/s, 1:30 left",
        "20 of 100 files, 2.0 KB, 1 files/s, 1:20 left",
    ]


@pytest.mark.one_database
def test_the_time_left_goes_by_bytes_where_they_take_it() -> None:
    bar, clock = progress(StringIO(), files=2, bytes=4096, by_bytes=True)
    clock.now = 10
    bar(Step(1, 1024))
    assert bar.text() == "1 of 2 files, 1.0 KB, 0 files/s, 102 bytes/s, 0:30 left"


@pytest.mark.one_database
def test_a_bar_on_a_terminal_goes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out, errors = Terminal(), StringIO()
    bar, clock = progress(out, errors, files=4)
    with bar:
        clock.now = 1
        bar(Step(1, 0))
        clock.now = 1.01  # too soon to draw
        bar(Step(1, 0))
        clock.now = 2
        bar(Step(1, 0, "no such bucket", "a.txt"))
    first, cleared, second, end = out.getvalue().split("\r\x1b[K")[1:]
    assert first.startswith("[######..................] 1 of 4 files, 1 files/s, 0:03 l")
    assert len(first) == 59
    assert second.startswith("[##################......] 3 of 4 files")
    assert (cleared, end) == ("", "")
    assert errors.getvalue() == "a.txt: no such bucket\n"
    assert (bar.failed, bar.files) == (1, 3)


@pytest.mark.one_database
def test_hours() -> None:
    assert [duration(seconds) for seconds in (5, 65, 3665)] == ["0:05", "1:05", "1:01:05"]


# retry and cancel


def test_retry(storage: Any) -> None:
    save(storage, "a.txt", "b.txt", "c.txt")
    ledger().exclude(name="c.txt").update(state=State.FAILED, due_at=None)
    assert run("retry", "--all", "--dry-run") == "3 files would be tried again.\n"
    assert states() == [State.FAILED, State.FAILED, State.PENDING]
    assert run("retry", "--all") == "3 files are tried again.\n"
    assert states() == [State.PENDING] * 3
    assert storage.queue.deliver() == {}
    assert run("retry", "--all") == "0 files are tried again.\n"


def test_cancel(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    assert run("cancel", "--all", "--dry-run") == "2 files would be held.\n"
    assert states() == [State.PENDING] * 2
    assert run("cancel", "b.txt").startswith("1 files are held.")
    assert states() == [State.PENDING, State.HELD]
    assert run("cancel", "--all").startswith("1 files are held.")
    assert run("cancel", "--all").startswith("0 files are held.")


# evict and restore


def test_evict(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    save(storage, "c.txt")
    assert run("evict", "--all", "--dry-run") == "2 files would be freed, 2.0 KB.\n"
    assert on_disk() == ["a.txt", "b.txt", "c.txt"]
    assert run("evict", "--all") == "2 files were freed, 2.0 KB.\n"
    assert on_disk() == ["c.txt"]
    assert run("evict", "--all") == "0 files were freed, 0 bytes.\n"


def test_any_age_is_an_age(storage: Any) -> None:
    transferred(storage, "a.txt")
    assert run("evict", "--older-than", "0s").startswith("1 files were freed")


def test_evict_by_age(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    ledger().filter(name="b.txt").update(saved_at=LONG_AGO)
    assert run("evict", "--older-than", "1d") == "1 files were freed, 1000 bytes.\n"
    assert on_disk() == ["a.txt"]


@pytest.mark.parametrize(("wanted", "left"), [("1", "bcd"), ("1000", "bcd"), ("1001", "cd")])
def test_evict_by_size(storage: Any, wanted: str, left: str) -> None:
    transferred(storage, "a.txt", "b.txt", "c.txt", "d.txt")
    freed = 4 - len(left)
    assert run("evict", "--size", wanted, "--dry-run").startswith(f"{freed} files would")
    assert run("evict", "--size", wanted).startswith(f"{freed} files were")
    assert on_disk() == [f"{name}.txt" for name in left]


@pytest.mark.parametrize("wanted", ["7000", "7%"])
def test_evict_by_free_space(
    storage: Any, wanted: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    def disk_usage(path: str) -> Any:
        assert Path(path) == Path(storage.local.location)
        return namedtuple("Usage", "total free")(100_000, 10_000 - 1000 * len(on_disk()))

    monkeypatch.setattr(copies.shutil, "disk_usage", disk_usage)
    transferred(storage, "a.txt", "b.txt", "c.txt", "d.txt", "e.txt")
    arguments = ["evict", "--storage", "default", "--until-free", wanted]
    assert run(*arguments, "--dry-run") == "2 files would be freed, 2.0 KB.\n"
    assert run(*arguments) == "2 files were freed, 2.0 KB.\n"
    assert on_disk() == ["c.txt", "d.txt", "e.txt"]
    assert run(*arguments) == "0 files were freed, 0 bytes.\n"


def test_which_disk_must_be_said(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other")
    assert other.alias
    with pytest.raises(CommandError, match="--storage"):
        run("evict", "--until-free", "1G")


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_disk_that_is_not_there_has_no_free_space(tmp_path: Path, dry: list[str]) -> None:
    storage = make(local=FileSystemStorage(tmp_path / "mount"))
    transferred(storage, "a.txt")
    (tmp_path / "mount").rename(tmp_path / "away")
    with pytest.raises(CommandError, match="not there"):
        run("evict", "--until-free", "1G", "--storage", storage.alias, *dry)
    assert (tmp_path / "away" / "a.txt").exists()


@pytest.mark.parametrize("verb", ["evict", "restore"])
def test_what_fails_is_said_and_the_exit_code_tells(storage: Any, verb: str) -> None:
    transferred(storage, "a.txt", "b.txt")
    if verb == "restore":
        run("evict", "--all")
    Path(storage.remote.path("a.txt")).unlink()
    out = StringIO()
    with pytest.raises(CommandError, match="1 files were not") as caught:
        call_command("queued_storage", verb, "--all", stdout=out, stderr=out)
    assert caught.value.returncode == 1
    first, last = out.getvalue().splitlines()
    assert first.startswith("a.txt (default): FileNotFoundError")
    assert last.startswith("1 files were")


def test_restore(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt")
    run("evict", "--all")
    assert run("restore", "--all", "--dry-run") == "2 files would be restored, 2.0 KB.\n"
    assert on_disk() == []
    assert run("restore", "a.txt") == "1 files were restored, 1000 bytes.\n"
    assert on_disk() == ["a.txt"]
    assert run("restore", "--all") == "1 files were restored, 1000 bytes.\n"
    assert read(storages["disk"], "b.txt") == b"x" * 1000


def test_a_verb_that_is_interrupted(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: Step) -> None:
        raise KeyboardInterrupt

    transferred(storage, "a.txt", "b.txt")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", lambda self, step: interrupt(step))
        with pytest.raises(CommandError, match="again") as caught:
            run("evict", "--all")
    assert caught.value.returncode == 130
    assert on_disk() == ["b.txt"]
    assert run("evict", "--all") == "1 files were freed, 1000 bytes.\n"


# verify and reconcile


def test_verify(storage: Any) -> None:
    transferred(storage, "a.txt", "b.txt", "c.txt")
    assert run("verify") == "3 files were compared.\n"
    Path(storage.remote.path("a.txt")).unlink()
    Path(storage.local.path("b.txt")).write_bytes(b"y" * 1000)
    out = StringIO()
    with pytest.raises(CommandError, match="1 copies") as caught:
        call_command("queued_storage", "verify", stdout=out)
    assert caught.value.returncode == 1
    first, last = out.getvalue().splitlines()
    assert first.startswith("a.txt (default): missing remote copy.")
    assert last == "3 files were compared."
    assert run("verify", "b.txt", "c.txt") == "2 files were compared.\n"
    with pytest.raises(CommandError, match="1 copies"):
        run("verify", "b.txt", "--content")


def test_verify_for_programs(storage: Any) -> None:
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
    assert dry[1:] == ["1 copies would be repaired."]
    assert states() == [State.TRANSFERRED] * 2
    assert run(*repair).splitlines()[-1] == "1 copies were repaired."
    assert storage.queue.deliver() == {}
    assert run(*repair, "--repair", "missing-local").splitlines()[-1] == "1 copies were repaired."
    assert run("verify") == "2 files were compared.\n"


def test_reconcile_says_what_it_could_not_do(storage: Any) -> None:
    transferred(storage, "a.txt")
    Path(storage.remote.path("a.txt")).unlink()
    Path(storage.local.path("a.txt")).unlink()
    with pytest.raises(CommandError, match="1 copies could not") as caught:
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
    assert out[3:] == ["3 files are orphans, 2.9 KB."]
    assert on_default("orphans", "local", "--under", "d").splitlines()[-1].startswith("2 files are")
    assert on_default("orphans", "remote") == "0 files are orphans, 0 bytes.\n"
    on_default("orphans", "local", "--delete", "--dry-run")
    assert on_disk() == ["a.txt", "b.txt", "d/.queued-x", "d/c.txt"]
    assert json.loads(on_default("orphans", "local", "--json", "--under", "d").splitlines()[0])[
        "bytes"
    ]
    with pytest.raises(CommandError, match="more"):
        on_default("orphans", "local", "--delete", "--at-most", "1")
    assert len(on_disk()) == 3
    assert (
        on_default("orphans", "local", "--delete")
        .splitlines()[-1]
        .startswith("2 files were deleted")
    )
    assert on_disk() == ["a.txt"]


@pytest.mark.parametrize("under", [".", "./d", "d//"])
def test_a_directory_may_be_spelt_in_several_ways(storage: Any, under: str) -> None:
    transferred(storage, "d/a.txt")
    put_old(storage.local, "d/b.txt")
    os.utime(storage.local.path("d/a.txt"), (0, 0))
    assert on_default("orphans", "local", "--under", under, "--delete").startswith("d/b.txt ")
    assert on_disk() == ["d/a.txt"]


@pytest.mark.parametrize("under", ["..", "d/../..", "/etc", "d\0"])
@pytest.mark.parametrize(
    "verb", [["orphans", "local"], ["orphans", "remote"], ["adopt"], ["backfill"]]
)
def test_what_is_no_directory_of_a_storage(storage: Any, verb: list[str], under: str) -> None:
    with pytest.raises(CommandError, match="no directory of a storage"):
        on_default(*verb, "--under", under)


class Blind(InMemoryStorage):
    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        raise NotImplementedError("no listing")


class Timeless(InMemoryStorage):
    def get_modified_time(self, name: str) -> datetime:
        raise NotImplementedError("no times")


class Naive(InMemoryStorage):
    def get_modified_time(self, name: str) -> datetime:
        return datetime(2020, 1, 1)


@pytest.mark.parametrize(
    ("remote", "arguments"),
    [
        (Naive(), ["orphans", "remote"]),
        (Blind(), ["orphans", "remote"]),
        (Blind(), ["adopt", "--under", "."]),
        (Timeless(), ["orphans", "remote"]),
    ],
)
def test_what_a_storage_leaves_out(remote: Storage, arguments: list[str]) -> None:
    remote.save("a.txt", file())
    storage = make(remote=remote)
    with pytest.raises(
        CommandError, match=r"The storage cannot list .*: (no listing|no times|its times are naive)"
    ):
        run(*arguments, "--storage", storage.alias)


def test_with_an_empty_ledger_no_orphan_is_deleted(storage: Any) -> None:
    put_old(storage.local, "b.txt")
    with pytest.raises(CommandError, match="right database"):
        on_default("orphans", "local", "--delete")
    assert on_disk() == ["b.txt"]


# adopt and backfill


def test_backfill(storage: Any) -> None:
    put_old(storage.local, "docs/a.txt", "docs/b.txt", "photos/c.png", "other.txt")
    for name in ("docs/a.txt", "docs/b.txt"):
        Document.objects.create(file=name)
    assert on_default("backfill", "--dry-run") == "2 files would be recorded, 2.0 KB.\n"
    assert states() == []
    assert on_default("backfill") == "2 files were recorded, 2.0 KB.\n"
    assert on_default("backfill") == "0 files were recorded, 0 bytes.\n"
    assert on_default("backfill", "--under", "photos") == "1 files were recorded, 1000 bytes.\n"
    assert on_default("backfill", "--under", ".") == "1 files were recorded, 1000 bytes.\n"
    assert storage.queue.deliver() == {}
    assert on_disk("far") == on_disk()


def test_adopt(storage: Any) -> None:
    put_old(storage.remote, "docs/a.txt", "docs/b.txt", "photos/c.png")
    put_old(storage.local, "docs/b.txt")
    Document.objects.create(file="docs/a.txt")
    assert on_default("adopt", "--dry-run") == "1 files would be adopted, 1000 bytes.\n"
    assert states() == []
    assert on_default("adopt") == "1 files were adopted, 1000 bytes.\n"
    assert on_default("adopt", "docs/b.txt", "--content") == "1 files were adopted, 1000 bytes.\n"
    assert on_default("adopt", "--under", ".") == "1 files were adopted, 1000 bytes.\n"
    assert on_default("adopt", "--under", ".") == "0 files were adopted, 0 bytes.\n"
    assert states() == [State.TRANSFERRED] * 3
    assert run("verify", "--content") == "3 files were compared.\n"


@pytest.mark.parametrize("verb", ["adopt", "backfill"])
def test_what_is_left_alone_is_said(storage: Any, verb: str) -> None:
    out = StringIO()
    with pytest.raises(CommandError, match="1 files were left alone") as caught:
        call_command("queued_storage", verb, "a.txt", storage="default", stdout=out, stderr=out)
    assert caught.value.returncode == 1
    assert out.getvalue().startswith("a.txt: ")


def test_a_storage_that_no_field_is_for(storage: Any) -> None:
    other = QueuedStorage("disk", "far", alias="other")
    assert other.alias
    with pytest.raises(CommandError, match=r"--storage: .*default.*other"):
        run("backfill")
    with pytest.raises(CommandError, match="--under"):
        run("backfill", "--storage", "other")


FORGED = "a\n0 files\x1b[2J.txt"


def test_a_name_stays_on_its_line(storage: Any) -> None:
    put_old(storage.local, FORGED)
    (out,) = on_default("orphans", "local").splitlines()[:-1]
    assert out.startswith(r"a\n0 files\x1b[2J.txt  1000 bytes")
    save(storage, f"b{FORGED}")
    ledger().update(state=State.FAILED, due_at=None, last_error="It broke.")
    assert r"default: ba\n0 files\x1b[2J.txt: It broke." in run("status").splitlines()
    os.unlink(storage.local.path(f"b{FORGED}"))
    errors = StringIO()
    for verb, name in (("verify", f"b{FORGED}"), ("backfill", f"c{FORGED}")):
        with pytest.raises(CommandError):
            call_command(
                "queued_storage", verb, name, storage="default", stdout=errors, stderr=errors
            )
    verified, _count, missed, _taken = errors.getvalue().splitlines()
    assert verified.startswith(r"ba\n0 files\x1b[2J.txt (default): missing")
    assert missed.startswith(r"ca\n0 files\x1b[2J.txt: There is no local file")


# flush and prune


def test_flush(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    storage.queue.messages.clear()
    later = timezone.now() + timedelta(hours=1)
    ledger().filter(name="b.txt").update(due_at=later)
    assert run("flush", "--dry-run") == "2 files would be transferred.\n"
    assert storage.queue.messages == []
    assert run("flush") == "2 files are on their way.\n"
    assert storage.queue.deliver() == {}
    assert run("flush", "--wait") == "All files are on the remote, apart from held ones.\n"


def test_flush_waits(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save(storage, "a.txt", "b.txt")
    looks = []

    def look_later(seconds: float) -> None:
        looks.append(states())
        pk = ledger().filter(state=State.PENDING).values_list("pk", flat=True)[0]
        assert run_all([pk]) == {}

    monkeypatch.setattr(ending, "sleep", look_later)
    assert run("flush", "--wait").startswith("All files")
    assert [look.count(State.PENDING) for look in looks] == [2, 1]


@pytest.mark.parametrize("timeout", ["0.1s", "0s"])
def test_flush_does_not_wait_for_ever(
    storage: Any, monkeypatch: pytest.MonkeyPatch, timeout: str
) -> None:
    def look(seconds: float) -> None:
        assert timeout != "0s"
        sleep(seconds)

    monkeypatch.setattr(ending, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(ending, "sleep", look)
    save(storage, "a.txt")
    with pytest.raises(CommandError, match="1 files are still"):
        run("flush", "--wait", "--timeout", timeout)


def test_flush_tells_failures(storage: Any) -> None:
    save(storage, "a.txt")
    ledger().update(state=State.FAILED, due_at=None)
    with pytest.raises(CommandError, match="1 files have failed"):
        run("flush", "--wait")


def test_prune(storage: Any) -> None:
    transferred(storage, "gone.txt", "remote.txt", "whole.txt")
    save(storage, "lost.txt", "local.txt")
    for name in ("gone.txt", "remote.txt", "lost.txt"):
        storages["disk"].delete(name)
    storages["far"].delete("gone.txt")
    listed = ["gone.txt (default)", "lost.txt (default)"]
    out = run("prune", "--all", "--dry-run").splitlines()
    assert out == [*listed, "2 files would be removed from the ledger."]
    with pytest.raises(CommandError, match="higher --at-most"):
        run("prune", "--all", "--at-most", "1")
    assert run("prune", "--all").splitlines() == [listed[1], "1 files are removed from the ledger."]
    assert storage.queue.deliver() == {}
    left = ledger().order_by("name").values_list("name", flat=True)
    assert list(left) == ["local.txt", "remote.txt", "whole.txt"]
    assert on_disk() == ["local.txt", "whole.txt"]


def test_prune_stops_before_it_is_too_much(storage: Any) -> None:
    transferred(storage, "a.txt")
    for place in ("disk", "far"):
        storages[place].delete("a.txt")
    for number in ("0", "-1"):
        with pytest.raises(CommandError, match="higher --at-most"):
            run("prune", "--all", "--at-most", number)
    assert states() == [State.TRANSFERRED]
    assert run("prune", "--all", "--at-most", "1").endswith(
        "1 files are removed from the ledger.\n"
    )


def test_prune_removes_nothing_while_a_remote_is_away(storage: Any) -> None:
    scripted = make()
    name = scripted.save("a.txt", file())
    scripted.queue.deliver()
    storages["disk"].delete(name)
    scripted.remote.refuses = True
    with pytest.raises(CommandError, match="could not be looked at"):
        run("prune", "--all")
    assert states() == [State.TRANSFERRED]


# status


def test_status_check_has_limits(storage: Any) -> None:
    save(storage, "a.txt", "b.txt")
    ledger().filter(name="a.txt").update(saved_at=LONG_AGO)
    run("status", "--check")
    run("status", "--check", "--max-age", "9999w", "--max-bytes", "2000")
    with pytest.raises(CommandError, match="1 files have been waiting") as caught:
        run("status", "--check", "--max-age", "2h")
    assert caught.value.returncode == 1
    with pytest.raises(CommandError, match="2000 bytes are waiting"):
        run("status", "--check", "--max-bytes", "1999")
    ledger().update(state=State.FAILED, due_at=None)
    with pytest.raises(CommandError, match="2 files"):
        run("status", "--check", "--max-failures", "1")
    run("status", "--check", "--max-failures", "2")


def test_status_shows_what_there_is_to_see_of_workers(storage: Any) -> None:
    transferred(storage, "done.txt")
    save(storage, "waiting.txt", "moving.txt", "silent.txt")
    for name in ("moving.txt", "silent.txt"):
        assert ledger().claim(ledger().get(name=name).pk)
    ledger().filter(name="silent.txt").update(due_at=LONG_AGO)
    out = run("status")
    assert "workers have 1 files, were not heard of again with 1, last brought one at " in out
    workers = json.loads(run("status", "--json"))["workers"]
    assert (workers["moving"], workers["silent"]) == (1, 1)
    assert workers["last"]
    assert workers["waiting_since"]
