"""Counts the copies that mirrors lack, which the others of a large ledger must not slow down."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q

from .availability import Availability, waiting
from .copies import Copies, CopyState, copies
from .sql.clock import DatabaseNow

UNFINISHED = (CopyState.PENDING, CopyState.FAILED)


@dataclass(frozen=True)
class Lack:
    """The copies that a mirror lacks although they are wanted."""

    due: int  # to be made now
    waiting: int  # for the next attempt, or for the worker that makes them
    failed: int

    @property
    def pending(self) -> int:
        return self.due + self.waiting


def unfinished(alias: str, place: int) -> Copies:
    """The copies that a mirror lacks although they are wanted."""
    return copies().filter(file__alias=alias, place=place, state__in=UNFINISHED)


def lack_of(alias: str, place: int) -> Lack:
    """Count them."""
    is_due = Q(state=CopyState.PENDING, due_at__lte=DatabaseNow(), lease_token="")
    found: Any = unfinished(alias, place).aggregate(
        all=Count("pk"),
        due=Count("pk", filter=is_due),
        failed=Count("pk", filter=Q(state=CopyState.FAILED)),
    )
    due, failed = found["due"], found["failed"]
    return Lack(due, found["all"] - due - failed, failed)


def lacks(remotes: Iterable[Availability]) -> list[tuple[Availability, Lack]]:
    """Those of the remotes that are mirrors, with what they lack."""
    return [(each, lack_of(each.alias, each.digest)) for each in remotes if each.is_mirror]


def waiting_for(remote: Availability, limit: int | None = None) -> int:
    """Count the files, or the copies, that wait for a remote; stop at ``limit`` if given. Nothing
    waits for previous remotes but moves."""
    if remote.is_configured:
        return waiting(remote.alias, limit)
    if not remote.is_mirror:
        return 0
    found = unfinished(remote.alias, remote.digest)
    return found.count() if limit is None else found.values("pk")[:limit].count()


def failed_at(alias: str, place: int, limit: int) -> int:
    """Count the copies that could not be made at a place; stop at ``limit``."""
    found = unfinished(alias, place).filter(state=CopyState.FAILED)
    return found.values("pk")[:limit].count()
