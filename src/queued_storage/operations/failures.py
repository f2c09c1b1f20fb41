"""The files that failed, and those that wait for their next attempt, grouped by their errors."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from django.db.models import Q

from ..ledger import measures
from ..ledger.copies import copies
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.preparations import preparations
from ..ledger.sql.clock import DatabaseNow
from ..ledger.states import State

LIMIT = 10_000  # failed files of a storage, or waiting files of a priority, that are read at most
SHORT = 3  # characters of a name that is replaced only where it is quoted
CUT = "…"  # in place of what differs between the files of a group
# Ids of requests, checksums and numbers of bytes
_DIFFERS = re.compile(
    r"\b(?=\w*\d)[0-9A-Za-z]{16,}\b|\b[0-9a-f]{8}\b|\b\d[\d,]*(?= bytes\b| of \d)"
)


@dataclass
class Group:
    """Files of one storage with the same error."""

    alias: str
    error: str  # without what differs between the files
    is_failed: bool  # whether their retries are used up
    pks: list[int] = field(default_factory=list)
    next_at: datetime | None = None  # the first of the next attempts
    is_cut: bool = False  # whether there may be more files

    @property
    def key(self) -> str:
        """What names the group in a form."""
        text = "\n".join([self.alias, self.error, str(self.is_failed)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def beginning(self) -> str:
        """How the errors of all files of the group begin."""
        return self.error.partition(CUT)[0]

    def add(self, pk: int, at: datetime | None) -> None:
        self.pks.append(pk)
        if at and (self.next_at is None or at < self.next_at):
            self.next_at = at


def waiting(*, with_due: bool = False) -> QueuedFileQuerySet:
    """The files whose last attempt failed, and whose next one is not due yet, or due if asked."""
    rows = ledger().filter(lease_token="").exclude(last_error="")
    return rows.scheduled() if with_due else rows.filter(due_at__gt=DatabaseNow())


def groups(aliases: Iterable[str], limit: int = LIMIT, *, with_due: bool = False) -> list[Group]:
    """The groups of these storages, the largest first; no more than ``limit`` failed files of a
    storage, and waiting files of a priority, are read."""
    found: dict[tuple[str, str, bool], Group] = {}
    aliases = list(aliases)
    failed = (ledger().filter(alias=alias).in_state(State.FAILED) for alias in aliases)
    for is_failed, ranges in ((False, waiting(with_due=with_due).ranges(aliases)), (True, failed)):
        for rows in ranges:
            _add(found, rows, limit, is_failed=is_failed)
    return sorted(found.values(), key=lambda group: (-len(group.pks), group.alias, group.error))


def _add(
    found: dict[tuple[str, str, bool], Group],
    rows: QueuedFileQuerySet,
    limit: int,
    *,
    is_failed: bool,
) -> None:
    read = list(_read(rows, limit + 1))
    touched = set()
    for pk, alias, names, error, at in read[:limit]:
        text = without_details(error, names)
        key = alias, text, is_failed
        if key not in found:
            found[key] = Group(*key)
        found[key].add(pk, None if is_failed else at)
        touched.add(key)
    if len(read) > limit:
        for key in touched:
            found[key].is_cut = True


def _read(
    rows: QueuedFileQuerySet, limit: int
) -> Iterator[tuple[int, str, tuple[str, str], str, datetime | None]]:
    columns = ("pk", "alias", "name", "remote_name", "last_error", "due_at")
    for pk, alias, name, remote_name, error, at in rows.values_list(*columns)[:limit]:
        yield pk, alias, (name, remote_name), error, at


def without_details(error: str, names: Iterable[str]) -> str:
    """Return an error without what differs between files: their names, sizes and ids."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        error = error.replace(repr(name), f"'{CUT}'")
        if len(name) > SHORT:
            error = error.replace(name, CUT)
    return _without_numbers(error)


@lru_cache(maxsize=1000)  # once for all files of a group
def _without_numbers(error: str) -> str:
    return _DIFFERS.sub(CUT, error)


def group_of(key: str) -> Group | None:
    """The group that a form names; None if no file has that error any more."""
    return next((each for each in groups(measures.aliases()) if each.key == key), None)


def with_error(rows: QueuedFileQuerySet, text: str) -> QueuedFileQuerySet:
    """Those of the files whose last error contains the text, or that of a copy of theirs on a
    mirror, or of their steps; no index helps with that."""
    copied = copies().filter(last_error__icontains=text).values("file")
    prepared = preparations().filter(last_error__icontains=text).values("file")
    return rows.filter(Q(last_error__icontains=text) | Q(pk__in=copied) | Q(pk__in=prepared))
