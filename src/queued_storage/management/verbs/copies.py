"""``evict``, ``restore`` and ``accept-local``: local copies."""

from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError

from ...files import localfiles
from ...files.limits import Disk, FreeSpace
from ...ledger.database import QueuedFileQuerySet
from ...operations import acceptance, errands, passes
from ...reporting.counts import counted
from ..progress import Progress
from ..quantities import format_size, parse_size
from .base import RepeatableVerb
from .selection import add_dry_run, add_selection, one_storage, selected, total


def _free_space(text: str) -> FreeSpace:
    try:
        return FreeSpace.parse(text)
    except ValueError as error:  # argparse does not show the text of this class
        raise ArgumentTypeError(str(error)) from None


class Evict(RepeatableVerb):
    name = "evict"
    help = "delete local copies of transferred files, oldest first, after verifying the remote copy"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        parser.add_argument(
            "--size",
            type=parse_size,
            help="stop after freeing this many bytes, for example 500M or 20G",
        )
        parser.add_argument(
            "--until-free",
            type=_free_space,
            metavar="SIZE",
            help="stop when this much of the disk is free, for example 20G or 15%%",
        )
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        options["all"] |= bool(options["size"] or options["until_free"])
        goal = _Goal(options["size"], options["until_free"], options["storage"])
        rows = selected(options).evictable()
        wanted = goal.bytes()  # an unknown disk is an error even if there is nothing to evict
        if options["dry_run"]:
            files, size = _first(rows, wanted)
            would = counted(files, "{} file", "{} files")
            self.stdout.write(f"{would} would be evicted, {format_size(size)}.")
            return
        with self.progress(rows) as progress:
            count = errands.evict(rows, progress, until=lambda: goal.is_reached(progress))
        files_were = counted(count, "{} file was", "{} files were")
        self.stdout.write(f"{files_were} evicted, {format_size(progress.bytes_done)}.")
        if progress.failed:
            files_were = counted(progress.failed, "{} file", "{} files")
            raise CommandError(f"{files_were} could not be evicted.", returncode=1)


@dataclass(frozen=True)
class _Goal:
    """When an eviction may stop."""

    size: int | None
    until_free: FreeSpace | None
    alias: str | None

    def bytes(self) -> int | None:
        """The number of bytes to free; None for all."""
        goals = [self.size] if self.size is not None else []
        if self.until_free:
            goals.append(max(self.until_free.missing(_disk(self.alias)), 0))
        return min(goals) if goals else None

    def is_reached(self, progress: Progress) -> bool:
        """Whether enough was freed. Other processes use the disk too, so it is checked anew."""
        if self.size is not None and progress.bytes_done >= self.size:
            return True
        if not self.until_free:
            return False
        return self.until_free.missing(_disk(self.alias)) <= 0


def _disk(alias: str | None) -> Disk:
    """The disk of a storage's local files."""
    storage = one_storage(alias)
    if not localfiles.has_paths(storage.local):
        raise CommandError(
            f"The local storage of {storage.alias!r} does not keep its files on a disk of this "
            f"machine, so --until-free cannot be used.",
            returncode=2,
        )
    disk = Disk.of(storage.local)
    if disk is None:
        path = str(storage.local.path(""))
        raise CommandError(f"The directory {path!r} does not exist. Is its disk mounted?")
    return disk


def _first(rows: QueuedFileQuerySet, goal: int | None) -> tuple[int, int]:
    """The number of files, and of their bytes, that it takes to free ``goal`` bytes."""
    if goal is None:
        return total(rows)
    files = size = 0
    for row in passes.each(rows):
        if size >= goal:
            break
        files += 1
        size += row.size
    return files, size


class Restore(RepeatableVerb):
    name = "restore"
    help = "download transferred files back to local storage"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).restorable()
        if options["dry_run"]:
            files, size = total(rows)
            would = counted(files, "{} file", "{} files")
            self.stdout.write(f"{would} would be restored, {format_size(size)}.")
            return
        with self.progress(rows, by_bytes=True) as progress:
            count = errands.restore(rows, progress)
        files_were = counted(count, "{} file was", "{} files were")
        self.stdout.write(f"{files_were} restored, {format_size(progress.bytes_done)}.")
        if progress.failed:
            files_were = counted(progress.failed, "{} file", "{} files")
            raise CommandError(f"{files_were} could not be restored.", returncode=1)


class AcceptLocal(RepeatableVerb):
    name = "accept-local"
    help = "take local copies that were changed in place as new content, and transfer them"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows, dry_run = selected(options), options["dry_run"]
        with self.progress(rows.with_local_copy_here()) as progress:
            count = acceptance.accept_local(rows, progress, dry_run=dry_run)
        if dry_run:
            files_were = counted(count, "{} file would be", "{} files would be")
        else:
            files_were = counted(count, "{} file was", "{} files were")
        self.stdout.write(f"{files_were} accepted, {format_size(progress.bytes_done)}.")
        if progress.failed:
            files_were = counted(progress.failed, "{} file", "{} files")
            raise CommandError(f"{files_were} could not be accepted.", returncode=1)
