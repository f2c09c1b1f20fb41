"""What the comparisons need: servers, programs, and django-queued-storage 0.8."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.support.services import S3Server, kill_group, spawn, why_missing

__all__ = ["AncestorMissing", "DelayProxy", "S3Server", "ancestor_python", "bucket", "far"]
__all__ += ["program", "why_missing"]

HERE = Path(__file__).parent
ANCESTOR = HERE.parent / ".venv-ancestor"


@contextlib.contextmanager
def bucket(server: S3Server) -> Iterator[str]:
    """Yield the name of a new bucket."""
    name = f"bench-{uuid.uuid4().hex[:12]}"
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=name)
        yield name
        client.delete_bucket(Bucket=name)  # SeaweedFS also deletes buckets that are not empty


@contextlib.contextmanager
def far(server: S3Server, milliseconds: float) -> Iterator[str]:
    """Yield the URL of the server with additional latency.

    The proxy runs in another process, because the threads of this process may be measured.
    """
    if not milliseconds:
        yield server.endpoint_url
        return
    command = [sys.executable, "-m", "benchmarks.peers", str(server.port), str(milliseconds)]
    process = spawn(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().strip()
    finally:
        kill_group(process)


def program(name: str) -> str | None:
    """Return the path of ``rclone`` or ``s5cmd``, next to this Python or on the PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=places)


class AncestorMissing(RuntimeError):
    """The environment of django-queued-storage 0.8 is missing. The message is the reason."""


def ancestor_python(may_install: bool = True) -> str:
    """Return the Python of an environment with version 0.8. The first call creates it."""
    python = ANCESTOR / "bin" / "python"
    done = ANCESTOR / ".installed"
    if not done.exists() and not may_install:
        raise AncestorMissing("its environment is not there yet, and is made without --quick only")
    if not done.exists():
        command = [_python_310(), "-m", "venv", "--clear", str(ANCESTOR)]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["--requirement", str(HERE / "ancestor-requirements.txt")]
        for step in (command, install):
            try:
                subprocess.run(step, check=True, capture_output=True, text=True, timeout=600)
            except (subprocess.SubprocessError, OSError) as error:
                said = (getattr(error, "stderr", "") or str(error)).strip()
                raise AncestorMissing(f"its environment cannot be made: {said[-200:]}") from error
        done.touch()
    return str(python)


def _python_310() -> str:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in ["python3.10", *map(str, sorted(pyenv.glob("3.10*/bin/python3.10")))]:
        test = [candidate, "-c", "import sys, venv; sys.exit(sys.version_info[:2] != (3, 10))"]
        with contextlib.suppress(OSError):
            # A shim of pyenv may exist although it does not work.
            if subprocess.run(test, capture_output=True).returncode == 0:
                return candidate
    raise AncestorMissing("it needs Python 3.10, which is not here")


class DelayProxy:
    """A proxy that adds ``milliseconds`` to each round trip, half of it each way.

    It also delays each new connection. ``connections`` counts them.
    """

    def __init__(self, port: int, milliseconds: float) -> None:
        self._target = ("127.0.0.1", port)
        self._delay = milliseconds / 2000
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets: set[socket.socket] = set()
        self.connections = 0

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in [self._listener, *self._sockets]:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        time.sleep(2 * self._delay)
        with contextlib.suppress(OSError):
            far = socket.create_connection(self._target)
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.add(one)
                _Stream(one, other, self._delay).start()


class _Stream:
    """One direction of a connection. One thread reads, and another one writes after the delay."""

    def __init__(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        self._source = source
        self._target = target
        self._delay = delay
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()

    def start(self) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        data = b"?"
        while data:
            try:
                data = self._source.recv(256 * 1024)
            except OSError:
                data = b""
            with self._changed:
                self._waiting.append((time.monotonic() + self._delay, data))
                self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                due, data = self._waiting.popleft()
            time.sleep(max(due - time.monotonic(), 0))
            try:
                if not data:
                    self._target.shutdown(socket.SHUT_WR)
                    return
                self._target.sendall(data)
            except OSError:
                return


def main(port: str, milliseconds: str) -> None:
    with DelayProxy(int(port), float(milliseconds)) as proxy:
        print(proxy.endpoint_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
