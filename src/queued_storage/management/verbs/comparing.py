"""``verify``, ``reconcile`` and ``orphans``: differences between the ledger and the storages."""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError

from ...exceptions import OtherWriter
from ...ledger.database import ledger
from ...operations import comparison, inventory, reconciliation
from ...operations.roots import require_safe_root
from ...operations.storages import OperableStorage
from ...reporting.counts import counted
from ...transfers.gates import gates
from ..quantities import format_size, parse_duration
from .base import RepeatableVerb
from .selection import (
    add_at_most,
    add_dry_run,
    add_selection,
    add_yes,
    directory,
    one_storage,
    requires_listing,
    selected,
    too_many,
)
from .typos import require_directory


def _add_content(parser: ArgumentParser) -> None:
    parser.add_argument("--content", action="store_true", help="read every byte of all copies")


class Verify(RepeatableVerb):
    name = "verify"
    help = "compare the ledger with both storages, without changing anything"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=False)
        _add_content(parser)
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object per line and finding"
        )

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options)
        count = 0
        with self.progress(rows, by_bytes=options["content"]) as progress:
            for found in comparison.verify(rows, content=options["content"], report=progress):
                count += 1
                progress.clear()
                if options["json"]:
                    self.stdout.write_json(asdict(found))
                else:
                    self.stdout.write(_line(found))
        if not options["json"]:
            self.stdout.write(
                counted(progress.files, "{} file was compared.", "{} files were compared.")
            )
        if count:
            copies = counted(count, "{} copy differs", "{} copies differ")
            raise CommandError(f"{copies} from the ledger.", returncode=1)


def _line(found: comparison.Difference) -> str:
    return f"{found.name} ({found.alias}): {found.kind} {found.side} copy. {found.details}"


# Repairs after which the bytes that were there are lost
OVERWRITING = {"different-local", "different-remote", "different-mirror"}


class Reconcile(RepeatableVerb):
    name = "reconcile"
    help = "repair chosen kinds of differences found by 'verify'"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=False)
        parser.add_argument(
            "--repair",
            action="append",
            required=True,
            choices=sorted(reconciliation.REPAIRS),
            help="kind of difference to repair; can be repeated",
        )
        _add_content(parser)
        add_dry_run(parser)
        add_yes(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options)
        if OVERWRITING & set(options["repair"]):
            self.require_yes(
                options, "This replaces copies that differ, whose bytes may exist nowhere else."
            )
        repaired = failed = 0
        with self.progress(rows, by_bytes=options["content"]) as progress:
            for found, error in reconciliation.reconcile(
                rows,
                options["repair"],
                content=options["content"],
                dry_run=options["dry_run"],
                report=progress,
            ):
                failed += bool(error)
                repaired += not error
                progress.clear()
                end = f" It was not repaired: {error}" if error else ""
                self.stdout.write(f"{_line(found)}{end}")
        if options["dry_run"]:
            copies = counted(repaired, "{} copy would be", "{} copies would be")
        else:
            copies = counted(repaired, "{} copy was", "{} copies were")
        self.stdout.write(f"{copies} repaired.")
        if failed:
            copies = counted(failed, "{} copy", "{} copies")
            raise CommandError(f"{copies} could not be repaired.", returncode=1)


class Orphans(RepeatableVerb):
    name = "orphans"
    help = "list or delete files that neither the ledger nor a model knows about"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("side", choices=["local", "remote"], help="the storage to search")
        parser.add_argument(
            "--storage",
            metavar="ALIAS",
            help="alias of the storage; required if there are several storages",
        )
        parser.add_argument(
            "--under", default="", metavar="DIRECTORY", help="only files in this directory"
        )
        parser.add_argument(
            "--older-than",
            type=parse_duration,
            default=timedelta(days=1),
            metavar="AGE",
            help="only files last modified at least this long ago, for example 2h or 30d "
            "(default: 1d)",
        )
        parser.add_argument(
            "--delete", action="store_true", help="delete the files; review the list first"
        )
        add_at_most(parser)
        add_dry_run(parser)
        add_yes(parser)
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object per line and file"
        )

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        deletes = options["delete"] and not options["dry_run"]
        if options["delete"] and not ledger().filter(alias=storage.alias).exists():
            raise CommandError(
                f"The ledger has no files of the storage {storage.alias!r}, so every file would "
                f"be an orphan. Check that this is the right database."
            )
        side, older_than = options["side"], options["older_than"]
        under = directory(options["under"])
        for its in inventory.with_each_side(storage, side):
            require_safe_root(its, side)
        refused: list[str] = []
        count = size = 0
        with requires_listing():
            require_directory(storage, side, under)
            if deletes:
                self.require_yes(
                    options,
                    f"This deletes files of the {side} storage of {storage.alias!r} that neither "
                    f"the ledger nor a model knows, at most {options['at_most']:,}.",
                )
            for its, orphan in self._found(storage, options, under, refused.append):
                if deletes and count >= options["at_most"]:
                    raise too_many(options)
                if deletes and not _delete(its, orphan, older_than):
                    continue
                count += 1
                size += orphan.bytes
                if options["json"]:
                    self.stdout.write_json(asdict(orphan), default=str)
                else:
                    place = "" if its.other_place is None else f"  at {orphan.place}"
                    self.stdout.write(f"{_entry(orphan)}{place}")
        for name in refused:
            self.stderr.write(f"{name}: The ledger cannot have this name.")
        if not options["json"]:
            self._print_result(deletes, count, size)
        if refused:
            files = counted(len(refused), "{} file has a name", "{} files have names")
            raise CommandError(
                f"{files} that the ledger cannot have, for example because it is not valid UTF-8. "
                f"Rename or delete such files yourself.",
                returncode=1,
            )

    def _found(
        self,
        storage: OperableStorage,
        options: dict[str, Any],
        under: str,
        refused: Callable[[str], object],
    ) -> Iterator[tuple[OperableStorage, inventory.Orphan]]:
        """Yield the orphans on the side, and the storage with the remote that has each."""
        side = options["side"]
        for its in inventory.with_each_side(storage, side):
            if its.other_place is not None and gates.is_closed(its.alias, its.other_place):
                self.stderr.write(f"Left out, since it is closed: {its.remote_place.description}")
                continue
            for orphan in inventory.orphans(its, side, options["older_than"], under, refused):
                yield its, orphan

    def _print_result(self, deletes: bool, count: int, size: int) -> None:
        if deletes:
            files = counted(count, "{} orphan was deleted", "{} orphans were deleted")
        else:
            files = counted(count, "{} orphan was found", "{} orphans were found")
        self.stdout.write(f"{files}, {format_size(size)}.")


def _delete(storage: OperableStorage, orphan: inventory.Orphan, older_than: timedelta) -> bool:
    try:
        return inventory.delete_orphan(storage, orphan, older_than)
    except OtherWriter as error:
        raise CommandError(str(error), returncode=1) from error


def _entry(orphan: inventory.Orphan) -> str:
    modified = f"{orphan.modified:%Y-%m-%d %H:%M}"
    return f"{orphan.name}  {format_size(orphan.bytes)}  {modified}"
