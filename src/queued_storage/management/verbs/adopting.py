"""``adopt`` and ``backfill``: files that were there before the ledger."""

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError

from ...files.walking import names_on
from ...ledger.names import tidy
from ...operations import adoption, inventory
from ..progress import Progress
from ..progress import size as in_words
from .base import Verb, add_dry_run, directory, looking, one_storage


class _Taking(Verb):
    """Names come from the command line, from a storage, or from the fields of models."""

    side: str

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="name", help="of files; else, all of them")
        parser.add_argument("--storage", metavar="ALIAS", help="if there are several")
        parser.add_argument(
            "--under",
            metavar="DIRECTORY",
            help=f"what is in a directory of the {cls.side} storage ('.' is all of it), rather "
            f"than what the fields of models name",
        )
        add_dry_run(parser)

    def names(self, storage: Any, options: dict[str, Any]) -> Iterable[str]:
        if options["names"]:
            return [tidy(name) for name in options["names"]]
        if options["under"] is None:
            if not inventory.file_fields(storage.alias):
                raise CommandError(
                    f"No model has a field for files of {storage.alias!r}. Give names, or --under."
                )
            return inventory.names_in_fields(storage.alias)
        under = directory(options["under"])
        if self.side == "local":
            return names_on(storage.local, under)
        return map(str, storage.uploader.names(under))

    def finish(self, count: int, options: dict[str, Any], done: str, progress: Progress) -> None:
        what = f"would be {done}" if options["dry_run"] else f"were {done}"
        self.stdout.write(f"{count} files {what}, {in_words(progress.bytes_done)}.")
        if progress.failed:
            raise CommandError(f"{progress.failed} files were left alone.", returncode=1)


class Adopt(_Taking):
    name = "adopt"
    help = "record files that are on the remote already, without sending them again"
    side = "remote"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--content", action="store_true", help="read every byte, and keep its checksum"
        )

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        with looking(), Progress(self.stderr, self.stderr, 0) as progress:
            count = adoption.adopt(
                storage,
                self.names(storage, options),
                progress,
                content=options["content"],
                dry_run=options["dry_run"],
            )
        self.finish(count, options, "adopted", progress)


class Backfill(_Taking):
    name = "backfill"
    help = "record files that are only local, and have them transferred"
    side = "local"

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        with looking(), Progress(self.stderr, self.stderr, 0) as progress:
            count = adoption.backfill(
                storage, self.names(storage, options), progress, dry_run=options["dry_run"]
            )
        self.finish(count, options, "recorded", progress)
