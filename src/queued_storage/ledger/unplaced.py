"""The files of earlier versions, whose rows don't have their place, and how far they are filled in.

All keys are gone through once, by all processes together: they share the key that they have come
to. It is in a row beside the ledger's identity, so that a copy of the database has it too.
"""

from collections import defaultdict
from typing import Any, NamedTuple, Self

from django.db import models
from django.db.models import Max, Value
from django.db.models.functions import Coalesce

from .database import QueuedFileQuerySet, ledger, ledger_database
from .identity import PROGRESS, LedgerIdentity
from .remotes import remotes

Firsts = dict[str, int]  # the digest of the first place of each alias


class Progress(NamedTuple):
    """What the processes have gone through.

    ``aliases`` is 0 if every file has its place. Files of an alias whose place no worker has
    recorded yet are passed over; then it is the number of aliases whose place was known.
    """

    key: int = 0
    aliases: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*map(int, text.split()))

    def __str__(self) -> str:
        return f"{self.key} {self.aliases}"


class Window(NamedTuple):
    """A range of primary keys, without the first one."""

    after: int
    end: int
    is_last: bool
    is_settled: bool  # whether no transaction of a save may still add rows to it

    @property
    def rows(self) -> QueuedFileQuerySet:
        """Its files without a place, by key. PostgreSQL might read all rows for an ``exists()``."""
        return ledger().filter(pk__gt=self.after, pk__lte=self.end, place=None).order_by("pk")

    @property
    def has_files(self) -> bool:
        return bool(self.rows.values_list("pk")[:1])


def progress() -> Progress:
    """Return how far the processes have come."""
    text = _shared().values_list("uid", flat=True).first()
    return Progress.parse(text) if text else Progress()


def record_progress(before: Progress, after: Progress) -> None:
    """Record how far this process has come, unless another one has recorded more meanwhile."""
    if not _shared().filter(uid=str(before)).update(uid=str(after)) and before == Progress():
        new: Any = LedgerIdentity(id=PROGRESS, uid=str(after))
        _shared().bulk_create([new], ignore_conflicts=True)


def _shared() -> models.QuerySet[LedgerIdentity]:
    return models.QuerySet(LedgerIdentity, using=ledger_database()).filter(pk=PROGRESS)


def firsts() -> Firsts:
    """Return the place at which each alias was first seen."""
    return dict(remotes().order_by("-pk").values_list("alias", "digest"))


def window(after: int, size: int) -> Window | None:
    """Return the range of the next ``size`` keys; None if there are no more."""
    newest = _newest()
    if newest <= after:
        return None
    keys = ledger().filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)
    [end] = keys[size - 1 : size] or [newest]
    return Window(after, end, end == newest, end <= newest - size)


def _newest() -> int:
    return ledger().aggregate(newest=Max("pk"))["newest"] or 0


def share_done(size: int) -> float:
    """Return the share of keys that were gone through; 1 if no place is missing.

    Of the others, only the next ``size`` keys are looked at: older files come first.
    """
    done = progress().key
    following = window(done, size)
    if following is None or not following.has_files:
        return 1.0
    return done / max(_newest(), 1)


def fill(window: Window, firsts: Firsts, limit: int) -> tuple[int, int]:
    """Fill in the places of up to ``limit`` files; return how many were found, and how many filled.

    Those that a transaction has locked are left out.
    """
    # With a condition on the column itself, a database might read the index of aliases instead.
    known = window.rows.alias(its_alias=Coalesce("alias", Value(""))).filter(its_alias__in=firsts)
    found = list(known.values_list("pk", "alias")[:limit])
    by_alias = defaultdict(list)
    for pk, alias in found:
        by_alias[alias].append(pk)
    filled = sum(ledger().fill_place(pks, firsts[alias]) for alias, pks in by_alias.items())
    return len(found), filled
