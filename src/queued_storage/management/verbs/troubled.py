"""Groups of files with the same error: what to say of them, and the commands that help."""

import shlex
from datetime import datetime
from typing import Any

from ...ledger.sql.clock import seconds_between
from ...operations.failures import Group
from ...reporting.counts import about, counted

LONGEST = 60  # characters of an error in a command
SHORTEST = 8  # that say which error is meant


def sentence(group: Group, now: datetime, example: str) -> str:
    """How many files have the error, the name of one of them, and when they are tried again."""
    count = len(group.pks)
    files = counted(count, "{} file", "{} files") + f" of {group.alias!r}"
    files = f"At least {files}" if group.is_cut else files
    named = example if count == 1 else f"{example}, for example"
    end = _next_attempt(group, now)
    if group.is_failed:
        end = counted(count, "its retries are used up", "their retries are used up")
    return f"{files} ({named}) failed; {end}:"


def _next_attempt(group: Group, now: datetime) -> str:
    seconds = seconds_between(now, group.next_at) if group.next_at else 0.0
    return f"next attempt in {about(seconds)}" if seconds >= 1 else "an attempt is due"


def commands_for(group: Group) -> list[str]:
    """The arguments that list the files, and that retry them when the cause is mended."""
    text = _searchable(group)
    chosen = shlex.join(["--storage", group.alias, *(["--error", text] if text else [])])
    return [f"list {chosen}", f"retry {chosen}"]


def _searchable(group: Group) -> str:
    """A text that all errors of the group contain; "" if none says which error is meant."""
    text = group.beginning[:LONGEST]
    if len(group.beginning) > LONGEST and " " in text:
        text = text.rpartition(" ")[0]
    text = text.strip().rstrip(" '\"(")
    is_plain = text.isprintable() and not text.startswith("-")
    return text if len(text) >= SHORTEST and is_plain else ""


def as_json(group: Group) -> dict[str, Any]:
    """What programs get to know of a group."""
    return {
        "alias": group.alias,
        "error": group.error,
        "files": len(group.pks),
        "is_cut": group.is_cut,
        "is_failed": group.is_failed,
        "next_attempt": group.next_at,
        "commands": commands_for(group),
    }
