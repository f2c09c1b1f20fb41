"""What a verb is, and how the files are chosen that it is for."""

import argparse
import re
import signal
import threading
from abc import ABC, abstractmethod
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

from django.core.management.base import CommandError, OutputWrapper
from django.db.models import Count, Sum
from django.utils import timezone

from ...ledger.aliases import known_storages
from ...ledger.database import QueuedFileQuerySet, ledger
from ...ledger.names import can_be_recorded, tidy
from ..progress import Progress

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def age(text: str) -> timedelta:
    """A time such as ``90s``, ``15m``, ``2h``, ``30d``, ``8w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 15m, 2h, 30d or 8w")
    try:
        found = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
        _ = timezone.now() - found
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than there are dates") from None
    return found


def size(text: str) -> int:
    """A number of bytes such as ``500``, ``20M``, ``1.5G``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500, 20M or 1.5G")
    try:
        return round(float(match[1]) * _BYTES[match[2]])
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is more than any disk has") from None


class Verb(ABC):
    """One verb: its options, and the pass over files that it is the door to."""

    name: ClassVar[str]
    help: ClassVar[str]
    needs_ledger: ClassVar[bool] = True

    def __init__(self, stdout: OutputWrapper, stderr: OutputWrapper) -> None:
        self.stdout = stdout
        self.stderr = stderr

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """May be overridden."""

    @abstractmethod
    def run(self, options: dict[str, Any]) -> None:
        """Must be implemented. A ``CommandError`` says what went wrong."""

    def __call__(self, options: dict[str, Any]) -> None:
        """Run it; what a signal ends has cleaned up, and can be run again."""

        def stop(number: int, frame: Any) -> None:
            raise KeyboardInterrupt

        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, stop) if is_main else None
        try:
            self.run(options)
        except KeyboardInterrupt:
            raise CommandError("Stopped. Run it again to go on.", returncode=130) from None
        finally:
            if is_main:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def progress(self, rows: QueuedFileQuerySet, *, by_bytes: bool = False) -> Progress:
        files, count = total(rows)
        return Progress(self.stderr, self.stderr, files, count, by_bytes=by_bytes)


def total(rows: QueuedFileQuerySet) -> tuple[int, int]:
    """How many files these are, and how many bytes."""
    found: dict[str, Any] = rows.aggregate(files=Count("pk"), bytes=Sum("size"))
    return found["files"], found["bytes"] or 0


def one_storage(alias: str | None) -> Any:
    """The queued storage of this alias, or the only one."""
    found = {storage.alias: storage for storage in known_storages()}
    if alias is None and len(found) == 1:
        return next(iter(found.values()))
    if alias is None or alias not in found:
        known = ", ".join(sorted(found)) or "none is known"
        raise CommandError(f"Choose a storage with --storage: {known}.")
    return found[alias]


@contextmanager
def looking() -> Iterator[None]:
    """Say in words what a storage leaves out: Django's asks for neither a listing nor times."""
    try:
        yield
    except NotImplementedError as error:
        raise CommandError(
            f"The storage cannot list its files, or not tell how old they are: {error}"
        ) from error


def directory(text: str) -> str:
    """A directory of a storage in its one spelling; "" is all of the storage."""
    name = tidy(text)
    if name in {"", "."}:
        return ""
    if not can_be_recorded(name):
        raise CommandError(f"{text!r} is no directory of a storage; give one relative to its own.")
    return name


def add_selection(parser: ArgumentParser, *, demanded: bool) -> None:
    """The arguments by which files of the ledger are chosen."""
    parser.add_argument("names", nargs="*", metavar="name", help="of files in the ledger")
    parser.add_argument("--storage", metavar="ALIAS", help="files of this storage only")
    parser.add_argument(
        "--older-than", type=age, metavar="AGE", help="saved so long ago, say 90s, 15m, 2h, 30d"
    )
    if demanded:
        parser.add_argument("--all", action="store_true", help="all there are")


def add_at_most(parser: ArgumentParser) -> None:
    """For what cannot be undone, and finds too much where a disk or a database is the wrong one."""
    parser.add_argument(
        "--at-most", type=int, default=100, metavar="NUMBER", help="stop there; default: 100"
    )


def too_many(options: dict[str, Any]) -> CommandError:
    return CommandError(
        f"Stopped after {options['at_most']} files, and there are more. If the database and both "
        f"storages are the right ones, go on with a higher --at-most.",
        returncode=1,
    )


def add_dry_run(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and say what would")


def selected(options: dict[str, Any]) -> QueuedFileQuerySet:
    """The files that were chosen."""
    is_old = options["older_than"] is not None
    if not (options["names"] or options["storage"] or is_old) and options.get("all") is False:
        raise CommandError("Give names, --storage, --older-than, or --all.")
    rows = ledger().all()
    if options["names"]:
        rows = rows.filter(name__in=list(filter(can_be_recorded, options["names"])))
    if options["storage"]:
        rows = rows.filter(alias=options["storage"])
    if is_old:
        rows = rows.filter(saved_at__lte=timezone.now() - options["older_than"])
    return rows
