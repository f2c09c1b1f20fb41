"""The places that files are uploaded to, and whether they can be reached."""

from typing import Any, Protocol, Self

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now  # noqa: TID251  # the default in the migration
from django.utils.translation import gettext_lazy as _

from .database import ledger_database
from .models import ExactCharField
from .sql.clock import DatabaseNow, UTCDateTimeField, seconds_from_now
from .sql.outages import outlast

WRITER_MAX_LENGTH = 255


class RemoteState(models.TextChoices):
    OPEN = "open", _("open")
    AWAY = "away", _("away")  # cannot be reached, or fails by itself
    REFUSED = "refused", _("refused")  # denies access, has no bucket, or is full
    PAUSED = "paused", _("paused")  # by an operator


PROBED = (RemoteState.AWAY, RemoteState.REFUSED)


class Remote(models.Model):
    """A place to which a storage has uploaded files, or tried to.

    No file is uploaded, deleted or evicted there while it is not open. ``next_probe_at`` is when
    one process may find out whether it works again. Of a remote that was just opened, it is when
    another process is to enqueue its files, unless the one that opened it has done so. Otherwise,
    it is NULL.
    """

    State = RemoteState

    alias = ExactCharField(_("storage"), max_length=64)
    digest = models.BigIntegerField(_("digest"))  # of the place, as ``QueuedFile.place`` has it
    place = models.TextField(_("place"))  # in one line, without secrets
    state = models.CharField(
        _("state"), max_length=16, choices=RemoteState, db_default=RemoteState.OPEN
    )
    since = UTCDateTimeField(_("since"), db_default=Now())  # when it opened, closed or was paused
    next_probe_at = UTCDateTimeField(_("next probe at"), null=True, blank=True)
    probes = models.PositiveIntegerField(_("failed probes"), db_default=0)  # since it closed
    last_error = models.TextField(_("last error"), blank=True)  # that closed it, or of a probe
    is_marked = models.BooleanField(_("has our marker"), db_default=False)
    accepted_writer = models.CharField(
        _("accepted writer"), max_length=WRITER_MAX_LENGTH, blank=True, db_default=""
    )  # another ledger whose marker is there, and that an operator has accepted
    is_probed_by_files = models.BooleanField(
        _("probed by files"), db_default=False
    )  # it takes files, but no small write of our own
    other_writer = models.CharField(
        _("other writer"), max_length=WRITER_MAX_LENGTH, blank=True, db_default=""
    )  # another ledger whose marker was seen there, until it is accepted

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("remote")
        verbose_name_plural = _("remotes")
        default_permissions = []  # the dashboard shows remotes with the files
        permissions = [("steer_remote", _("Can pause, resume and probe remotes"))]
        constraints = [
            models.UniqueConstraint(fields=["alias", "digest"], name="queued_storage_remote_unique")
        ]

    def __str__(self) -> str:
        return f"{self.alias}: {self.place}"

    @property
    def is_open(self) -> bool:
        return self.state == RemoteState.OPEN


class KnownPlace(Protocol):
    """A place as ``remotes.places`` reads it from a storage."""

    @property
    def digest(self) -> int: ...

    @property
    def description(self) -> str: ...


class Remotes(models.QuerySet[Remote]):
    """The verbs of remotes; like those of the ledger, each is one conditional statement."""

    # Filters

    def at(self, alias: str, digest: int) -> Self:
        return self.filter(alias=alias, digest=digest)

    def closed(self) -> Self:
        """Remotes to which nothing is uploaded now, including those in unknown states."""
        return self.exclude(state=RemoteState.OPEN)

    def probed(self) -> Self:
        """Remotes that are closed until a probe succeeds."""
        return self.filter(state__in=PROBED)

    def opening(self) -> Self:
        """Remotes that were opened, but whose files may not be enqueued yet."""
        return self.filter(state=RemoteState.OPEN, next_probe_at__isnull=False)

    def opened_lately(self, seconds: float) -> Self:
        """Remotes that have not been open for so long."""
        return self.filter(state=RemoteState.OPEN, since__gt=seconds_from_now(-seconds))

    def first_of(self, alias: str) -> Remote | None:
        """The place at which the alias was first seen: that of rows without a place."""
        return self.filter(alias=alias).order_by("pk").first()

    # Verbs

    def register(self, alias: str, place: KnownPlace) -> Remote:
        """Return the remote of this alias and place, which is open if it is new."""
        known = self.at(alias, place.digest)
        if found := known.first():
            return found
        new: Any = Remote(
            alias=alias,
            digest=place.digest,
            place=place.description,
            state=RemoteState.OPEN,
            since=DatabaseNow(),
            last_error="",
            is_marked=False,
            accepted_writer="",
            other_writer="",
            probes=0,
            is_probed_by_files=False,
        )
        self.bulk_create([new], ignore_conflicts=True)
        return known.all().get()

    def close(self, state: str, error: str, probe_in: float) -> int:
        """Close these remotes; 0 if they are closed already. Times are in seconds."""
        return self.filter(state=RemoteState.OPEN).update(
            state=state,
            since=DatabaseNow(),
            next_probe_at=seconds_from_now(probe_in),
            probes=0,
            last_error=error,
        )

    def take_probe(self, seconds: float, *, even_early: bool = False) -> int:
        """Let this process probe a remote; 0 if another one does, or if it is too early.

        The probe takes up to ``seconds``. If this process dies, another one may probe then.
        ``even_early`` is for an operator who wants to know now.
        """
        due = self.probed()
        if not even_early:
            due = due.filter(next_probe_at__lte=DatabaseNow())
        return due.update(next_probe_at=seconds_from_now(seconds))

    def request_probe(self) -> int:
        """Let the next probe be due now; 0 if no remote is probed."""
        return self.probed().update(next_probe_at=DatabaseNow())

    def postpone_probe(self, state: str, error: str, probe_in: float) -> int:
        """Record a failed probe, and when the next one is due, in seconds."""
        return self.probed().update(
            state=state,
            next_probe_at=seconds_from_now(probe_in),
            probes=F("probes") + 1,
            last_error=error,
        )

    def reopen(self, seconds: float | None = None) -> int:
        """Open remotes whose probe succeeded; 0 if another process did, or one was paused.

        If ``finish_opening()`` isn't called within ``seconds``, another process does the rest.
        """
        return self.probed()._open(seconds)

    def take_opening(self, seconds: float) -> int:
        """Let this process finish what one that died has begun; 0 if another one does."""
        due = self.opening().filter(next_probe_at__lte=DatabaseNow())
        return due.update(next_probe_at=seconds_from_now(seconds))

    def finish_opening(self) -> int:
        """Record that the files of remotes that were opened are enqueued."""
        return self.opening().update(next_probe_at=None)

    def pause(self) -> int:
        """Close these remotes until ``resume()``; 0 if they are paused."""
        return self.exclude(state=RemoteState.PAUSED).update(
            state=RemoteState.PAUSED, since=DatabaseNow(), next_probe_at=None, probes=0
        )

    def resume(self, seconds: float | None = None) -> int:
        """Do the same with paused remotes; 0 if none is paused."""
        return self.filter(state=RemoteState.PAUSED)._open(seconds)

    def mark(self) -> int:
        """Record that the marker of this ledger is there; 0 if that is known."""
        known = Q(is_marked=True, other_writer="")
        return self.exclude(known).update(is_marked=True, other_writer="")

    def note_other_writer(self, writer: str) -> int:
        """Record that another ledger's marker is there; 0 if that is known."""
        return self.exclude(other_writer=writer).update(is_marked=False, other_writer=writer)

    def accept_writer(self, accepted: str) -> int:
        """Let this ledger overwrite and remove files although another one's marker is there; 0 if
        it may do so already. ``accepted`` names both writers."""
        known = Q(accepted_writer=accepted, other_writer="")
        return self.exclude(known).update(accepted_writer=accepted, other_writer="")

    def _open(self, seconds: float | None) -> int:
        return self.update(
            state=RemoteState.OPEN,
            since=DatabaseNow(),
            next_probe_at=None if seconds is None else seconds_from_now(seconds),
            probes=0,
            last_error="",
        )

    def update(self, **columns: Any) -> int:
        """Do the same as Django's method, despite a short outage of the database."""
        return outlast(lambda: super(Remotes, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # templates must not call it


def remotes() -> Remotes:
    """All remotes that the ledger knows."""
    return Remotes(Remote, using=ledger_database())
