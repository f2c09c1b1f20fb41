"""A proxy in front of the S3 server that refuses requests, as other servers do."""

from http.server import BaseHTTPRequestHandler

from tests.support.lying_proxy import Handler, LyingProxy
from tests.support.services import S3Server

CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")


class StrictProxy(LyingProxy):
    """A context manager that refuses requests with certain headers, or to certain methods.

    `headers` are the beginnings of the headers, and `methods` the methods, that are refused, each
    with `status` and `code`. `refused` lists the method and path of refused requests.
    """

    def __init__(
        self, server: S3Server, *headers: str, status: int = 400, code: str = "InvalidArgument"
    ) -> None:
        super().__init__(server)
        self.headers = headers
        self.methods: set[str] = set()
        self.status = status
        self.code = code
        self.refused: list[tuple[str, str]] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _StrictHandler


class _StrictHandler(Handler):
    @property
    def proxy(self) -> StrictProxy:
        return self.server.proxy  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._is_refused():
            self.forward(body)
            return
        self.proxy.refused.append((self.command, self.path))
        code = self.proxy.code
        text = f"<Error><Code>{code}</Code><Message>The words of {code}</Message></Error>"
        self.answer(self.proxy.status, {}, text.encode())

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _is_refused(self) -> bool:
        given = (name.lower() for name in self.headers)
        has_header = self.proxy.headers and any(map(_starts_with(self.proxy.headers), given))
        return bool(has_header) or self.command in self.proxy.methods


def _starts_with(beginnings: tuple[str, ...]):  # type: ignore[no-untyped-def]
    return lambda name: name.startswith(beginnings)
