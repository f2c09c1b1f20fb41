"""``show``: everything that the ledger knows of one file."""

import shlex
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from ...conf import settings
from ...ledger.availability import sentence
from ...ledger.copy_counts import waiting_for
from ...ledger.names import tidy
from ...ledger.preparations import PreparationState
from ...ledger.priorities import name_of
from ...ledger.states import State
from ...operations.details import Details, details_of
from ...reporting.counts import counted
from ..quantities import format_size
from .base import Verb
from .listing import TIME, as_json, next_attempt
from .selection import add_one_file, of_storage, one_file
from .typos import require_recorded

COMMAND = "manage.py queued_storage"


class Show(Verb):
    name = "show"
    help = "show everything that the ledger knows of one file"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_one_file(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: dict[str, Any]) -> None:
        name, alias = options["name"], options["storage"]
        rows = of_storage(alias)
        try:
            require_recorded([tidy(name)], rows)
        except CommandError as error:  # the answer to the question, and no wrong argument
            raise CommandError(str(error), returncode=1) from None
        found = details_of(one_file(name, alias))
        if options["json"]:
            self.stdout.write_json(as_json_of(found), default=datetime.isoformat)
            return
        self.stdout.write(found.row.name, self.style.MIGRATE_HEADING)
        self._section("", _facts(found))
        self._section("Places", _places(found))
        self._section("Steps", _steps(found))
        self._section("Failed attempts", _attempts(found))
        self._section("What is next", _next(found))

    def _section(self, title: str, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines):
            if title and not number:
                self.stdout.write()
                self.stdout.write(title, self.style.MIGRATE_HEADING)
            self.stdout.write(f"  {line}")


def _facts(found: Details) -> Iterator[str]:
    row = found.row
    attempts = counted(row.attempts, "{} attempt", "{} attempts")
    facts = {
        "storage": row.alias,
        "state": f"{row.state}, {attempts}",
        "size": f"{format_size(row.size)} ({row.size:,})",
        "checksum": row.checksum,
        "content type": row.content_type,
        "generation": str(row.generation),
        "priority": name_of(row.priority),
        "task": row.task,
        "saved": f"{row.saved_at:{TIME}}{f' on {row.host}' if row.host else ''}",
        "transferred": f"{row.transferred_at:{TIME}}" if row.transferred_at else "",
        "evicted": f"{row.evicted_at:{TIME}}" if row.evicted_at else "",
    }
    return (f"{name:<13} {value}" for name, value in facts.items() if value)


def _places(found: Details) -> Iterator[str]:
    row = found.row
    if row.is_local:
        where = found.local or "yes"
        host = f" on {row.host}" if settings.local_per_host and row.host else ""
        yield f"local         {where}{host}"
    else:
        yield "local         no copy"
    place = found.remote.place if found.remote else "a place that is not known here"
    yield f"remote        {_remote_copy(found)}, {place}"
    for copy, remote in found.copies:
        where = remote.place if remote else str(copy.place)
        kind = "mirror" if remote and remote.is_mirror else "further copy"
        verified = f", verified by {copy.verified}" if copy.verified else ""
        error = f": {copy.last_error}" if copy.last_error else ""
        yield f"{kind:<13} {copy.state}{verified}, {where}{error}"
    for tier in found.tiers:
        state = tier.row.state if tier.row else "unknown"
        error = f": {tier.row.last_error}" if tier.row and tier.row.last_error else ""
        place = tier.storage.remote_place.description
        yield f"handed on by  {tier.storage.alias!r} to {place}: {state}{error}"


def _remote_copy(found: Details) -> str:
    row = found.row
    if not row.remote_name:
        return "no copy"
    name = "" if row.remote_name == row.name else f", named {row.remote_name!r} there"
    if row.state != State.TRANSFERRED:
        return f"perhaps an unfinished copy{name}"
    return f"verified by {row.verified or 'nothing'}{name}"


def _steps(found: Details) -> Iterator[str]:
    if not (steps := found.steps):
        return
    attempts = counted(steps.attempts, "{} attempt", "{} attempts")
    yield f"{steps.state}, {steps.step:,} passed, {attempts} at the present one"
    yield from filter(None, [steps.reason, steps.last_error])


def _attempts(found: Details) -> Iterator[str]:
    for each in found.row.failures:
        host = f" on {each['host']}" if each.get("host") else ""
        yield f"{each['at']}  attempt {each['attempt']}{host} ({each['work']}): {each['error']}"


def _next(found: Details) -> Iterator[str]:
    row = found.row
    if row.last_error and not row.failures:
        yield row.last_error
    remote = found.remote
    if remote and not remote.is_open and row.due_at:
        yield sentence(remote, waiting_for(remote))
    elif text := next_attempt(row, found.now):
        yield text
    elif row.state == State.FAILED:
        yield "All retries are used up, so nothing is done by itself."
    if command := _command_for(found):
        yield command


def _command_for(found: Details) -> str:
    """What an operator can do for the file."""
    row = found.row
    words = [row.name, "--storage", row.alias]
    if row.name.startswith("-"):
        words = ["--storage", row.alias, "--", row.name]
    arguments = shlex.join(words)
    if found.steps and found.steps.state == PreparationState.REJECTED:
        return f"To publish it all the same, run '{COMMAND} release {arguments}'."
    if row.state == State.HELD:
        return f"To transfer it, run '{COMMAND} transfer {arguments}'."
    if row.state == State.FAILED or found.steps or (row.last_error and row.due_at):
        return f"To retry it now, run '{COMMAND} retry {arguments}'."
    return ""


def as_json_of(found: Details) -> dict[str, Any]:
    """What programs get to know of a file."""
    row, steps = found.row, found.steps
    return as_json(row) | {
        "remote_name": row.remote_name,
        "place": found.remote.place if found.remote else None,
        "remote_state": found.remote.state if found.remote else None,
        "local_path": found.local,
        "checksum": row.checksum,
        "content_type": row.content_type,
        "verified": row.verified,
        "generation": row.generation,
        "failures": row.failures,
        "copies": [
            {
                "place": remote.place if remote else None,
                "state": copy.state,
                "remote_name": copy.remote_name,
                "verified": copy.verified,
                "attempts": copy.attempts,
                "due_at": copy.due_at,
                "error": copy.last_error,
            }
            for copy, remote in found.copies
        ],
        "steps": steps
        and {
            "state": steps.state,
            "passed": steps.step,
            "attempts": steps.attempts,
            "due_at": steps.due_at,
            "reason": steps.reason,
            "error": steps.last_error,
        },
        "tiers": [
            {"alias": tier.storage.alias, "state": tier.row.state if tier.row else None}
            for tier in found.tiers
        ],
        "command": _command_for(found),
    }
