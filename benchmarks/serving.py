"""How many files per second the package's view serves, compared with Django's, and with nginx."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support import nginx
from tests.support.services import free_ports, is_free, kill_group, spawn
from tests.support.waiting import until

from .peers import why_missing
from .project import configure, databases
from .rows import Options, Row, by_turns
from .site import settings_of, storage_of

FILES = 50
CONNECTIONS = 4  # that the client keeps open
SIZES = {"10 KB": 10_000, "1 MB": 1_000_000}
# Of ten requests
MIX = ("whole", "range", "whole", "fresh", "whole", "whole", "range", "whole", "fresh", "whole")
REQUESTS = 400  # of each turn, for 10 KB
ROUNDS = 15
SERVER = """
upstream site {{
    server 127.0.0.1:{site};
    keepalive 8;
}}
server {{
    listen 127.0.0.1:{port};
    sendfile on;
    location / {{
        proxy_pass http://site;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
    }}
    location /protected/ {{
        internal;
        alias {files}/;
        add_header X-Content-Type-Options nosniff;
        add_header Content-Security-Policy "default-src 'none'; sandbox";
    }}
    location /direct/ {{
        alias {files}/;
    }}
}}
"""
Sides = Mapping[str, tuple[int, str]]  # the port and the path of each


def rows(options: Options) -> Iterator[Row]:
    missing = "" if find_spec("gunicorn") else "gunicorn is not installed"
    place = options.directory
    spec = {"directory": str(place), "sendfile": False}
    configure(place, **settings_of(spec))
    with databases():
        storage = storage_of(spec)
        _save(storage)
        url = storage.url("x").removesuffix("x")
        yield from _by_django(options, spec, url, missing)
        yield from _by_nginx(options, spec, url, missing or why_missing("nginx") or "")


def _save(storage: Any) -> None:
    from django.core.files.base import ContentFile

    for size in SIZES.values():
        for number in range(FILES):
            storage.save(f"{size}/{number}.png", ContentFile(os.urandom(size)))


def _by_django(options: Options, spec: dict[str, Any], url: str, missing: str) -> Iterator[Row]:
    found: dict[str, dict[str, float]] = {}
    if not missing:
        with _site(spec) as port:
            found = _measured(options, {"package": (port, url), "serve": (port, "/media/")})
    yield _row("django", "compared with Django's serve()", 1.0, "package", "serve", found, missing)


def _by_nginx(options: Options, spec: dict[str, Any], url: str, missing: str) -> Iterator[Row]:
    found: dict[str, dict[str, float]] = {}
    if not missing:
        with _site(spec | {"sendfile": True}) as site, _nginx(spec, site) as port:
            sides = {
                "package": (port, url),
                "nginx alone": (port, "/direct/"),
                "a view without the package": (port, "/bare/"),
            }
            found = _measured(options, sides)
    what = "with SENDFILE behind nginx, compared with nginx alone"
    yield _row("nginx", what, 0.5, "package", "nginx alone", found, missing)


def _row(
    key: str,
    what: str,
    goal: float,
    ours: str,
    theirs: str,
    found: dict[str, dict[str, float]],
    reason: str,
) -> Row:
    few = found.get("10 KB", {})
    return Row(
        key=f"serving.{key}",
        what=f"files of 10 KB served at stable URLs, {what}",
        goal=goal,
        is_at_most=False,
        ratio=round(few[ours] / few[theirs], 2) if few else None,
        details={"mix": "of ten requests, two for a range, and two with If-Modified-Since"}
        | {f"requests/s, {size}": rates for size, rates in found.items()},
        reason=reason,
    )


@contextlib.contextmanager
def _site(spec: dict[str, Any]) -> Iterator[int]:
    """Run the site in one process with several threads."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    command += ["--worker-class", "gthread", "--workers", "1", "--threads", str(CONNECTIONS)]
    command += ["--keep-alive", "60", "--log-level", "error", "benchmarks.site:application"]
    process = spawn(command, env={**os.environ, "BENCH_SITE": json.dumps(spec)})
    try:
        until(lambda: not is_free(port) or process.poll() is not None)
        yield port
    finally:
        kill_group(process)


@contextlib.contextmanager
def _nginx(spec: dict[str, Any], site: int) -> Iterator[int]:
    started: list[subprocess.Popen[Any]] = []

    def start(command: list[str]) -> subprocess.Popen[Any]:
        started.append(spawn(command))
        return started[-1]

    def server(port: int) -> str:
        return SERVER.format(site=site, port=port, files=Path(spec["directory"]) / "files")

    with tempfile.TemporaryDirectory(prefix="nginx-") as place:
        try:
            yield nginx.start(Path(place), start, server)
        finally:
            for process in started:
                kill_group(process)


def _measured(options: Options, sides: Sides) -> dict[str, dict[str, float]]:
    """Return the requests per second of each side, by the size of the files."""
    found = {}
    for label, size in SIZES.items():
        requests = 40 if options.quick else REQUESTS if size == min(SIZES.values()) else 100
        turns: dict[str, Callable[[int], object]] = {
            name: partial(_Load(port, f"{path}{size}/").run, requests)
            for name, (port, path) in sides.items()
        }
        by_turns(turns, 2)  # warm up
        seconds = by_turns(turns, options.rounds(ROUNDS))
        found[label] = {name: round(requests / each, 1) for name, each in seconds.items()}
    return found


class _Load:
    """A client with several connections. It asks for the files in turns, in several ways."""

    def __init__(self, port: int, directory: str) -> None:
        self._address = ("127.0.0.1", port)
        self._directory = directory
        with _Connection(self._address) as connection:
            changed = [self._changed(connection, number) for number in range(FILES)]
        whole = [""] * FILES
        self._more = {
            "whole": (whole, (200,)),
            # Django's view sends all
            "range": (["Range: bytes=1000-1999\r\n"] * FILES, (200, 206)),
            "fresh": ([f"If-Modified-Since: {moment}\r\n" for moment in changed], (304,)),
        }

    def _changed(self, connection: "_Connection", number: int) -> str:
        """Return when the file was changed, as the server says it."""
        status, head = connection.ask(self._request(number, ""))
        assert status == 200, (self._directory, head)
        changed = head.partition(b"Last-Modified: ")[2].partition(b"\r")[0].decode()
        assert changed, head
        return changed

    def _request(self, number: int, more: str) -> bytes:
        path = f"{self._directory}{number % FILES}.png"
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()

    def run(self, requests: int, _number: int = 0) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._work, [requests // CONNECTIONS] * CONNECTIONS))

    def _work(self, requests: int) -> None:
        with _Connection(self._address) as connection:
            for number in range(requests):
                more, expected = self._more[MIX[number % len(MIX)]]
                status, head = connection.ask(self._request(number, more[number % FILES]))
                assert status in expected, (status, head)


class _Connection:
    """A connection that stays open, with as little work for the client as possible."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=30)
        self._buffer = bytearray(1 << 20)

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the header of the response, whose body is discarded."""
        self._socket.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = self._socket.recv(65_536)
            assert more, "The connection is closed."
            data += more
        head = data[:end]
        status = int(head[9:12])
        if status != 304:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            left = length - (len(data) - end - 4)
            while left > 0:
                received = self._socket.recv_into(self._buffer)
                assert received, "The connection is closed."
                left -= received
        return status, head
