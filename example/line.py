"""The connection between the site and the S3 server: a TCP proxy that can be slow or closed."""

import contextlib
import socket
import socketserver
import threading
import time

BYTES_PER_SECOND = 500 * 1024  # of a slow line, for all connections together
CHUNK = 16 * 1024


class Line:
    """Forward connections on ``port`` to ``target`` while it is open, and refuse them otherwise."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.slow = False
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._listener: _Listener | None = None

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    def open(self) -> None:
        if self._listener is None:
            self._listener = _Listener(self)
            threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse new connections. Existing ones end with the server."""
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None

    def forward(self, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if up and self.slow:
                    self._wait_for_room(len(data))
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _wait_for_room(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / BYTES_PER_SECOND
            pause = self._free_at - now
        time.sleep(pause)


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, line: Line) -> None:
        self.line = line
        super().__init__(("127.0.0.1", line.port), _Connection)

    def server_bind(self) -> None:
        # Small buffers and packets, as on a real connection. Otherwise the loopback interface
        # accepts megabytes at once, and a client considers them sent.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        with contextlib.suppress(OSError, AttributeError):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        super().server_bind()


class _Connection(socketserver.BaseRequestHandler):
    server: _Listener

    def handle(self) -> None:
        line = self.server.line
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", line.target), timeout=5) as server,
        ):
            server.settimeout(None)
            up = threading.Thread(
                target=line.forward, args=(self.request, server), kwargs={"up": True}, daemon=True
            )
            up.start()
            line.forward(server, self.request, up=False)
            up.join()
