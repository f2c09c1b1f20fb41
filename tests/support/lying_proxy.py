"""A proxy in front of the S3 server whose responses are wrong."""

import contextlib
import enum
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.services import S3Server

HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}
CHECKSUM = "x-amz-checksum-crc32"
EMPTY_ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'


class Lie(enum.StrEnum):
    """The effect of a PUT, although the response is 200."""

    LOSE = "lose"  # nothing is stored
    TRUNCATE = "truncate"  # only the first half is stored
    FLIP = "flip"  # one bit is changed
    FLIP_AND_ECHO = "flip_and_echo"  # the same, and the client's checksum is returned
    FLIP_AND_FORGET = "flip_and_forget"  # the same, and no checksum is returned
    MISPLACE = "misplace"  # the object is stored under another name
    HIDE = "hide"  # the object is stored, but HEAD and GET do not find it yet
    GARBLE = "garble"  # one bit is changed on the way; the response is the server's own


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


class LyingProxy:
    """A context manager that forwards requests unchanged while `lie` is None."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.lie: Lie | None = None
        self.requests: list[tuple[str, str]] = []  # method and path
        self.told: dict[str, str] = {}  # the client's checksum of each path
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self._listener.proxy = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.02,), daemon=True
        )

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return Handler

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()

    def store(self, path: str, body: bytes) -> None:
        """Store other content. The server computes its checksum."""
        _, bucket, key = path.split("/", 2)
        client: Any = self.server.client()
        client.put_object(Bucket=bucket, Key=key, Body=body, ChecksumAlgorithm="CRC32")
        client.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # otherwise boto3 waits for a "100 Continue"

    def log_message(self, *args: Any) -> None:
        pass

    def parse_request(self) -> bool:
        is_good = super().parse_request()
        if is_good:
            self.proxy.requests.append((self.command, self.path))
        return is_good

    @property
    def proxy(self) -> LyingProxy:
        return self.server.proxy  # type: ignore[attr-defined, no-any-return]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.proxy.told[self.path] = self.headers.get(CHECKSUM, "")
        match self.proxy.lie:
            case None | Lie.HIDE:
                return self.forward(body)
            case Lie.GARBLE:
                return self.forward(flipped(body))
            case Lie.TRUNCATE:
                self.proxy.store(self.path, body[: len(body) // 2])
            case Lie.MISPLACE:
                self.proxy.store(f"{self.path}.misplaced", body)
            case Lie.FLIP | Lie.FLIP_AND_ECHO | Lie.FLIP_AND_FORGET:
                self.proxy.store(self.path, flipped(body))
        self.answer(200, {"ETag": EMPTY_ETAG}, b"")

    def do_GET(self) -> None:
        if self.proxy.lie == Lie.HIDE:
            return self.answer(404, {}, b"")
        self.forward(b"")

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.forward(b"")

    def forward(self, body: bytes) -> None:
        headers = {key: self.headers[key] for key in self.headers if key.lower() not in HOP_BY_HOP}
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.server.port, timeout=10)
        with contextlib.closing(connection) as server:
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            data = answer.read()
        found = {key: value for key, value in answer.getheaders() if key.lower() not in HOP_BY_HOP}
        self.answer(answer.status, self.falsified(found), data)

    def falsified(self, headers: dict[str, str]) -> dict[str, str]:
        lie, told = self.proxy.lie, self.proxy.told.get(self.path)
        if lie not in {Lie.FLIP_AND_ECHO, Lie.FLIP_AND_FORGET}:
            return headers
        kept = {key: headers[key] for key in headers if "checksum" not in key.lower()}
        if lie == Lie.FLIP_AND_ECHO and told:
            kept |= {CHECKSUM: told, "x-amz-checksum-type": "FULL_OBJECT"}
        return kept

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
