"""Processes whose files crash them, hang, or are in progress at their end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages
from django.core.management import call_command
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.queues.base import run_all
from queued_storage.runtime import hung
from queued_storage.tasks import Transfer
from tests.support.forks import ended, forks
from tests.support.scripted import LONG_AGO
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_lane]

KILLED = 137  # the exit code of a process that the system has killed for its memory


@pytest.fixture
def fork(child_environment: dict[str, str], settings: Settings) -> Iterator[Callable[..., Any]]:
    with forks(child_environment, settings) as found:
        yield found.start


def use(settings: Settings, **options: Any) -> None:
    """Change options of the default storage."""
    default = settings.STORAGES["default"]
    changed = default | {"OPTIONS": default["OPTIONS"] | options}
    settings.STORAGES = settings.STORAGES | {"default": changed}


# A file that kills its worker


class Poison(Transfer):
    """A task that kills its process with a file named "poison"."""

    def transfer(self, name: str, local: Any, remote: Any, **kwargs: Any) -> bool:
        if name == "poison":
            time.sleep(0.2)  # so that others are in progress, or claimed ahead
            os._exit(KILLED)
        time.sleep(0.01)
        return super().transfer(name, local, remote, **kwargs)


def work() -> None:
    call_command("queued_storage", "worker", until_empty=True, threads=4, poll=0.05)


def deliver() -> None:
    """Process all files as one message of a task queue."""
    run_all(list(ledger().order_by("pk").values_list("pk", flat=True)))


def work_in_threads() -> None:
    """Have the threads of a web process find all files."""
    storage: Any = storages["default"]
    storage.save("request", ContentFile(b"starts the threads"))
    until(lambda: not ledger().exclude(state__in=[State.TRANSFERRED, State.FAILED]).exists())


THREADS = {
    "BACKEND": "queued_storage.queues.threads.ThreadQueue",
    "OPTIONS": {"threads": 4, "poll": 0.05},
}


@pytest.mark.parametrize("process", [work, deliver, work_in_threads])
def test_poison_fails_alone(
    fork: Callable[..., Any], settings: Settings, process: Callable[[], None]
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 1}
    use(settings, task=f"{__name__}.Poison")
    storage: Any = storages["default"]
    for number in range(3):
        storage.save(f"before-{number}", ContentFile(b"x"))
    storage.save("poison", ContentFile(b"p"))
    for number in range(60):
        storage.save(f"after-{number}", ContentFile(b"x"))
    if process is work_in_threads:
        settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"QUEUE": THREADS}
    exits = []
    while not exits or exits[-1]:
        exits.append(ended(fork(process), 60))
        ledger().exclude(lease_token="").update(due_at=LONG_AGO)  # the leases of the dead expire
        assert len(exits) < 10
    assert exits == [KILLED] * 3 + [0]  # beside others, then alone, twice
    poison = ledger().get(name="poison")
    assert (poison.state, poison.attempts) == (State.FAILED, 3)
    assert "the worker died during every attempt" in poison.last_error
    others = ledger().exclude(name="poison")
    assert set(others.values_list("state", "attempts")) == {(State.TRANSFERRED, 1)}


# A remote that hangs


class Hanging(FileSystemStorage):
    """A remote that never answers; if ``pooled``, in a thread of a pool."""

    def __init__(self, pooled: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.pooled = pooled

    def _save(self, name: str, content: Any) -> str:
        Path(self.path("hangs")).touch()
        if self.pooled:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(threading.Event().wait).result()
        threading.Event().wait()
        return name


def hanging(settings: Settings, path: Path, **options: Any) -> Path:
    """Make the default remote hang. Return a file that exists once it does."""
    options |= {"location": str(path)}
    far = {"BACKEND": f"{__name__}.Hanging", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": far}
    return path / "hangs"


def work_on() -> None:
    call_command("queued_storage", "worker", threads=2, poll=0.05, exit_wait=0.2)


@pytest.mark.parametrize("stall_timeout", [0.5, 600])
@pytest.mark.parametrize("pooled", [False, True])
def test_hung_worker_ends_on_sigterm(
    fork: Callable[..., Any], settings: Settings, tmp_path: Path, pooled: bool, stall_timeout: float
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"STALL_TIMEOUT": stall_timeout}
    hangs = hanging(settings, tmp_path, pooled=pooled)
    storage: Any = storages["default"]
    for number in range(2):
        storage.save(f"{number}.txt", ContentFile(b"x"))
    worker = fork(work_on)
    until(hangs.exists)
    if stall_timeout < 1:
        until(lambda: ledger().exclude(last_error="").count() == 2)
    os.kill(worker.pid, signal.SIGTERM)
    # The interpreter waits for pools of threads, so it has to be ended.
    assert ended(worker, timeout=20) == (1 if pooled else 0)
    rows = ledger().values_list("state", "attempts")
    assert {state for state, _attempts in rows} == {State.PENDING}
    assert sum(attempts for _state, attempts in rows) == (2 if stall_timeout < 1 else 0)


def work_until_too_many_hang() -> None:
    hung.MOST = 1
    # Both failures are recorded in this time.
    call_command("queued_storage", "worker", threads=2, poll=0.05, exit_wait=1)


def test_worker_with_too_many_hung_threads_exits(
    fork: Callable[..., Any], settings: Settings, tmp_path: Path
) -> None:
    """Its supervisor starts a new one."""
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"STALL_TIMEOUT": 0.5}
    hanging(settings, tmp_path)
    storage: Any = storages["default"]
    for number in range(5):
        storage.save(f"{number}.txt", ContentFile(b"x"))
    assert ended(fork(work_until_too_many_hang), timeout=40) == 1
    assert set(ledger().values_list("state", flat=True)) == {State.PENDING}


# The end of a process

SAVE_AND_END = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import django
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from queued_storage.runtime import ending

def save_by_a_pool(name, content, max_length=None):
    while not ending.has_begun():  # the main thread ends at once
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(save, name, content).result()

def save_by_an_open_pool(name, content, max_length=None):
    time.sleep(0.5)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(save, name, content).result()

def save_slowly(name, content, max_length=None):
    while not ending.has_begun():
        time.sleep(0.01)
    return save(name, content)

def save_for_ever(name, content, max_length=None):
    time.sleep(600)

save = storages["far"].save
storages["far"].save = globals()[sys.argv[1]]
storages["default"].save("a.txt", ContentFile(b"content"))
if sys.argv[1] == "save_by_an_open_pool":  # as a hook of a server does
    from queued_storage.queues.threads import stop_all
    assert stop_all(20)
"""


@pytest.mark.parametrize(
    ("save", "state", "attempts"),
    [
        ("save_slowly", State.TRANSFERRED, 1),
        ("save_by_an_open_pool", State.TRANSFERRED, 1),
        ("save_by_a_pool", State.PENDING, 0),  # the interpreter has closed all pools
        ("save_for_ever", State.PENDING, 0),
    ],
)
def test_end_of_a_process_costs_no_attempt(
    spawn: Callable[..., subprocess.Popen[Any]],
    child_settings: Callable[..., dict[str, str]],
    settings: Settings,
    save: str,
    state: State,
    attempts: int,
) -> None:
    wait = 1 if save == "save_for_ever" else 20
    options = THREADS["OPTIONS"] | {"exit_wait": wait}
    queue = THREADS | {"OPTIONS": options}
    environment = child_settings(QUEUED_STORAGE={**settings.QUEUED_STORAGE, "QUEUE": queue})
    assert spawn([sys.executable, "-c", SAVE_AND_END, save], env=environment).wait(60) == 0
    row = ledger().get()
    assert (row.state, row.attempts) == (state, attempts)
    assert row.due_at is not None or state == State.TRANSFERRED
    ledger().filter(state=State.PENDING).update(due_at=LONG_AGO)
    run_all([row.pk])
    assert ledger().get().state == State.TRANSFERRED
