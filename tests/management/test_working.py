import gc
import multiprocessing
import os
import signal
import socket
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError, call_command
from django.db import OperationalError
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.jobs import Action, JobState, jobs
from queued_storage.management.verbs.working import Worker
from queued_storage.operations.jobs import request
from queued_storage.runtime.channels import BEGUN, VARIABLE
from queued_storage.transfers import pacing
from tests.support.command import run
from tests.support.forks import ended, forks
from tests.support.scripted import Step as TransferStep
from tests.support.scripted import file, make
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


# sweep


def test_sweep_enqueues(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    storage.queue.messages.clear()
    assert run("sweep") == "1 file was enqueued.\n"
    assert len(storage.queue.messages) == 1


def test_sweep_dry_run_only_counts(storage: Any) -> None:
    storage.save("a.txt", ContentFile(b"abc"))
    storage.queue.messages.clear()
    assert run("sweep", "--dry-run") == "1 file is due.\n"
    assert storage.queue.messages == []


# worker


def test_worker_until_empty(storage: Any) -> None:
    names = [storage.save(f"{number}.txt", ContentFile(b"abc")) for number in range(20)]
    out = run("worker", "--until-empty", "--threads", "2", "--poll", "0.05")
    first, last = out.splitlines()
    assert "default" in first
    assert last == "Stopped."
    assert all(storage.using_remote(name) for name in names)


def test_worker_carries_out_jobs(storage: Any) -> None:
    names = [storage.save(f"{number}.txt", ContentFile(b"abc")) for number in range(3)]
    storage.queue.deliver()
    [job] = request(Action.EVICT, ledger().all())
    run("worker", "--until-empty", "--poll", "0.05")
    assert (jobs().get(pk=job.pk).state, jobs().get(pk=job.pk).succeeded) == (JobState.DONE, 3)
    assert not any(storage.local.exists(name) for name in names)


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        ((700, 10, 10), (10_000, 20, 50)),
        ((50_000, 10, 100), (50_000, 20, 100)),
        ((0, 10, 10), (0, 10, 10)),
    ],
)
def test_worker_collects_garbage_less_often(
    before: tuple[int, int, int], meanwhile: tuple[int, int, int]
) -> None:
    seen = []
    storage = make(task=TransferStep(lambda *args: seen.append(gc.get_threshold())))
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
def test_worker_with_invalid_options(bad: list[str]) -> None:
    with pytest.raises(CommandError, match="--threads must be"):
        run("worker", *bad)


@pytest.mark.parametrize("bad", ["-1", "nan", "1e12"])
def test_worker_with_an_invalid_exit_wait(bad: str) -> None:
    with pytest.raises(CommandError, match="--exit-wait must be"):
        run("worker", "--exit-wait", bad)


def test_processes_share_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    storage = make(task=TransferStep(lambda *args: rates.append(pacing.upload_limit())))
    storage.save("a.txt", file())
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(VARIABLE, f"3:{theirs.detach()}")
    monkeypatch.setattr(multiprocessing.current_process(), "name", "MainProcess")
    with ours:
        options = ("--processes", "4", "--max-rate", "8M", "--poll", "0.05")
        first, last = run("worker", "--until-empty", *options).splitlines()
        assert ours.recv(1) == BEGUN
    assert [each.rate for each in rates] == [2 * 2**20]
    assert first.startswith("Process 3: Transferring files of ")
    assert last == "Process 3: Stopped."


def test_worker_without_a_ledger_leaves_no_thread(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> bool:
        raise OperationalError("unreachable")

    monkeypatch.setattr(Worker, "is_due", staticmethod(unreachable))
    before = set(threading.enumerate())
    with pytest.raises(OperationalError):
        run("worker", "--until-empty", "--poll", "0.05")
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name != "queued-storage-leases"] == []


def test_worker_restores_the_signal_handlers(storage: Any) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        run("worker", "--until-empty", "--poll", "0.05")
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Touching(StringIO):
    """Creates a file when something is written."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def write(self, text: str) -> int:
        self.place.touch()
        return super().write(text)


def work_until_signaled(works: Path) -> None:
    """Receive the first signal while the main thread begins to wait for one."""
    allocate = threading._allocate_lock  # type: ignore[attr-defined]

    def signal_meanwhile() -> Any:
        if threading.current_thread() is threading.main_thread() and works.exists():
            signal.raise_signal(signal.SIGTERM)
        return allocate()

    threading._allocate_lock = signal_meanwhile  # type: ignore[attr-defined]
    call_command("queued_storage", "worker", "--poll", "0.05", stdout=Touching(works))


def test_worker_stops_at_any_time(
    child_environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    """A signal handler cannot set an Event while its own thread begins to wait for it."""
    works = tmp_path / "works"
    with forks(child_environment, settings) as children:
        worker = children.start(work_until_signaled, works)
        until(works.exists)
        os.kill(worker.pid, signal.SIGTERM)
        assert ended(worker, timeout=20) in (0, 128 + signal.SIGTERM)  # it may be the second signal
