"""``evict`` and ``restore``: the local copies of transferred files."""

import os
import re
import shutil
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError

from ...files import localfiles
from ...ledger.database import QueuedFileQuerySet
from ...operations import errands, passes
from ..progress import Progress
from ..progress import size as in_words
from .base import Verb, add_dry_run, add_selection, one_storage, selected, size, total


def free_space(text: str) -> Callable[[str], int]:
    """How many bytes more than now must be free below a directory: ``20G`` or ``15%`` in all."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        share = float(match[1]) / 100
        if share >= 1:
            raise ArgumentTypeError(f"{text} of a disk cannot be free")
        return lambda path: round(shutil.disk_usage(path).total * share) - _free(path)
    wanted = size(text)
    return lambda path: wanted - _free(path)


def _free(path: str) -> int:
    return shutil.disk_usage(path).free


class Evict(Verb):
    name = "evict"
    help = "free local copies of transferred files, the oldest first, after a look at the remote"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=True)
        parser.add_argument("--size", type=size, help="stop when so much is freed, say 500M or 20G")
        parser.add_argument(
            "--until-free",
            type=free_space,
            metavar="SIZE",
            help="stop when so much of the disk is free, say 20G or 15%%",
        )
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        options["all"] |= bool(options["size"] or options["until_free"])
        rows = selected(options).evictable()
        goal = self._goal(options)
        if options["dry_run"]:
            files, count = _first(rows, goal)
            self.stdout.write(f"{files} files would be freed, {in_words(count)}.")
            return
        with self.progress(rows) as progress:
            count = errands.evict(rows, progress, until=_reached(options, progress))
        self.stdout.write(f"{count} files were freed, {in_words(progress.bytes_done)}.")
        if progress.failed:
            raise CommandError(f"{progress.failed} files were not.", returncode=1)

    def _goal(self, options: dict[str, Any]) -> int | None:
        """The number of bytes to free; None for all."""
        goals = [options["size"]] if options["size"] is not None else []
        if options["until_free"]:
            goals.append(max(options["until_free"](_directory(options["storage"])), 0))
        return min(goals) if goals else None


def _directory(alias: str | None) -> str:
    """Where the local files are of the storage that is meant."""
    storage = one_storage(alias)
    if not localfiles.has_paths(storage.local):
        raise CommandError(f"The local files of {storage.alias!r} are on no disk of this machine.")
    path = str(storage.local.path(""))
    if not os.path.isdir(path):
        raise CommandError(f"The directory {path!r} is not there. Is its disk mounted?")
    return path


def _first(rows: QueuedFileQuerySet, goal: int | None) -> tuple[int, int]:
    if goal is None:
        return total(rows)
    files = count = 0
    for batch in rows.in_batches(passes.BATCH):
        for row in batch:
            if count >= goal:
                return files, count
            files += 1
            count += row.size
    return files, count


def _reached(options: dict[str, Any], progress: Progress) -> Callable[[], bool]:
    """Whether enough was freed. The disk itself is asked, since others fill it meanwhile."""

    def is_reached() -> bool:
        if options["size"] is not None and progress.bytes_done >= options["size"]:
            return True
        if not options["until_free"]:
            return False
        return bool(options["until_free"](_directory(options["storage"])) <= 0)

    return is_reached


class Restore(Verb):
    name = "restore"
    help = "bring transferred files back to the local storage"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).restorable()
        if options["dry_run"]:
            files, count = total(rows)
            self.stdout.write(f"{files} files would be restored, {in_words(count)}.")
            return
        with self.progress(rows, by_bytes=True) as progress:
            count = errands.restore(rows, progress)
        self.stdout.write(f"{count} files were restored, {in_words(progress.bytes_done)}.")
        if progress.failed:
            raise CommandError(f"{progress.failed} files were not.", returncode=1)
