"""``worker --processes``: what becomes of the files when one of the processes ends."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError
from django.db import connection
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from tests.journeys.test_supervision import hanging
from tests.support.command import run
from tests.support.console import COMMAND, manage
from tests.support.failpoints import FailPoint
from tests.support.scripted import LONG_AGO, on_disk
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

LOGGING = {
    "version": 1,
    "formatters": {"named": {"format": "%(processName)s: %(message)s"}},
    "handlers": {"named": {"class": "logging.StreamHandler", "formatter": "named"}},
    "root": {"handlers": ["named"]},
}
FAIL_POINTS = "tests.support.failpoints.FailPoints"
ORDER = ("worker", "--poll", "0.05", "--threads", "1", "--processes", "2")


class Command:
    """The command in a process of its own, with the lines that it and its children write."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []

    def read_until(self, pattern: str) -> str:
        """Read lines up to the first that matches; return its first group."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if found := re.search(pattern, line):
                return found[1]
        raise AssertionError(f"no {pattern!r} in {self.lines}")

    def starts(self) -> dict[int, int]:
        """Wait until both processes work. Return their pids."""
        working: set[int] = set()
        while working != {1, 2}:
            working.add(int(self.read_until(r"Process (\d): Transferring")))
        found = (re.match(r"Process (\d) of 2: started, pid (\d+)\.", line) for line in self.lines)
        return {int(match[1]): int(match[2]) for match in found if match}

    def ends(self) -> list[str]:
        """Wait until it and all of its children have ended, which share a pipe."""
        assert self.process.stdout
        self.lines += map(str.strip, self.process.stdout)
        return self.lines


Start = Callable[..., Command]


@pytest.fixture
def start(
    spawn: Callable[..., Any], child_settings: Callable[..., dict[str, str]], settings: Settings
) -> Start:
    """Start the command. A fail point holds the first of its children that reaches it."""

    def command(*options: str, point: FailPoint | None = None) -> Command:
        changes: dict[str, Any] = {
            "LOGGING": LOGGING,
            "STORAGES": settings.STORAGES,
            "QUEUED_STORAGE": settings.QUEUED_STORAGE,
        }
        if point:
            changes["INSTALLED_APPS"] = [*settings.INSTALLED_APPS, FAIL_POINTS]
            changes["FAIL_POINT"] = point.setting(hold=True)
        process = spawn(
            [*COMMAND, *ORDER, *options],
            env=child_settings(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Command(process)

    return command


@pytest.fixture
def copying(tmp_path: Path) -> FailPoint:
    """A child is held when it has read a part of a file."""
    return FailPoint("copying", tmp_path / "reached")


def save(*names: str) -> None:
    for name in names:
        storages["default"].save(name, ContentFile(os.urandom(300_000)))


def is_transferred(*names: str) -> bool:
    found = ledger().filter(name__in=names, state=State.TRANSFERRED)
    return found.count() == len(names) and set(names) <= set(on_disk("far"))


def test_files_are_transferred_until_none_is_due(start: Start) -> None:
    names = [f"{number}.bin" for number in range(6)]
    save(*names)
    worker = start("--until-empty")
    lines = worker.ends()
    assert worker.process.wait(30) == 0
    assert is_transferred(*names)
    assert lines[-1] == "Stopped."
    assert {"Process 1: Stopped.", "Process 2: Stopped."} <= set(lines)


def test_a_killed_process_is_replaced(start: Start, copying: FailPoint) -> None:
    save("a.bin")
    worker = start(point=copying)
    pids = worker.starts()
    until(lambda: copying.reached)
    killed = next(number for number, pid in pids.items() if pid == copying.pid)
    os.kill(copying.pid, signal.SIGKILL)
    message = worker.read_until(rf"MainProcess: (Process {killed} .*)")
    assert "was ended by SIGKILL" in message
    assert message.endswith("Another one is started now.")
    worker.read_until(rf"(Process {killed}: Transferring)")
    ledger().exclude(due_at=None).update(due_at=LONG_AGO)  # the end of its lease
    until(lambda: is_transferred("a.bin"))
    worker.process.terminate()
    worker.ends()
    assert worker.process.wait(30) == 0


def test_sigterm_lets_transfers_finish(start: Start, copying: FailPoint) -> None:
    save("a.bin")
    worker = start("--exit-wait", "60", point=copying)
    worker.starts()
    until(lambda: copying.reached)
    worker.process.terminate()
    worker.read_until("(Process [12]: Stopped)")  # the other one
    assert not is_transferred("a.bin")
    copying.release()
    assert worker.ends()[-1] == "Stopped."
    assert worker.process.wait(30) == 0
    assert is_transferred("a.bin")


def test_processes_whose_parent_is_killed_finish_and_end(start: Start, copying: FailPoint) -> None:
    save("a.bin")
    worker = start("--exit-wait", "60", point=copying)
    worker.starts()
    until(lambda: copying.reached)
    worker.process.kill()
    for _process in range(2):
        worker.read_until(r"(worker-\d: The parent process has ended)")
    copying.release()
    lines = worker.ends()
    assert {"Process 1: Stopped.", "Process 2: Stopped."} <= set(lines)
    assert is_transferred("a.bin")


def test_process_with_too_many_hung_threads_is_replaced(
    start: Start, settings: Settings, tmp_path: Path
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"STALL_TIMEOUT": 0.5}
    hanging(settings, tmp_path)
    for number in range(60):
        storages["default"].save(f"{number}.txt", ContentFile(b"x"))
    worker = start("--threads", "40", "--exit-wait", "0")
    message = worker.read_until(r"MainProcess: (Process . \(pid \d+\) ended with exit code 1;.*)")
    assert message.endswith("Another one is started now.")


def test_an_error_at_the_start_is_shown_once(start: Start, settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"NONSENSE": 1}
    worker = start("--skip-checks", "--until-empty")
    lines = worker.ends()
    assert worker.process.wait(30) == 1
    assert sum("'NONSENSE'" in line for line in lines) == 1
    assert sum("started" in line for line in lines) == 1


@pytest.mark.one_database
@pytest.mark.parametrize("options", [("--threads", "0"), ("--processes", "0"), ("--poll", "0")])
def test_a_wrong_option_starts_no_process(
    child_environment: dict[str, str], options: tuple[str, str]
) -> None:
    found = manage(child_environment, *ORDER, *options)
    assert (found.stdout, found.returncode) == ("", 2)
    assert found.stderr.count("CommandError") == 1


@pytest.mark.one_database
def test_an_address_in_use_starts_no_process(child_environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = manage(child_environment, *ORDER, "--metrics", str(port))
    assert (found.stdout, found.returncode) == ("", 1)
    assert "cannot be served" in found.stderr


@pytest.mark.one_database
def test_the_command_line_must_be_known() -> None:
    with pytest.raises(CommandError, match="on the command line only"):
        run("worker", "--processes", "2")


@pytest.mark.one_database
def test_no_processes_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(CommandError, match="not available on Windows"):
        run("worker", "--processes", "2")


def test_the_counters_of_all_processes_at_one_port(start: Start, copying: FailPoint) -> None:
    save("a.bin", "b.bin")
    worker = start("--metrics", "0", point=copying)
    address = worker.read_until(r"Metrics at (http\S+)\.$")
    worker.starts()

    def transfers() -> float:
        with urlopen(address, timeout=10) as answer:
            text: str = answer.read().decode()
        assert text.count("# TYPE queued_storage_files ") == 1
        [line] = re.findall(r'^queued_storage_transfers_total{storage="default"} (.+)$', text, re.M)
        return float(line)

    # One process is held with one of the files, and has only one thread.
    until(lambda: transfers() == 1)
    copying.release()
    until(lambda: transfers() == 2)
    os.kill(copying.pid, signal.SIGKILL)
    worker.read_until("(Another one is started)")
    assert transfers() == 2
    worker.process.terminate()
    worker.ends()
    assert worker.process.wait(30) == 0


def test_the_parent_has_no_connection_to_the_database(start: Start) -> None:
    if connection.vendor != "sqlite" or not Path("/proc/self/fd").exists():
        pytest.skip("only the file of SQLite is seen among the open files")
    worker = start()
    pids = worker.starts()
    database = str(django_settings.DATABASES["default"]["TEST"]["NAME"])

    def opened(pid: int) -> set[str]:
        return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()}

    until(lambda: database in opened(pids[1]) | opened(pids[2]))
    assert not {path for path in opened(worker.process.pid) if path.startswith(database)}
