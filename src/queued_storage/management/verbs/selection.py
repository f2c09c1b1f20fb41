"""Arguments that select files or a storage."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from django.core.management.base import CommandError
from django.db.models import Count, Sum

from ...ledger.aliases import known_storages
from ...ledger.database import QueuedFileQuerySet, ledger
from ...ledger.models import QueuedFile
from ...ledger.names import can_be_recorded, tidy
from ...ledger.sql.clock import seconds_from_now
from ...operations.failures import with_error
from ...operations.storages import OperableStorage
from ...reporting.counts import counted
from ..quantities import parse_count, parse_duration
from .typos import misspelled, require_alias, require_recorded, unknown

CHOOSE = "Choose one with --storage"

# Files of the ledger


def add_selection(parser: ArgumentParser, *, required: bool) -> None:
    """The arguments that select files of the ledger; ``required`` ones have ``--all``."""
    parser.add_argument("names", nargs="*", metavar="name", help="names of files in the ledger")
    parser.add_argument("--storage", metavar="ALIAS", help="only files of this storage")
    parser.add_argument(
        "--older-than",
        type=parse_duration,
        metavar="AGE",
        help="only files saved at least this long ago (for example 90s, 15m, 2h, 30d)",
    )
    if required:
        parser.add_argument("--all", action="store_true", help="all files")


def add_one_file(parser: ArgumentParser) -> None:
    """The arguments that select one file of the ledger."""
    parser.add_argument("name", help="the file's name in the ledger")
    parser.add_argument(
        "--storage",
        metavar="ALIAS",
        help="alias of the storage; required if several storages have a file of this name",
    )


def add_error(parser: ArgumentParser) -> None:
    """A further argument that selects files."""
    parser.add_argument(
        "--error",
        type=searched,
        metavar="TEXT",
        help="only files whose last error contains this text, in upper or lower case",
    )


def searched(text: str) -> str:
    """A text that a database can search for."""
    if not text.strip() or not text.isprintable():
        raise ArgumentTypeError("give the text to search for, without control characters")
    return text


def selected(options: dict[str, Any]) -> QueuedFileQuerySet:
    """The selected files."""
    is_old = options["older_than"] is not None
    error = options.get("error")
    is_given = options["names"] or options["storage"] is not None or is_old or error
    if not is_given and options.get("all") is False:
        choices = "--storage, --older-than or --all"
        choices = f"--error, {choices}" if "error" in options else choices
        raise CommandError(f"Give the names of files, {choices}.", returncode=2)
    rows = of_storage(options["storage"])
    if options["names"]:
        names = list(map(tidy, options["names"]))
        require_recorded(names, rows)
        rows = rows.filter(name__in=names)
    if is_old:
        age = options["older_than"].total_seconds()
        rows = rows.filter(saved_at__lte=seconds_from_now(-age))
    return with_error(rows, error) if error else rows


def of_storage(alias: str | None) -> QueuedFileQuerySet:
    """The files of the storage with this alias; of all storages if it is None."""
    require_alias(alias)
    return ledger().all() if alias is None else ledger().filter(alias=alias)


def one_file(name: str, alias: str | None) -> QueuedFile:
    """The file of this name, in the storage with this alias if it is given."""
    rows, name = of_storage(alias), tidy(name)
    require_recorded([name], rows)
    first, *others = rows.filter(name=name).order_by("alias")
    if others:
        aliases = [row.alias for row in (first, *others)]
        raise unknown(f"Several storages have a file {name!r}.", aliases, CHOOSE)
    return first


def total(rows: QueuedFileQuerySet) -> tuple[int, int]:
    """The number of files, and of their bytes."""
    found: dict[str, Any] = rows.aggregate(files=Count("pk"), bytes=Sum("size"))
    return found["files"], found["bytes"] or 0


# Storages


def one_storage(alias: str | None) -> OperableStorage:
    """The queued storage with this alias; without an alias, the only one."""
    found = {storage.alias: storage for storage in known_storages()}
    if alias is None and len(found) == 1:
        [alias] = found
    if alias is None or alias not in found:
        if alias is None:
            raise unknown("This subcommand needs one storage.", sorted(found), CHOOSE)
        raise misspelled(
            f"No queued storage has the alias {alias!r}.", alias, sorted(found), CHOOSE
        )
    return cast(OperableStorage, found[alias])


def directory(text: str) -> str:
    """A directory of a storage in its normal form; empty for the whole storage."""
    name = tidy(text)
    if name in {"", "."}:
        return ""
    if not can_be_recorded(name):
        raise CommandError(
            f"{text!r} is not a directory of a storage; give a path relative to its location.",
            returncode=2,
        )
    return name


@contextmanager
def requires_listing() -> Iterator[None]:
    """Explain what a storage doesn't support: Django requires neither a listing nor times."""
    try:
        yield
    except NotImplementedError as error:
        raise CommandError(
            f"The storage cannot list its files, or does not know when they were modified: {error}"
        ) from error


# Limits of what a verb does


def add_dry_run(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def add_yes(parser: ArgumentParser) -> None:
    """For what may delete the only copy of something. See ``Verb.require_yes()``."""
    parser.add_argument("--yes", action="store_true", help="do it without asking")


def add_at_most(parser: ArgumentParser) -> None:
    """A limit for what cannot be undone, in case the database or the disk is the wrong one."""
    parser.add_argument(
        "--at-most",
        type=parse_count,
        default=100,
        metavar="NUMBER",
        help="stop after this many files (default: 100)",
    )


def too_many(options: dict[str, Any]) -> CommandError:
    files = counted(options["at_most"], "{} file", "{} files")
    return CommandError(
        f"Stopped after {files}; there are more. Check that the database and both storages are "
        f"the right ones, then continue with a higher --at-most.",
        returncode=1,
    )
