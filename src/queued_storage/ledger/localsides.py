"""How full local storages are: sums of the ledger, and what workers measured last."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from django.db import models
from django.db.models import ExpressionWrapper, F, Q, Sum
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..runtime.rules import HOST_MAX_LENGTH
from . import schema
from .database import ledger, ledger_database
from .models import ExactCharField
from .rows import new_token
from .sql.clock import (
    DatabaseNow,
    UTCDateTimeField,
    database_time,
    seconds_between,
    seconds_from_now,
)
from .sql.outages import outlast
from .states import State

# Files that only the local storage has
PENDING = (State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED, State.PREPARING)
FORGOTTEN = 3600  # seconds after which a side that is not measured has no limits any more
RECENT = 30  # seconds, after which what was measured tells nothing about what is saved now


class LocalSide(models.Model):
    """The local storage of an alias; of one host, if hosts don't share it.

    One process at a time measures it and evicts its files, under a lease. The other columns are
    what it found last.
    """

    alias = ExactCharField(_("storage"), max_length=64)
    host = models.CharField(_("host"), max_length=HOST_MAX_LENGTH, blank=True)
    local_bytes = models.BigIntegerField(_("size of the local copies"), default=0)
    pending_bytes = models.BigIntegerField(_("size of the files that are only local"), default=0)
    # Why files that are on the remote could not be evicted, when that was needed
    young_bytes = models.BigIntegerField(_("size of files younger than min_age"), default=0)
    uncopied_bytes = models.BigIntegerField(_("size of files without all copies"), default=0)
    open_bytes = models.BigIntegerField(_("size of open files"), default=0)
    failed_bytes = models.BigIntegerField(_("size of files that cannot be evicted"), default=0)
    disk_bytes = models.BigIntegerField(_("size of the disk"), null=True, blank=True)
    free_bytes = models.BigIntegerField(_("free space of the disk"), null=True, blank=True)
    full_since = UTCDateTimeField(_("full since"), null=True, blank=True)
    reason = models.CharField(_("why it is full"), max_length=255, blank=True)
    refused = models.BigIntegerField(_("refused saves"), default=0)
    written_through = models.BigIntegerField(_("files saved to the remote"), default=0)
    measured_at = UTCDateTimeField(_("measured at"), null=True, blank=True)
    lease_token = models.CharField(_("lease"), max_length=32, blank=True)
    due_at = UTCDateTimeField(_("due at"), null=True, blank=True)  # to be measured again

    is_recent = False  # whether it was measured just now; only known of a claimed one

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("local storage")
        verbose_name_plural = _("local storages")
        default_permissions = []  # the dashboard shows them
        constraints = [
            models.UniqueConstraint(fields=["alias", "host"], name="queued_storage_local_unique")
        ]

    def __str__(self) -> str:
        return f"{self.alias} {self.host}".strip()

    @property
    def evictable_bytes(self) -> int:
        """The size of the files that could be evicted now."""
        kept = [self.pending_bytes, *self.kept.values()]
        return max(self.local_bytes - sum(kept), 0)

    @property
    def kept(self) -> dict[str, int]:
        """Why files that are on the remote could not be evicted: reasons and sizes."""
        return {
            "young": self.young_bytes,
            "uncopied": self.uncopied_bytes,
            "open": self.open_bytes,
            "failed": self.failed_bytes,
        }

    @property
    def is_full(self) -> bool:
        return self.full_since is not None


class LocalSides(models.QuerySet[LocalSide]):
    """The verbs of local sides; like those of the ledger, each is one conditional statement."""

    def of(self, alias: str) -> Self:
        """That of a storage on this host."""
        return self.filter(alias=alias, host=_host())

    def claim(self, alias: str) -> LocalSide | None:
        """Claim the local side of a storage to measure it; None if another process has it, or has
        measured it a moment ago."""
        token = new_token()
        if self._take(alias, token) or (self._add(alias) and self._take(alias, token)):
            recent = Q(measured_at__gt=seconds_from_now(-RECENT))
            is_recent = ExpressionWrapper(recent, output_field=models.BooleanField())
            return self.of(alias).filter(lease_token=token).annotate(is_recent=is_recent).first()
        return None

    def _take(self, alias: str, token: str) -> int:
        due = self.of(alias).filter(Q(due_at=None) | Q(due_at__lte=DatabaseNow()))
        return due.update(lease_token=token, due_at=seconds_from_now(settings.lease))

    def _add(self, alias: str) -> bool:
        if self.of(alias).exists():
            return False
        new: Any = LocalSide(alias=alias, host=_host())
        self.bulk_create([new], ignore_conflicts=True)
        return True

    def renew(self, side: LocalSide) -> int:
        return self._claimed(side).update(due_at=seconds_from_now(settings.lease))

    def record(self, side: LocalSide, pause: float, reason: str, **columns: Any) -> int:
        """Record what was measured, and end the claim; the next one is due in ``pause`` seconds.

        ``reason`` says why the side is full; "" if it is not.
        """
        since: Any = None
        if reason:
            since = F("full_since") if side.full_since else DatabaseNow()
        return self._claimed(side).update(
            lease_token="",
            due_at=seconds_from_now(pause),
            measured_at=DatabaseNow(),
            full_since=since,
            reason=reason[:255],
            **columns,
        )

    def _claimed(self, side: LocalSide) -> Self:
        return self.filter(pk=side.pk, lease_token=side.lease_token)

    def add(self, alias: str, column: str, number: int) -> None:
        """Add to the number of refused or written-through saves."""
        if not self.of(alias).update(**{column: F(column) + number}):
            self._add(alias)
            self.of(alias).update(**{column: F(column) + number})

    def update(self, **columns: Any) -> int:
        """Do the same as Django's method, despite a short outage of the database."""
        return outlast(lambda: super(LocalSides, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # templates must not call it


def local_sides() -> LocalSides:
    """All local sides that workers have measured."""
    return LocalSides(LocalSide, using=ledger_database())


def are_available() -> bool:
    """Whether the database has the table, which it has not until ``migrate`` was run."""
    return schema.has_table(LocalSide)


def full_for(side: LocalSide) -> float:
    """For how many seconds a local side has been full; 0 if it is not."""
    if side.full_since is None:
        return 0.0
    return max(seconds_between(side.full_since, database_time(ledger_database())), 0.0)


def longest_full() -> float:
    """For how many seconds one of the local sides that are still measured has been full; or 0."""
    if not are_available():
        return 0.0
    measured = local_sides().filter(measured_at__gt=seconds_from_now(-FORGOTTEN))
    return max(map(full_for, measured.exclude(full_since=None)), default=0.0)


def _host() -> str:
    return settings.host if settings.local_per_host else ""


class PendingParts(NamedTuple):
    """The size of the files that only a local storage has, in bytes."""

    older: int  # saved before the moment
    recent: int
    moment: datetime


# Sums. Each is answered by an index alone, unless hosts have local storages of their own.


def local_bytes(alias: str) -> int:
    """The size of all local copies of a storage on this host, and of new files that lie under a
    hidden name until their steps have passed."""
    # Without statistics, SQLite may prefer the index of local copies for "is_local = 0", which most
    # files can meet. An exclusion hides the column from it.
    hidden = ledger().filter(alias=alias, state=State.PREPARING).exclude(is_local__in=[True])
    return _sum(ledger().filter(alias=alias).with_local_copy()) + _sum(hidden)


def pending_bytes(alias: str) -> int:
    """The size of the files that only the local storage of this host has."""
    return _sum(_pending(alias))


def pending_bytes_since(alias: str, moment: datetime) -> int:
    """The size of those that were saved after a moment, and not transferred since."""
    return _sum(_pending(alias).filter(transferred_at=None, saved_at__gt=moment))


def pending_in_parts(alias: str, seconds: float) -> PendingParts:
    """The size of those that were saved before these last seconds, and of the others."""
    moment = database_time(ledger_database()) - timedelta(seconds=seconds)
    recent = Q(transferred_at=None, saved_at__gt=moment)
    rows = _here(_pending(alias))
    sizes = rows.aggregate(every=Sum("size"), recent=Sum("size", filter=recent))
    its_recent = int(sizes["recent"] or 0)
    return PendingParts(int(sizes["every"] or 0) - its_recent, its_recent, moment)


def _pending(alias: str) -> Any:
    return ledger().filter(alias=alias, state__in=PENDING)


def _sum(rows: Any) -> int:
    return int(_here(rows).aggregate(size=Sum("size"))["size"] or 0)


def _here(rows: Any) -> Any:
    return (rows.filter(host=settings.host) if settings.local_per_host else rows).order_by()
