"""What the comparisons need: servers, programs, and django-queued-storage 0.8."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

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

    It also delays each new connection. ``connections`` counts them. One thread does all the work:
    several would wait for each other, and use more of the processors, which others need meanwhile.
    """

    def __init__(self, port: int, milliseconds: float) -> None:
        self.port = port
        self.delay = milliseconds / 2000
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self.open: set[asyncio.Transport] = set()
        self.buffer = memoryview(bytearray(256 * 1024))  # of all, each copies what it received
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._is_over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await self.loop.create_server(lambda: _Near(self), sock=self._listener)
        await self._is_over.wait()
        server.close()
        for transport in self.open:
            transport.abort()


class _Side(asyncio.BufferedProtocol):
    """One side of a connection. What it receives is sent to the other side after the delay.

    One timer is enough, because what came first is due first.
    """

    transport: asyncio.Transport
    other: "_Side"

    def __init__(self, proxy: DelayProxy) -> None:
        self._proxy = proxy
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._is_timed = False
        self.is_open = False
        self.has_ended = False  # it will receive nothing more
        self.is_told = False  # it will be sent nothing more

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_open = True
        self._proxy.open.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.open.discard(self.transport)
        self.eof_received()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._proxy.buffer

    def buffer_updated(self, length: int) -> None:
        self._keep(bytes(self._proxy.buffer[:length]))

    def _keep(self, data: bytes) -> None:
        self._waiting.append((self._proxy.loop.time() + self._proxy.delay, data))
        self.arrange()

    def eof_received(self) -> bool:
        if not self.has_ended:
            self.has_ended = True
            self._keep(b"")
        return True  # the other direction stays open

    def arrange(self) -> None:
        """Have what waits sent when it is due, and when the other side is connected."""
        if self._waiting and self.other.is_open and not self._is_timed:
            self._is_timed = True
            self._proxy.loop.call_at(self._waiting[0][0], self._send)

    def _send(self) -> None:
        self._is_timed = False
        now = self._proxy.loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _due, data = self._waiting.popleft()
            if data:
                self.other.transport.write(data)
            else:
                self.other.tell()
                if self.is_told:
                    self.transport.close()
        self.arrange()

    def tell(self) -> None:
        self.is_told = True
        if self.has_ended:
            self.transport.close()
        else:
            self.transport.write_eof()


class _Near(_Side):
    """The side of the client. It connects to the server after the delay of a round trip."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.pause_reading()  # a client sends nothing until it is connected
        self._proxy.connections += 1
        self.other = _Side(self._proxy)
        self.other.other = self
        self._reaching = self._proxy.loop.create_task(self._reach())

    async def _reach(self) -> None:
        await asyncio.sleep(2 * self._proxy.delay)
        try:
            await self._proxy.loop.create_connection(
                lambda: self.other, "127.0.0.1", self._proxy.port
            )
        except OSError:
            self.transport.close()
        else:
            self.transport.resume_reading()


def main(port: str, milliseconds: str) -> None:
    with DelayProxy(int(port), float(milliseconds)) as proxy:
        print(proxy.endpoint_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
