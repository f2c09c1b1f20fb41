import gc
import json
import os
import signal
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from pytest_django import Settings

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.states import State
from queued_storage.management.commands.queued_storage import Command
from queued_storage.models import QueuedFile
from tests.support.forks import ended, forks
from tests.support.scripted import Step, file, make
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("queued_storage", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def storage() -> Any:
    return storages["default"]


def test_a_verb_is_needed() -> None:
    with pytest.raises(CommandError, match="verb"):
        run()


def test_status_of_nothing() -> None:
    assert run("status") == "The ledger is empty.\n"


def test_status_shows_counts_sizes_and_reasons(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"x" * 2048))
    name = storage.save("b.txt", ContentFile(b"b"))
    QueuedFile.objects.filter(name=name).update(state=State.FAILED, last_error="no such bucket")
    out = run("status")
    assert [line.split()[:4] for line in out.splitlines()[:2]] == [
        ["default", "failed", "1", "1"],
        ["default", "pending", "1", "2.0"],
    ]
    assert "default: b.txt: no such bucket" in out


def test_status_for_programs(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    answer = json.loads(run("status", "--json"))
    assert answer["troubles"] == []
    assert answer["files"][0]["state"] == "pending"
    assert answer["files"][0]["bytes"] == 3


def test_status_check_fails_for_monitoring(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    run("status", "--check")
    QueuedFile.objects.update(state=State.FAILED)
    with pytest.raises(CommandError, match="failed") as caught:
        run("status", "--check")
    assert caught.value.returncode == 1


def test_sweep_tells_the_queue(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    storage.queue.messages.clear()
    assert run("sweep") == "1 files were due.\n"
    assert len(storage.queue.messages) == 1
    assert run("sweep", "--storage", "other") == "0 files were due.\n"


def test_sweep_only_counts(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    storage.queue.messages.clear()
    assert run("sweep", "--dry-run") == "1 files are due.\n"
    assert run("sweep", "--dry-run", "--storage", "other") == "0 files are due.\n"
    assert storage.queue.messages == []


def test_transfer_only_says_what_it_would_do(storage: Any) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    assert "(default): pending; it would be transferred." in run("transfer", name, "--dry-run")
    assert not storages["far"].exists(name)
    assert storage.queued_file(name).attempts == 0
    run("transfer", name)
    assert "(default): transferred; it stays as it is." in run("transfer", name, "--dry-run")


def test_without_a_table_it_says_what_to_do() -> None:
    with connection.schema_editor() as editor:
        editor.delete_model(QueuedFile)
    try:
        for verb in (["status"], ["worker", "--until-empty"], ["evict", "--all"]):
            with pytest.raises(CommandError, match=r"'default' has no table.*manage\.py migrate'"):
                run(*verb)
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(QueuedFile)


def test_transfer_moves_one_file_here_and_now(storage: Any) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    assert run("transfer", name) == "a.txt (default): transferred.\n"
    assert storages["far"].exists(name)
    assert run("transfer", name) == "a.txt (default): transferred.\n"


@pytest.mark.parametrize("state", [State.HELD, State.FAILED])
def test_transfer_takes_what_was_put_aside(storage: Any, state: State) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    QueuedFile.objects.update(state=state, due_at=None, attempts=9)
    run("transfer", name)
    assert storage.using_remote(name)


def test_transfer_says_why_it_failed(storage: Any) -> None:
    name = storage.save("a.txt", ContentFile(b"abc"))
    storages["disk"].delete(name)
    with pytest.raises(CommandError, match=r"failed.*does not exist"):
        run("transfer", name)


def test_transfer_of_an_unknown_name() -> None:
    with pytest.raises(CommandError, match=r"no file 'nothing\.txt'"):
        run("transfer", "nothing.txt")


@pytest.mark.parametrize("name", ["caf\udce9.txt", "a\0.txt"])
def test_a_name_that_no_row_can_have_is_an_unknown_one(name: str) -> None:
    with pytest.raises(CommandError, match="no file"):
        run("transfer", name)
    assert run("verify", name) == "0 files were compared.\n"


def test_transfer_of_a_name_that_two_storages_have(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    other = QueuedStorage("disk", "far", alias="other")
    storages["disk"].delete("a.txt")
    assert other.save("a.txt", ContentFile(b"xyz")) == "a.txt"
    with pytest.raises(CommandError, match="--storage"):
        run("transfer", "a.txt")
    assert "(other): transferred" in run("transfer", "a.txt", "--storage", "other")


def test_worker_until_empty(storage: Any) -> None:
    names = [storage.save(f"{number}.txt", ContentFile(b"abc")) for number in range(20)]
    out = run("worker", "--until-empty", "--threads", "2", "--poll", "0.05")
    first, last = out.splitlines()
    assert "default" in first
    assert last == "Stopped."
    assert all(storage.using_remote(name) for name in names)


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        ((700, 10, 10), (10_000, 20, 50)),
        ((50_000, 10, 100), (50_000, 20, 100)),
        ((0, 10, 10), (0, 10, 10)),
    ],
)
def test_worker_looks_for_garbage_less_often(
    before: tuple[int, int, int], meanwhile: tuple[int, int, int]
) -> None:
    seen = []
    storage = make(task=Step(lambda *args: seen.append(gc.get_threshold())))
    storage.save("a.txt", file())
    own = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        run("worker", "--until-empty", "--poll", "0.05")
        assert (seen, gc.get_threshold()) == ([meanwhile], before)
    finally:
        gc.set_threshold(*own)


@pytest.mark.parametrize(
    "bad", [["--threads", "0"], *(["--poll", poll] for poll in ("0", "nan", "inf", "1e12"))]
)
def test_worker_with_senseless_options(bad: list[str]) -> None:
    with pytest.raises(CommandError, match="--threads must be"):
        run("worker", *bad)


def test_a_worker_that_cannot_ask_leaves_no_thread(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> bool:
        raise OperationalError("away")

    monkeypatch.setattr(Command, "_is_due", staticmethod(away))
    before = set(threading.enumerate())
    with pytest.raises(OperationalError):
        run("worker", "--until-empty", "--poll", "0.05")
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name != "queued-storage-leases"] == []


def test_signals_after_a_worker_are_its_caller_s(storage: Any) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        run("worker", "--until-empty", "--poll", "0.05")
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Told(StringIO):
    """Makes a file when something is written."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def write(self, text: str) -> int:
        self.place.touch()
        return super().write(text)


def work_until_told_to_end(works: Path) -> None:
    """The first signal comes while the main thread has just begun to wait for one."""
    allocate = threading._allocate_lock  # type: ignore[attr-defined]

    def told_meanwhile() -> Any:
        if threading.current_thread() is threading.main_thread() and works.exists():
            signal.raise_signal(signal.SIGTERM)
        return allocate()

    threading._allocate_lock = told_meanwhile  # type: ignore[attr-defined]
    call_command("queued_storage", "worker", "--poll", "0.05", stdout=Told(works))


def test_a_worker_ends_whenever_it_is_told(
    child_environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    """An Event cannot be set by a signal while its own thread is about to wait for it."""
    works = tmp_path / "works"
    with forks(child_environment, settings) as children:
        worker = children.start(work_until_told_to_end, works)
        until(works.exists)
        os.kill(worker.pid, signal.SIGTERM)
        assert ended(worker, timeout=20) in (0, 128 + signal.SIGTERM)  # it may be the second one
