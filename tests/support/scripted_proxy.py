"""A proxy in front of the S3 server that answers some requests itself, as a script says."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tests.support.lying_proxy import Handler, LyingProxy
from tests.support.services import S3Server


class Request(NamedTuple):
    at: datetime
    method: str
    path: str  # "/bucket/key", with the query

    @property
    def key(self) -> str:
        """The object; "" if the request is about the bucket."""
        return unquote(urlsplit(self.path).path).partition("/")[2].partition("/")[2]


class Answer(NamedTuple):
    """An error of S3, or of something in front of it that gives no code."""

    status: int
    code: str = ""
    headers: Mapping[str, str] = {}


NEVER = Answer(0)  # the request is read and not answered until the script changes
Script = Callable[[Request], Answer | None]


class ScriptedProxy(LyingProxy):
    """A context manager that forwards the requests for which the script returns None.

    `log` lists all requests in the order in which they came.
    """

    def __init__(self, server: S3Server) -> None:
        super().__init__(server)
        self.log: list[Request] = []
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._script: Script | None = None

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _ScriptedHandler

    def follow(self, script: Script | None) -> None:
        """Answer so from now on; None forwards everything."""
        with self._lock:
            self._script = script
            self._changed.set()
            self._changed = threading.Event()

    def fail(self, status: int, code: str = "", **headers: str) -> None:
        """Answer every request with this error."""
        answer = Answer(status, code, {key.replace("_", "-"): headers[key] for key in headers})
        self.follow(lambda request: answer)

    def __exit__(self, *exc_info: object) -> None:
        self.follow(None)
        super().__exit__(*exc_info)

    def receive(self, method: str, path: str) -> tuple[Answer | None, threading.Event]:
        """Return the answer of the script, and what happens when the script changes."""
        with self._lock:
            request = Request(datetime.now(UTC), method, path)
            self.log.append(request)
            return self._script and self._script(request), self._changed


class _ScriptedHandler(Handler):
    @property
    def proxy(self) -> ScriptedProxy:
        return self.server.proxy  # type: ignore[attr-defined, no-any-return]

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client has given up
            super().handle()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer, changed = self.proxy.receive(self.command, self.path)
        if answer is None:
            self.forward(body)
        elif answer is NEVER:
            changed.wait()
            self.close_connection = True
        else:
            code = answer.code
            text = f"<Error><Code>{code}</Code><Message>The words of {code}</Message></Error>"
            self.answer(answer.status, dict(answer.headers), text.encode() if code else b"")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET
