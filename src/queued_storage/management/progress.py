"""Shows how far a long pass has come: a bar on a terminal, a plain line now and then elsewhere."""

import shutil
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from django.template.defaultfilters import filesizeformat

from ..operations.passes import Step
from ..reporting.reasons import one_line

BAR_EVERY = 0.1  # seconds between two drawings
LINE_EVERY = 10.0
BAR_WIDTH = 24


def size(count: int) -> str:
    return filesizeformat(count).replace("\xa0", " ")


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Is told of each step; the time left goes by bytes where those take the time, else by files.

    Errors are printed at once, each on a line of its own.
    """

    def __init__(
        self,
        out: Any,
        errors: Any,
        files: int,
        bytes: int = 0,
        *,
        by_bytes: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = self.bytes = 0  # gone through
        self.failed = 0  # files
        self.bytes_done = 0  # of those that did not fail
        self._out = out
        self._errors = errors
        self._all_files = files
        self._all_bytes = bytes
        self._by_bytes = by_bytes and bytes > 0
        self._clock = clock
        self._started = self._drawn_at = clock()
        self._is_terminal = bool(out.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def __call__(self, step: Step) -> None:
        self.files += step.files
        self.bytes += step.bytes
        if not step.error:
            self.bytes_done += step.bytes
        else:
            self.failed += step.files
            self.clear()
            self._errors.write(f"{one_line(step.name)}: {step.error}")
        now = self._clock()
        if now - self._drawn_at >= (BAR_EVERY if self._is_terminal else LINE_EVERY):
            self._drawn_at = now
            self._draw()

    def text(self) -> str:
        """Where it is, in words."""
        seconds = max(self._clock() - self._started, 0.001)
        of_all = f" of {self._all_files}" if self._all_files else ""  # not counted beforehand
        parts = [f"{self.files}{of_all} files"]
        if self._all_bytes:
            parts.append(size(self.bytes))
        parts.append(f"{self.files / seconds:.0f} files/s")
        if self._by_bytes:
            parts.append(f"{size(round(self.bytes / seconds))}/s")
        if share := self._share():
            parts.append(f"{duration(seconds / share - seconds)} left")
        return ", ".join(parts)

    def _share(self) -> float:
        done, of = (
            (self.bytes, self._all_bytes) if self._by_bytes else (self.files, self._all_files)
        )
        return min(done / of, 1) if of else 0

    def _draw(self) -> None:
        if not self._is_terminal:
            self._out.write(self.text())
            return
        line = self.text()
        if self._all_files:
            full = round(self._share() * BAR_WIDTH)
            line = f"[{'#' * full}{'.' * (BAR_WIDTH - full)}] {line}"
        line = line[: shutil.get_terminal_size().columns - 1]
        self._out.write(f"\r\x1b[K{line}", ending="")
        self._out.flush()

    def clear(self) -> None:
        """Make room for a line of somebody else's."""
        if self._is_terminal:
            self._out.write("\r\x1b[K", ending="")
            self._out.flush()
