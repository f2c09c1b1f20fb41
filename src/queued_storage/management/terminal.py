"""The only way in which the command writes: each call is one line, and no value can break it."""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

from django.core.management.base import CommandError, OutputWrapper

from ..reporting.reasons import one_line

CLEAR = "\r\x1b[K"  # a line of a terminal
CLOSED_PIPE = 141  # the exit code of a program that SIGPIPE ends


class Terminal:
    """A stream of the command, which may be a terminal, a pipe or a file.

    File names, aliases, hosts and errors come from anywhere. A control character in them could
    forge lines, or make a terminal do what it is not asked for, so all of them are escaped here.

    If what reads a pipe has ended, as ``head`` does, the process ends without a message.
    """

    def __init__(self, stream: OutputWrapper) -> None:
        self._stream = stream

    def write(
        self, text: str = "", style: Callable[[str], str] | None = None, ending: str | None = None
    ) -> None:
        """Write one line; ``style`` colors it."""
        self._write(_encodable(one_line(text), self._stream), style, ending)

    def write_json(self, value: object, default: Callable[[Any], Any] | None = None) -> None:
        """Write a line of JSON, in ASCII."""
        self._write(json.dumps(value, default=default))

    def draw(self, text: str) -> None:
        """Replace what the current line of a terminal shows, in the usual color: Django's stream of
        errors is red."""
        self._write(CLEAR + _encodable(one_line(text), self._stream), str, ending="")
        self.flush()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._end()

    def _write(
        self, text: str, style: Callable[[str], str] | None = None, ending: str | None = None
    ) -> None:
        try:
            self._stream.write(text, style, ending)
        except BrokenPipeError:
            self._end()

    def _end(self) -> NoReturn:
        with suppress(OSError):  # it is not a file
            # Python would complain if it could not write the rest when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        raise SystemExit(CLOSED_PIPE) from None

    def isatty(self) -> bool:
        """Whether it is a terminal on which a line can be replaced."""
        return bool(self._stream.isatty()) and os.environ.get("TERM") != "dumb"


class Lines(str):
    """Lines without control characters, which an error consists of."""

    __slots__ = ()

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Lines":
        return cls("\n".join(map(one_line, lines)))


def printable(error: CommandError) -> CommandError:
    """Return an error that can be printed as it is; Django does not use the streams of a verb."""
    [text] = error.args or ("",)
    safe = text if isinstance(text, Lines) else one_line(str(text))
    return CommandError(safe, returncode=error.returncode)


def _encodable(text: str, stream: OutputWrapper) -> str:
    """Escape what the stream cannot encode, instead of failing halfway."""
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)
