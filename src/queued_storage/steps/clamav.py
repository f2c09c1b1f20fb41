"""A step that has ClamAV scan files: ``queued_storage.steps.clamav.ClamAV``."""

import re
import socket
import struct
from collections.abc import Iterable
from typing import Literal

from django.core.exceptions import ImproperlyConfigured

from . import LATER, PASS, REJECT, Outcome, Step, StepFile

ADDRESS = "unix:/run/clamav/clamd.ctl"  # of Debian's package
MAX_BYTES = 100 * 1024 * 1024  # the default of clamd's StreamMaxLength
PIECE = 256 * 1024  # bytes
DOWN_DELAY = 60.0  # seconds until a scanner that is down is tried again
ANSWER_MAX = 4096  # bytes
_FOUND = re.compile(r"stream: (?P<name>.+) FOUND", re.DOTALL)


class ScannerDown(OSError):
    """The scanner cannot be reached, or does not respond."""


class CannotBeScanned(Exception):
    """The scanner works, but not with this file."""


class ClamAV(Step):
    """Reject files in which clamd finds something.

    ``address`` is ``"unix:/path/of/the.socket"`` or ``"host:port"``. ``max_bytes`` is the
    ``StreamMaxLength`` of clamd: a larger file cannot be scanned.

    ``if_down`` says what to do while the scanner cannot be reached: ``"later"`` waits for it, and
    ``"fail"`` lets the step fail, so that ``ON_STEP_ERROR`` counts in the end. ``if_unscannable``
    says what becomes of a file that the scanner cannot scan: ``"reject"``, ``"fail"`` or
    ``"pass"``.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        timeout: float = 60,
        max_bytes: int = MAX_BYTES,
        if_down: Literal["later", "fail"] = "later",
        if_unscannable: Literal["reject", "fail", "pass"] = "reject",
    ) -> None:
        if if_down not in ("later", "fail"):
            raise ImproperlyConfigured(f"if_down must be 'later' or 'fail', not {if_down!r}.")
        if if_unscannable not in ("reject", "fail", "pass"):
            raise ImproperlyConfigured(
                f"if_unscannable must be 'reject', 'fail' or 'pass', not {if_unscannable!r}."
            )
        self._clamd = Clamd(address, timeout)
        self._max_bytes = max_bytes
        self._if_down = if_down
        self._if_unscannable = if_unscannable

    def run(self, file: StepFile) -> Outcome:
        try:
            if file.size > self._max_bytes:
                raise CannotBeScanned(
                    f"It has {file.size:,} bytes, and the scanner takes {self._max_bytes:,}."
                )
            found = self._clamd.scan(file.chunks())
        except ScannerDown:
            if self._if_down == "fail":
                raise
            return LATER(DOWN_DELAY)
        except CannotBeScanned as error:
            if self._if_unscannable == "fail":
                raise
            is_passed = self._if_unscannable == "pass"
            return PASS if is_passed else REJECT(f"The file cannot be scanned. {error}")
        return REJECT(f"The scanner found {found}.") if found else PASS


class Clamd:
    """A client of clamd."""

    def __init__(self, address: str, timeout: float) -> None:
        self._address = _parsed(address)
        self._timeout = timeout

    def scan(self, pieces: Iterable[bytes]) -> str:
        """Return the name of what the scanner found in these bytes; "" if it found nothing."""
        with self._connected() as connection:
            answer = self._asked(connection, pieces)
        if answer == "stream: OK":
            return ""
        if found := _FOUND.fullmatch(answer):
            return found["name"]
        if not answer:
            raise ScannerDown("The scanner closed the connection without a response.")
        raise CannotBeScanned(f"The scanner says: {answer}.")

    def _connected(self) -> socket.socket:
        address = self._address
        try:
            if isinstance(address, tuple):
                return socket.create_connection(address, self._timeout)
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(self._timeout)
                connection.connect(address)
            except BaseException:
                connection.close()
                raise
            return connection
        except OSError as error:
            raise ScannerDown(f"The scanner cannot be reached: {error}.") from error

    @staticmethod
    def _asked(connection: socket.socket, pieces: Iterable[bytes]) -> str:
        """Send the bytes and return the answer.

        The scanner answers early, and stops to read, if a file is too large for it.
        """
        refused: OSError | None = None
        for data in _framed(pieces):
            try:
                connection.sendall(data)
            except OSError as error:
                refused = error
                break
        try:
            answer = _received(connection)
        except OSError as error:
            raise ScannerDown(f"The scanner does not respond: {error}.") from error
        if refused and not answer:
            raise ScannerDown(f"The scanner does not respond: {refused}.") from refused
        return answer


def _framed(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Yield the bytes as clamd wants them; what fails here is no fault of the scanner."""
    yield b"zINSTREAM\0"
    for piece in pieces:
        for start in range(0, len(piece), PIECE):
            part = piece[start : start + PIECE]
            yield struct.pack("!L", len(part)) + part
    yield struct.pack("!L", 0)


def _received(connection: socket.socket) -> str:
    answer = b""
    while not answer.endswith(b"\0") and len(answer) < ANSWER_MAX:
        if not (data := connection.recv(ANSWER_MAX)):
            break
        answer += data
    return answer.rstrip(b"\0").decode(errors="replace").strip()


def _parsed(address: str) -> str | tuple[str, int]:
    if address.startswith("unix:/"):
        return address.removeprefix("unix:")
    host, _colon, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise ImproperlyConfigured(
            f"The address of clamd must be 'unix:/path' or 'host:port', not {address!r}."
        )
    return host.strip("[]"), int(port)
