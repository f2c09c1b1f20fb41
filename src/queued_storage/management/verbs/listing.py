"""``list``: files of the ledger, the newest first."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.db.models import Q
from django.db.models.functions import Lower

from ...ledger.availability import in_use
from ...ledger.database import QueuedFileQuerySet, ledger_database
from ...ledger.models import QueuedFile
from ...ledger.priorities import name_of
from ...ledger.sql.clock import database_time, seconds_between
from ...ledger.states import State
from ...operations.failures import with_error
from ...reporting.counts import about, counted
from ..quantities import format_size, parse_count
from .base import Verb
from .selection import add_error, of_storage, searched

LIMIT = 50
TIME = "%Y-%m-%d %H:%M:%S"


class List(Verb):
    name = "list"
    help = "list files of the ledger, the newest first"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "text",
            nargs="?",
            type=searched,
            help="only files whose names contain this text, in upper or lower case; no index "
            "serves that, so all files of the storage are read",
        )
        parser.add_argument("--storage", metavar="ALIAS", help="only files of this storage")
        parser.add_argument("--state", choices=State.values, help="only files in this state")
        add_error(parser)
        parser.add_argument(
            "--limit",
            type=parse_count,
            default=LIMIT,
            metavar="NUMBER",
            help=f"list at most so many files; 0 for all (default: {LIMIT})",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object per file")

    def run(self, options: dict[str, Any]) -> None:
        rows, limit = _chosen(options), options["limit"]
        now = database_time(ledger_database())
        closed = {each.alias for each in in_use() if not each.is_open}
        if options["text"] and not options["json"]:
            self.stderr.write(
                "No index serves the search for a part of a name, so this reads all files. "
                "'show NAME' finds a whole name at once.",
                self.style.WARNING,
            )
        count = 0
        for row in (rows[: limit + 1] if limit else rows).iterator(500):
            count += 1
            if limit and count > limit:
                break
            if options["json"]:
                self.stdout.write_json(as_json(row), default=datetime.isoformat)
            else:
                self._show(row, now, waits=row.alias in closed)
        if not options["json"]:
            self._show_count(count, limit)

    def _show(self, row: QueuedFile, now: datetime, *, waits: bool) -> None:
        size = format_size(row.size)
        line = f"{row.alias:<16} {row.state:<12} {size:>10}  {row.saved_at:{TIME}}  {row.name}"
        self.stdout.write(line, self.style.ERROR if row.state == State.FAILED else None)
        if row.last_error:
            self.stdout.write(f"{'':<16} {row.last_error}")
        if attempt := next_attempt(row, now, waits=waits):
            self.stdout.write(f"{'':<16} {attempt}")

    def _show_count(self, count: int, limit: int) -> None:
        if limit and count > limit:
            files = counted(limit, "The newest file is shown", "The newest {} files are shown")
            self.stdout.write(f"{files}; there are more. To see all, use --limit 0.")
        else:
            self.stdout.write(counted(count, "{} file.", "{} files."))


def _chosen(options: dict[str, Any]) -> QueuedFileQuerySet:
    rows = of_storage(options["storage"])
    if options["state"]:
        rows = rows.filter(state=options["state"])
    if options["error"]:
        rows = with_error(rows, options["error"])
    if options["text"]:
        # On MySQL, names are compared with their case. SQLite lowers ASCII only.
        text = options["text"]
        in_lower_case = rows.alias(lower_name=Lower("name"))
        rows = in_lower_case.filter(Q(name__icontains=text) | Q(lower_name__contains=text.lower()))
    return rows.order_by("-pk")


def next_attempt(row: QueuedFile, now: datetime, *, waits: bool = False) -> str:
    """When something is done for a file the next time; "" if nothing is going to be. ``waits`` is
    whether its remote is closed."""
    if row.due_at is None:
        return ""
    seconds = seconds_between(now, row.due_at)
    if row.lease_token:
        expired = "In progress under an expired lease: a worker has to take it over."
        return "In progress." if seconds > 0 else expired
    if waits:
        return "It waits for the remote, which is closed."
    return f"Next attempt in {about(seconds)}." if seconds >= 1 else "An attempt is due."


def as_json(row: QueuedFile) -> dict[str, Any]:
    """What programs get to know of a row."""
    return {
        "alias": row.alias,
        "name": row.name,
        "state": row.state,
        "bytes": row.size,
        "is_local": row.is_local,
        "host": row.host,
        "attempts": row.attempts,
        "error": row.last_error,
        "due_at": row.due_at,
        "is_claimed": bool(row.lease_token),
        "priority": name_of(row.priority),
        "saved_at": row.saved_at,
        "transferred_at": row.transferred_at,
        "evicted_at": row.evicted_at,
    }
