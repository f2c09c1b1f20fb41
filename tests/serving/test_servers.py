"""Servers that fork, and that are stopped while their threads upload a file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from tests.conftest import ROOT
from tests.support import services
from tests.support.latched import LatchedStorage
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

FILES = ROOT / "deploy" / "servers"
GUNICORN = ["gunicorn", "--config", str(FILES / "gunicorn.conf.py"), "--workers", "2"]
DJANGO = "django.core.wsgi:get_wsgi_application()"
POLL = 3600  # seconds; so a process transfers only what it was notified of


class Server:
    """A running server with the site of tests/support/served.py."""

    def __init__(self, process: subprocess.Popen[Any], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        until(self._is_up)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return not services.is_free(self.port)

    def save(self, name: str) -> int:
        """Let the site save a file. Return the id of the process that did it."""
        with urlopen(f"http://127.0.0.1:{self.port}/save/{name}", timeout=30) as response:
            return int(response.read())

    def stop(self, words: str) -> None:
        """Ask the server to stop, and wait until it says these words."""
        self.process.terminate()
        until(lambda: words in self.log.read_text())


@pytest.fixture
def latch(settings: Settings, tmp_path: Path) -> Path:
    """The file that holds the upload of another process."""
    latch = tmp_path / "latch"
    options = {"latch": str(latch), "location": str(tmp_path / "far")}
    remote = {"BACKEND": f"{LatchedStorage.__module__}.LatchedStorage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"far": remote}
    return latch


@pytest.fixture
def serve(
    settings: Settings,
    tmp_path: Path,
    child_settings: Callable[..., dict[str, str]],
    spawn: Callable[..., subprocess.Popen[Any]],
) -> Callable[..., Server]:
    def start(command: list[str]) -> Server:
        pytest.importorskip(command[0])
        [port] = services.free_ports(1)
        listen = {"gunicorn": ["--bind", f"127.0.0.1:{port}"], "uvicorn": ["--port", str(port)]}
        env = child_settings(
            ROOT_URLCONF="tests.support.served",
            ALLOWED_HOSTS=["*"],
            STORAGES=settings.STORAGES,
            QUEUED_STORAGE={
                "QUEUE": {
                    "BACKEND": "queued_storage.queues.threads.ThreadQueue",
                    "OPTIONS": {"poll": POLL},
                }
            },
        )
        program = [sys.executable, "-m", *command, *listen[command[0]]]
        log = tmp_path / "log"
        with log.open("wb") as output:
            home = {"HOME": str(tmp_path)}  # where gunicorn has a socket
            process = spawn(program, env=env | home, stdout=output, stderr=output)
        return Server(process, port, log)

    return start


def state(name: str) -> State | None:
    return ledger().filter(name=name).values_list("state", flat=True).first()


def test_threads_start_in_the_forks_of_gunicorn(serve: Callable[..., Server]) -> None:
    server = serve([*GUNICORN, "tests.support.served:with_threads()"])
    assert state("early.txt") == State.TRANSFERRED
    assert server.save("a.txt") != server.process.pid
    until(lambda: state("a.txt") == State.TRANSFERRED)


UVICORN = ["uvicorn", "--app-dir", str(FILES)]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param([*GUNICORN, DJANGO], "Worker exiting (pid: {pid})", id="gunicorn"),
        pytest.param([*UVICORN, "asgi:application"], "Shutting down", id="uvicorn"),
    ],
)
def test_a_stopped_server_finishes_its_upload(
    command: list[str], words: str, serve: Callable[..., Server], latch: Path
) -> None:
    server = serve(command)
    pid = server.save("a.txt")
    until(lambda: latch.exists() and latch.read_text() == str(pid))
    server.stop(words.format(pid=pid))
    assert server.process.poll() is None
    latch.unlink()
    server.process.wait(30)
    assert state("a.txt") == State.TRANSFERRED


def test_uvicorn_alone_does_not_wait(serve: Callable[..., Server], latch: Path) -> None:
    """So the guide shows how to tell it."""
    server = serve(["uvicorn", "--factory", "django.core.asgi:get_asgi_application"])
    server.save("a.txt")
    until(latch.exists)
    server.process.terminate()
    server.process.wait(30)
    assert state("a.txt") == State.TRANSFERRING
