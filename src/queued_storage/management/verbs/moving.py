"""``move``: the files at the previous remotes of a storage."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import CommandError

from ...operations import moving
from ...operations.moving import Unfinished
from ...operations.storages import OperableStorage
from ...reporting.counts import counted
from ...runtime.rates import RateLimit
from ..progress import Progress
from ..quantities import format_size, parse_rate
from .base import RepeatableVerb
from .selection import add_dry_run, add_yes, one_storage, total

THREADS = 8


class Move(RepeatableVerb):
    name = "move"
    help = "move files from the previous remotes of a storage to its present one"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--storage", metavar="ALIAS", help="the storage; optional if it is one")
        parser.add_argument(
            "--limit-rate",
            type=parse_rate,
            metavar="SIZE",
            help="read at most this many bytes per second, for example 500K or 10M",
        )
        parser.add_argument(
            "--threads",
            type=_threads,
            default=THREADS,
            metavar="NUMBER",
            help=f"move so many files at once (default: {THREADS})",
        )
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--keep",
            action="store_true",
            help="keep the old copies, also if '--drop-old' is used later",
        )
        what.add_argument(
            "--drop-old",
            action="store_true",
            help="remove the old copies of all files that are verified at the present remote",
        )
        add_dry_run(parser)
        add_yes(parser)

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        if len(storage.with_each_remote) == 1:
            raise CommandError(
                f"{storage.alias!r} has no previous remotes. List them in the option 'previous'.",
                returncode=2,
            )
        if options["dry_run"]:
            self._show(storage, drop_old=options["drop_old"])
            return
        if options["drop_old"]:
            self.require_yes(
                options,
                f"This removes the objects of {storage.alias!r} from its previous remotes.",
            )
        self._move(storage, options)
        if options["drop_old"]:
            self._drop_old(storage, options)

    def _show(self, storage: OperableStorage, *, drop_old: bool) -> None:
        files, size = total(moving.left(storage))
        would = counted(files, "{} file", "{} files")
        self.stdout.write(f"{would} would be moved, {format_size(size)}.")
        if drop_old:
            would = counted(moving.old_copies(storage).count(), "{} old copy", "{} old copies")
            self.stdout.write(f"{would} would be removed, and those of the files above.")

    def _move(self, storage: OperableStorage, options: dict[str, Any]) -> None:
        limit = RateLimit(options["limit_rate"]) if options["limit_rate"] else None
        with self.progress(moving.left(storage), by_bytes=True) as progress:
            try:
                count = moving.move(
                    storage,
                    progress,
                    is_kept=options["keep"],
                    limit=limit,
                    threads=options["threads"],
                )
            except Unfinished as problem:
                raise _unfinished(problem, progress) from None
        files_were = counted(count, "{} file was", "{} files were")
        self.stdout.write(f"{files_were} moved, {format_size(progress.bytes_done)}.")
        if not moving.left(storage).exists():
            return
        files = counted(moving.left(storage).count(), "{} file is", "{} files are")
        raise CommandError(
            f"{files} still at a previous remote. Run the command again.", returncode=1
        )

    def _drop_old(self, storage: OperableStorage, options: dict[str, Any]) -> None:
        found = moving.old_copies(storage).count()
        with Progress(self.stderr, self.stderr, found) as progress:
            try:
                count = moving.drop_old(storage, progress, threads=options["threads"])
            except Unfinished as problem:
                raise _unfinished(problem, progress) from None
        copies_were = counted(count, "{} old copy was", "{} old copies were")
        self.stdout.write(f"{copies_were} removed.")
        if progress.failed:
            files = counted(progress.failed, "{} old copy", "{} old copies")
            raise CommandError(f"{files} could not be removed.", returncode=1)


def _unfinished(problem: Unfinished, progress: Progress) -> CommandError:
    progress.clear()
    return CommandError(f"{problem} Run the command again to continue.", returncode=1)


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to 100")
    return int(text)
