"""The progress of a long pass: a bar on a terminal, otherwise a line now and then."""

import shutil
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..operations.passes import Step
from ..reporting.counts import counted
from .quantities import format_duration, format_size
from .terminal import Terminal

BAR_EVERY = 0.1  # seconds between two updates of the bar
LINE_EVERY = 10.0  # seconds between two lines
BAR_WIDTH = 24


class Progress:
    """Is called with each step of a pass, and shows how far the pass is.

    The remaining time is estimated from bytes if ``by_bytes``, otherwise from files. Errors are
    printed immediately, one per line. ``files`` is 0 if the total isn't known.
    """

    def __init__(
        self,
        out: Terminal,
        errors: Terminal,
        files: int,
        bytes: int = 0,
        *,
        by_bytes: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = self.bytes = 0  # processed
        self.failed = 0  # files
        self.bytes_done = 0  # of the files that did not fail
        self._out = out
        self._errors = errors
        self._all_files = files
        self._all_bytes = bytes
        self._by_bytes = by_bytes and bytes > 0
        self._clock = clock
        self._started = self._drawn_at = clock()
        self._is_terminal = out.isatty()

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
            self._errors.write(f"{step.name}: {step.error}")
        now = self._clock()
        if now - self._drawn_at >= (BAR_EVERY if self._is_terminal else LINE_EVERY):
            self._drawn_at = now
            self._draw()

    def text(self) -> str:
        """The progress in words."""
        seconds = max(self._clock() - self._started, 0.001)
        if self._all_files:
            of_all = counted(self._all_files, "{} file", "{} files")
            parts = [f"{self.files:,} of {of_all}"]
        else:
            parts = [counted(self.files, "{} file", "{} files")]
        if self._all_bytes:
            parts.append(format_size(self.bytes))
        parts.append(f"{self.files / seconds:,.0f} files/s")
        if self._by_bytes:
            parts.append(f"{format_size(round(self.bytes / seconds))}/s")
        if share := self._share():
            parts.append(f"{format_duration(seconds / share - seconds)} left")
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
        self._out.draw(line[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """Remove the bar, so that a line can be printed in its place."""
        if self._is_terminal:
            self._out.draw("")
