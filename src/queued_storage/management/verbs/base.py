"""The base classes of the verbs."""

import signal
import sys
import threading
from abc import ABC, abstractmethod
from argparse import ArgumentParser
from typing import IO, Any, ClassVar

from django.core.management.base import CommandError
from django.core.management.color import Style
from django.db import DatabaseError

from ...ledger import schema
from ...ledger.database import QueuedFileQuerySet
from ..progress import Progress
from ..terminal import Terminal
from .selection import total


class Verb(ABC):
    """One verb: its options, and what it does."""

    # Must be set

    name: ClassVar[str]
    help: ClassVar[str]

    # May be overridden

    needs_ledger: ClassVar[bool] = True

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the verb's own arguments."""

    # Must be implemented

    @abstractmethod
    def run(self, options: dict[str, Any]) -> None:
        """Do it; raise ``CommandError`` for a problem."""

    # Is used by the command

    def __init__(self, stdout: Terminal, stderr: Terminal, style: Style) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.style = style

    def execute(self, options: dict[str, Any]) -> None:
        self.run(options)

    def require_yes(self, options: dict[str, Any], warning: str) -> None:
        """Ask on a terminal whether to do what cannot be undone; elsewhere require ``--yes``."""
        if options["yes"] or options["dry_run"]:
            return
        if not _is_terminal(sys.stdin):
            raise CommandError(
                f"{warning} Nothing was done. Add --yes to confirm it, or --dry-run to see what "
                f"would be done.",
                returncode=2,
            )
        self.stderr.write(f"{warning} Continue? [y/N] ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise CommandError("Nothing was done.", returncode=1)


class RepeatableVerb(Verb):
    """A verb that processes many files, and that you can interrupt and run again."""

    def execute(self, options: dict[str, Any]) -> None:
        """Run it; SIGTERM and Ctrl-C let it clean up, and end it with exit code 130."""
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _interrupt) if is_main else None
        try:
            self.run(options)
        except KeyboardInterrupt:
            raise CommandError(
                "Stopped. Run the same command again to continue.", returncode=130
            ) from None
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def progress(self, rows: QueuedFileQuerySet, *, by_bytes: bool = False) -> Progress:
        files, count = total(rows)
        return Progress(self.stderr, self.stderr, files, count, by_bytes=by_bytes)


def require_ledger() -> None:
    """Explain what to do if the app's migrations haven't been run."""
    try:
        problem = schema.problem()
    except DatabaseError:  # unreachable: a worker waits for it, and other verbs report it
        return
    if problem:
        raise CommandError(problem, returncode=1)


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
