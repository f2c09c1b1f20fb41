"""Processes of a small program, which the test controls through files."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queued_storage.runtime import processes
from queued_storage.runtime.channels import Child
from queued_storage.runtime.processes import Audience, Processes, pause_after
from tests.conftest import ROOT
from tests.support.waiting import until

pytestmark = pytest.mark.one_database

# A child: begins, writes its pid into a file, and waits until it is to stop.
CHILD = """
import os, pathlib, queue, sys
from queued_storage.runtime.channels import Parent
place, what = pathlib.Path(sys.argv[1]), sys.argv[2]
parent = Parent.of_this_process()
assert Parent.of_this_process() is None
if what == "cannot begin":
    sys.exit(3)
stops = queue.SimpleQueue()
parent.watch(stops.put)
parent.tell_begun()
if what == "ends":
    sys.exit(parent.number - 1)
(place / f"pid-{parent.number}.new").write_text(str(os.getpid()))
(place / f"pid-{parent.number}.new").rename(place / f"pid-{parent.number}")
is_orphan = stops.get()
if what == "ignores it":
    (place / f"asked-{parent.number}").touch()
    queue.SimpleQueue().get()
(place / f"stopped-{parent.number}").write_text(str(is_orphan))
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"}


class Watching(Audience):
    """Remembers what happened; calls a function of the test after each start and end."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.started: list[int] = []
        self.ended: list[tuple[int, int | None, float | None]] = []
        self.failed: list[float] = []
        self.killed: list[int] = []
        self.then = then

    def on_start(self, child: Child) -> None:
        self.started.append(child.number)

    def on_end(self, child: Child, pause: float | None) -> None:
        self.ended.append((child.number, child.exit_code, pause))
        self.then()

    def on_failure(self, number: int, error: OSError, pause: float) -> None:
        self.failed.append(pause)
        self.then()

    def on_kill(self, child: Child) -> None:
        self.killed.append(child.number)


def processes_of(place: Path, what: str, audience: Audience, **options: Any) -> Processes:
    options = {"replaces": True, "stop_wait": 60.0} | options
    command = [sys.executable, "-c", CHILD, str(place), what]
    return Processes(2, command, ENVIRONMENT, audience, **options)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_all_have_ended(tmp_path: Path) -> None:
    seen = Watching()
    assert processes_of(tmp_path, "ends", seen, replaces=False).run() == 1  # the worst
    assert seen.started == [1, 2]
    assert sorted(seen.ended) == [(1, 0, None), (2, 1, None)]


def test_a_start_that_fails_is_not_repeated(tmp_path: Path) -> None:
    seen = Watching()
    assert processes_of(tmp_path, "cannot begin", seen).run() == 3
    assert (seen.started, seen.ended) == ([1], [(1, 3, None)])


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    command = [str(tmp_path / "missing")]
    keeper = Processes(2, command, {}, Watching(), replaces=True, stop_wait=1)
    with pytest.raises(FileNotFoundError):
        keeper.run()


def test_a_program_that_vanishes_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an environment does that is built anew."""
    monkeypatch.setattr(processes, "pause_after", lambda quick_ends: 0.01 * quick_ends)
    program = tmp_path / "program"

    def install() -> None:
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        program.chmod(0o700)

    def then() -> None:
        if not seen.failed:
            program.unlink(missing_ok=True)
        elif len(seen.failed) == 3:
            install()
        if len(seen.ended) > 5 and len(seen.failed) >= 3:
            stop()

    install()
    seen = Watching(then)
    command = [str(program), "-c", CHILD, str(tmp_path), "ends"]
    Processes(1, command, ENVIRONMENT, seen, replaces=True, stop_wait=60).run()
    assert seen.failed == [0.02, 0.03, 0.04]
    assert len(seen.started) > 1


def test_what_ends_is_replaced_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "pause_after", lambda quick_ends: 0.01 * quick_ends)
    seen = Watching(lambda: len(seen.ended) == 10 and stop())
    processes_of(tmp_path, "ends", seen).run()
    for number in (1, 2):
        pauses = [pause for each, _code, pause in seen.ended if each == number and pause]
        assert pauses == [0.01 * count for count in range(1, len(pauses) + 1)]
    assert len(seen.started) >= 10


def test_the_pause_begins_anew_after_a_long_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STEADY", 0.0)
    seen = Watching(lambda: len(seen.ended) == 6 and stop())
    processes_of(tmp_path, "ends", seen).run()
    assert {pause for _number, _code, pause in seen.ended} <= {0.0, None}


def test_pauses() -> None:
    found = [pause_after(quick_ends) for quick_ends in range(12)]
    assert found == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


# In a process of its own, so that the test can kill it

KEEPER = """
import os, pathlib, sys
from tests.runtime.test_processes import Watching, processes_of
place, what, stop_wait = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
seen = Watching()
code = processes_of(place, what, seen, stop_wait=stop_wait).run()
print(seen.killed, seen.ended)
sys.exit(code)
"""
Keep = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def keep(spawn: Callable[..., Any], tmp_path: Path) -> Keep:
    """Start a process that keeps two others; return it when both work."""

    def start(what: str = "works", stop_wait: float = 60) -> Any:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
        command = [sys.executable, "-c", KEEPER, str(tmp_path), what, str(stop_wait)]
        keeper = spawn(command, env=environment, stdout=subprocess.PIPE, text=True)
        for number in (1, 2):
            pid_of(tmp_path, number)
        return keeper

    return start


def pid_of(place: Path, number: int) -> int:
    path = place / f"pid-{number}"
    until(path.exists)
    return int(path.read_text())


def test_a_killed_process_is_replaced(keep: Keep, tmp_path: Path) -> None:
    keeper = keep()
    first, second = pid_of(tmp_path, 1), pid_of(tmp_path, 2)
    os.kill(second, signal.SIGKILL)
    until(lambda: pid_of(tmp_path, 2) != second)
    assert pid_of(tmp_path, 1) == first
    keeper.terminate()
    out, _none = keeper.communicate(timeout=60)
    assert "(2, -9, 0.0)" in out
    assert keeper.returncode == 0  # it was replaced, so its end does not count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(keep: Keep, tmp_path: Path, number: int) -> None:
    keeper = keep()
    keeper.send_signal(number)
    assert keeper.wait(60) == 0
    stopped = [(tmp_path / f"stopped-{each}").read_text() for each in (1, 2)]
    assert stopped == ["False", "False"]


def test_a_second_signal_kills_all(keep: Keep, tmp_path: Path) -> None:
    keeper = keep("ignores it")
    pids = [pid_of(tmp_path, number) for number in (1, 2)]
    keeper.terminate()
    until((tmp_path / "asked-1").exists)
    keeper.terminate()
    assert keeper.wait(60) == 128 + signal.SIGTERM
    until(lambda: not any(map(is_alive, pids)))


def test_any_time_to_stop(keep: Keep) -> None:
    keeper = keep(stop_wait=threading.TIMEOUT_MAX + 10)
    keeper.terminate()
    assert keeper.wait(60) == 0


def test_what_does_not_stop_is_killed(keep: Keep, tmp_path: Path) -> None:
    keeper = keep("ignores it", stop_wait=0.1)
    keeper.terminate()
    out, _none = keeper.communicate(timeout=60)
    assert out.startswith("[1, 2] ")
    assert keeper.returncode == 128 + signal.SIGKILL


def test_all_stop_if_the_parent_is_killed(keep: Keep, tmp_path: Path) -> None:
    keeper = keep()
    pids = [pid_of(tmp_path, number) for number in (1, 2)]
    keeper.kill()
    until(lambda: not any(map(is_alive, pids)))
    stopped = [(tmp_path / f"stopped-{each}").read_text() for each in (1, 2)]
    assert stopped == ["True", "True"]


def is_alive(pid: int) -> bool:
    """Whether the process runs. One that has ended may be left for the system to remove."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(shown.stdout.strip()) and not shown.stdout.startswith("Z")
