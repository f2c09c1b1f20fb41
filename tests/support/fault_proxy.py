"""A TCP proxy in front of an HTTP server that simulates faults."""

import asyncio
import enum
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from typing import Any, Self

CHUNK = 16 * 1024
METHODS = (b"DELETE ", b"GET ", b"HEAD ", b"POST ", b"PUT ")


class Mode(enum.StrEnum):
    OK = "ok"
    REFUSE = "refuse"  # the port is closed; open connections are cut
    HANG = "hang"  # connections are accepted but not forwarded; they are cut when the mode ends
    RESET_MID_BODY = "reset_mid_body"  # cut after `stops_after` bytes of bodies, either way; what
    # the other end has not read by then is lost
    HANG_MID_BODY = "hang_mid_body"  # not forwarded after as many bytes; cut when the mode ends
    LOSE_ANSWER = "lose_answer"  # the server handles the request; the client gets no response
    STATUS_500 = "status_500"
    STATUS_503 = "status_503"
    SLOW = "slow"  # each chunk of at most 16 KiB is delayed by `delay` seconds, either way


HANGING = {Mode.HANG, Mode.HANG_MID_BODY}
STATUS = {Mode.STATUS_500: b"500 Internal Server Error", Mode.STATUS_503: b"503 Slow Down"}


class Cut(Exception):
    """Raised to reset the connection."""


class FaultProxy:
    """A context manager whose `mode` can be set at any time, also during requests.

    `requests` lists all requests, such as "PUT /bucket/key", including those that failed.
    `accepted` counts all connections, also while the server is switched off.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay = 0.05
        self.stops_after = 1
        self.requests: list[str] = []
        self.accepted = 0
        self._mode = Mode.OK
        self._bodies = 0  # bytes of bodies forwarded since the mode was set
        self._connections: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fault-proxy", daemon=True
        )

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        self._call(self._set_mode(Mode(mode)))

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _round in range(2):  # a connection may have been accepted in between
            self._call(self._set_mode(Mode.REFUSE))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    # All methods below run in the proxy's own thread.

    async def _set_mode(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        self._bodies = 0
        if mode is Mode.REFUSE and self._server:
            self._server.close()
            self._server = None
        if mode is Mode.REFUSE or (before in HANGING and mode is not before):
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await asyncio.sleep(0)  # their callbacks close them
        if mode is not Mode.REFUSE and not self._server:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # A task that is cancelled before its first step does not close its connection.
        task.add_done_callback(lambda _task: writer.close())

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        ends, pumps = [writer], []
        try:
            await self._pause()
            server_reader, server_writer = await self._connected()
            ends.append(server_writer)
            pumps.append(asyncio.create_task(self._carry_requests(reader, server_writer, writer)))
            pumps.append(asyncio.create_task(self._carry_answers(server_reader, writer)))
            ended, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in ended:
                pump.result()
        except (Cut, OSError, asyncio.CancelledError):
            for end in ends:
                reset(end)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                end.close()

    async def _connected(self) -> tuple[StreamReader, StreamWriter]:
        """Connect to the server. If this is cancelled, close the connection."""
        connecting = asyncio.create_task(asyncio.open_connection("127.0.0.1", self.target_port))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            _reader, writer = await connecting
            writer.close()
            raise

    async def _carry_requests(
        self, reader: StreamReader, server: StreamWriter, client: StreamWriter
    ) -> None:
        while chunk := await reader.read(CHUNK):
            begins = chunk.startswith(METHODS)
            if begins:
                self.requests.append(b" ".join(chunk.split(None, 2)[:2]).decode())
            if begins and self._mode in STATUS:
                client.write(
                    b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    % STATUS[self._mode]
                )
                client.write_eof()
                while await reader.read(CHUNK):
                    pass  # otherwise the client gets a reset instead of the response
                return
            await self._carry(chunk, begins, server)

    async def _carry_answers(self, reader: StreamReader, client: StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            begins = chunk.startswith(b"HTTP/")
            if self._mode is Mode.LOSE_ANSWER and not chunk.startswith(b"HTTP/1.1 100"):
                raise Cut
            await self._carry(chunk, begins, client)

    async def _carry(self, chunk: bytes, begins: bool, to: StreamWriter) -> None:
        await self._pause()
        body = len(chunk.partition(b"\r\n\r\n")[2] if begins else chunk)
        left = max(0, self.stops_after - self._bodies)
        self._bodies += body
        ends = self._mode in {Mode.RESET_MID_BODY, Mode.HANG_MID_BODY} and body > left
        to.write(chunk[: len(chunk) - body + left] if ends else chunk)
        await to.drain()
        if ends and self._mode is Mode.HANG_MID_BODY:
            await asyncio.Event().wait()  # until the connection is cut
        if ends:
            raise Cut

    async def _pause(self) -> None:
        if self._mode is Mode.HANG:
            await asyncio.Event().wait()  # until the connection is cut
        if self._mode is Mode.SLOW:
            await asyncio.sleep(self.delay)


def reset(writer: StreamWriter) -> None:
    """Close with a TCP reset, so that the other end does not consider the data complete."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
