"""How many files of each storage were transferred, failed and waited in the last days."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import models
from django.db.models import F, Q, Sum, Value
from django.db.models.functions import Greatest
from django.utils.translation import gettext_lazy as _

from . import schema
from .database import ledger, ledger_database
from .models import ExactCharField
from .sql.clock import UTCDateTimeField, in_utc
from .states import State

MINUTE, QUARTER = 60, 900  # seconds
KEPT = {MINUTE: timedelta(hours=4), QUARTER: timedelta(days=8)}
MOST_PENDING = 100_000  # files of a storage, at which counting stops


class Throughput(models.Model):
    """What processes did with the files of one storage in one minute, or quarter of an hour.

    Each process adds what it has counted, at most once a minute. So a process that is killed loses
    what it did since: about a minute of its work.
    """

    seconds = models.PositiveSmallIntegerField(_("length"))  # MINUTE or QUARTER
    at = UTCDateTimeField(_("beginning"))
    alias = ExactCharField(_("storage"), max_length=64)
    files = models.BigIntegerField(_("files transferred"), default=0)
    bytes = models.BigIntegerField(_("size of these files"), default=0)
    failures = models.BigIntegerField(_("failed attempts"), default=0)
    pending = models.BigIntegerField(_("most pending files"), default=0)

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("throughput")
        verbose_name_plural = _("throughput")
        default_permissions = []  # the dashboard shows it
        constraints = [
            # In this order, it finds the newest rows of all storages, and the oldest ones.
            models.UniqueConstraint(
                fields=["seconds", "at", "alias"], name="queued_storage_throughput_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.alias} {self.at}"


class Numbers(NamedTuple):
    """What happened to the files of one storage in some time."""

    files: int = 0  # transferred
    bytes: int = 0
    failures: int = 0  # failed attempts
    pending: int = 0  # at most

    def plus(self, other: "Numbers") -> "Numbers":
        """Add up what happened; of pending files, there were the most at one of the times."""
        return Numbers(
            self.files + other.files,
            self.bytes + other.bytes,
            self.failures + other.failures,
            max(self.pending, other.pending),
        )


class Moment(NamedTuple):
    """A minute of one storage."""

    at: datetime
    alias: str


class Throughputs(models.QuerySet[Throughput]):
    """The verbs of throughput; like those of the ledger, each is one statement."""

    def start(self, moments: Iterable[Moment]) -> None:
        """Make the rows that ``add()`` adds to, unless another process has made them."""
        new = {
            (seconds, beginning(moment.at, seconds), moment.alias)
            for moment in moments
            for seconds in KEPT
        }
        rows: Any = (Throughput(seconds=key[0], at=key[1], alias=key[2]) for key in sorted(new))
        self.bulk_create(rows, ignore_conflicts=True)

    def add(self, moment: Moment, numbers: Numbers) -> int:
        """Add to the minute, and to its quarter of an hour."""
        is_part = Q()
        for seconds in KEPT:
            is_part |= Q(seconds=seconds, at=beginning(moment.at, seconds))
        pending = Value(numbers.pending, output_field=models.BigIntegerField())
        return self.filter(is_part, alias=moment.alias).update(
            files=F("files") + numbers.files,
            bytes=F("bytes") + numbers.bytes,
            failures=F("failures") + numbers.failures,
            pending=Greatest("pending", pending),
        )

    def prune(self, now: datetime) -> int:
        """Delete what is too old for the dashboard; return how many rows."""
        oldest = ((seconds, now - age) for seconds, age in KEPT.items())
        return sum(self.filter(seconds=seconds, at__lt=at).delete()[0] for seconds, at in oldest)

    def since(self, seconds: int, at: datetime) -> list[tuple[datetime, Numbers]]:
        """Those of all storages together, by minute or quarter of an hour, the oldest first."""
        sums = (Sum("files"), Sum("bytes"), Sum("failures"), Sum("pending"))
        rows: Any = self.filter(seconds=seconds, at__gte=at).values_list("at").annotate(*sums)
        return [(in_utc(row[0]), Numbers(*row[1:])) for row in rows.order_by("at")]


def beginning(at: datetime, seconds: int) -> datetime:
    """The beginning of the minute, or other part of a day, that a moment is in."""
    whole = int(in_utc(at).timestamp()) // seconds * seconds
    return datetime.fromtimestamp(whole, UTC)


def throughput() -> Throughputs:
    """What is known of the last days."""
    return Throughputs(Throughput, using=ledger_database())


def is_available() -> bool:
    """Whether the database has the table, which it has not until ``migrate`` was run."""
    return schema.has_table(Throughput)


def pending(aliases: Collection[str]) -> dict[str, int]:
    """Count the files that wait for their transfer, of each storage that has some."""
    states = [State.PENDING, State.TRANSFERRING]
    found = {}
    for alias in aliases:
        waiting = ledger().filter(alias=alias, state__in=states).order_by()
        if count := waiting.values("pk")[:MOST_PENDING].count():
            found[alias] = count
    return found
