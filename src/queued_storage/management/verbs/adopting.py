"""``adopt`` and ``backfill``: files that existed before the ledger."""

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any, ClassVar

from django.core.management.base import CommandError

from ...ledger.names import tidy
from ...operations import adoption, inventory, mirrors
from ...operations.roots import require_safe_root
from ...operations.storages import OperableStorage
from ...reporting.counts import counted
from ..progress import Progress
from ..quantities import format_size
from .base import RepeatableVerb
from .selection import add_dry_run, directory, one_storage, requires_listing
from .typos import require_directory, require_stored


class _Recording(RepeatableVerb):
    """Records names from the command line, from a storage, or from the fields of models."""

    side: ClassVar[str]

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "names",
            nargs="*",
            metavar="name",
            help="names of files; by default, all names in the FileFields of this storage",
        )
        parser.add_argument(
            "--storage",
            metavar="ALIAS",
            help="alias of the storage; required if there are several storages",
        )
        parser.add_argument(
            "--under",
            metavar="DIRECTORY",
            help=f"instead, all files in this directory of the {cls.side} storage ('.' is the "
            f"whole storage)",
        )
        add_dry_run(parser)

    def names(self, storage: OperableStorage, options: dict[str, Any]) -> Iterable[str]:
        if options["names"]:
            names = [tidy(name) for name in options["names"]]
            require_stored(names, storage, self.side)
            return names
        if options["under"] is None:
            if not inventory.file_fields(storage.alias):
                raise CommandError(
                    f"No model has a FileField that uses the storage {storage.alias!r}. Give the "
                    f"names of files, or --under.",
                    returncode=2,
                )
            return inventory.names_in_fields(storage.alias)
        under = directory(options["under"])
        require_safe_root(storage, self.side)
        require_directory(storage, self.side, under)
        return inventory.names_of(storage, self.side, under)

    def finish(self, count: int, options: dict[str, Any], done: str, progress: Progress) -> None:
        """Print the result; files with an error are an exit code of 1."""
        if options["dry_run"]:
            files = counted(count, "{} file would be", "{} files would be")
        else:
            files = counted(count, "{} file was", "{} files were")
        self.stdout.write(f"{files} {done}, {format_size(progress.bytes_done)}.")
        if progress.failed:
            files = counted(progress.failed, "{} file was", "{} files were")
            raise CommandError(f"{files} skipped because of errors.", returncode=1)


class Adopt(_Recording):
    name = "adopt"
    help = "record files that already exist on the remote, without uploading anything"
    side = "remote"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--content", action="store_true", help="read every byte, and record the checksum"
        )

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        with requires_listing(), Progress(self.stderr, self.stderr, 0) as progress:
            count = adoption.adopt(
                storage,
                self.names(storage, options),
                progress,
                content=options["content"],
                dry_run=options["dry_run"],
            )
        self.finish(count, options, "adopted", progress)


class Backfill(_Recording):
    name = "backfill"
    help = "record files that exist only in local storage, and enqueue them"
    side = "local"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--mirrors",
            action="store_true",
            help="instead, enqueue the copies that mirrors lack of files in the ledger",
        )

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        if options["mirrors"]:
            self._fill_mirrors(storage, options)
            return
        with requires_listing(), Progress(self.stderr, self.stderr, 0) as progress:
            count = adoption.backfill(
                storage, self.names(storage, options), progress, dry_run=options["dry_run"]
            )
        self.finish(count, options, "recorded", progress)

    def _fill_mirrors(self, storage: OperableStorage, options: dict[str, Any]) -> None:
        if options["names"] or options["under"] is not None:
            raise CommandError("--mirrors is for all files of a storage.", returncode=2)
        if not storage.with_each_mirror:
            raise CommandError(f"The storage {storage.alias!r} has no mirrors.", returncode=2)
        with Progress(self.stderr, self.stderr, 0) as progress:
            count = mirrors.backfill(storage, progress, dry_run=options["dry_run"])
        text = counted(count, "{} copy", "{} copies")
        done = "would be" if options["dry_run"] else counted(count, "is", "are")
        self.stdout.write(f"{text} on mirrors {done} due.")
