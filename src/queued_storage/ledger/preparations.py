"""Files whose steps have not all passed, with their content that readers do not get yet."""

from datetime import datetime
from typing import Any, NamedTuple, Self

from django.db import models
from django.db.models import Count, ExpressionWrapper, F, Max, Min, OuterRef, Q, Subquery
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..runtime.rules import HOST_MAX_LENGTH
from .database import ledger, ledger_database
from .models import QueuedFile
from .sql.clock import DatabaseNow, UTCDateTimeField
from .sql.outages import outlast
from .states import Content, State

HIDDEN_MAX_LENGTH = 1024


class PreparationState(models.TextChoices):
    WAITING = "waiting", _("waiting")  # for a step, or for the end of one
    HELD = "held", _("held")  # a step could not be run, and its retries are used up
    REJECTED = "rejected", _("rejected")  # by a step


class Preparation(models.Model):
    """What is still to be done with a file before it is transferred, or published.

    ``hidden`` is the local name of bytes that readers do not get: new content that is published
    after its steps, as the generation after ``generation``, or what was rejected. It is "" for
    content that is the file's own already, of ``generation``.

    ``due_at`` is when a worker must look at it next. NULL means that an operator is to decide.
    """

    State = PreparationState

    # A process of an earlier version, which knows no preparations, cannot delete the row of a file
    # that has one.
    file = models.OneToOneField(
        QueuedFile, models.DO_NOTHING, related_name="preparation", verbose_name=_("file")
    )
    state = models.CharField(
        _("state"), max_length=16, choices=PreparationState, default=PreparationState.WAITING
    )
    generation = models.PositiveIntegerField(_("generation"))  # of the row that this belongs to
    hidden = models.CharField(_("hidden name"), max_length=HIDDEN_MAX_LENGTH, blank=True)
    size = models.BigIntegerField(_("size"), default=0)  # bytes
    checksum = models.CharField(_("checksum"), max_length=128, blank=True)
    content_type = models.CharField(_("content type"), max_length=255, blank=True)
    step = models.PositiveIntegerField(_("steps passed"), default=0)
    plan = models.CharField(_("steps"), max_length=32, blank=True)  # a digest: which ones they were
    is_released = models.BooleanField(_("is released"), default=False)  # whatever steps say
    attempts = models.PositiveIntegerField(_("attempts"), default=0)  # of the present step
    due_at = UTCDateTimeField(_("due at"), null=True, blank=True)
    lease_token = models.CharField(_("lease"), max_length=32, blank=True)
    host = models.CharField(_("host"), max_length=HOST_MAX_LENGTH, blank=True)  # that saved it
    reason = models.TextField(_("reason"), blank=True)  # of the rejection
    last_error = models.TextField(_("last error"), blank=True)
    saved_at = UTCDateTimeField(_("saved at"))

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("unpublished file")
        verbose_name_plural = _("unpublished files")
        default_permissions = ["view"]
        permissions = [
            ("release_preparation", _("Can release held and rejected files")),
            ("discard_preparation", _("Can delete held and rejected files")),
            ("preview_preparation", _("Can see the content of unpublished files")),
        ]
        indexes = [
            models.Index(fields=["due_at"], name="queued_storage_prepare_due"),
            models.Index(fields=["state", "saved_at"], name="queued_storage_prepare_state"),
        ]

    def __str__(self) -> str:
        return str(self.file)

    @property
    def content(self) -> Content:
        return Content(self.size, self.checksum, self.content_type)

    @property
    def is_unsettled(self) -> bool:
        """Whether rejected bytes may still lie at the file's own name."""
        return self.state == PreparationState.REJECTED and self.due_at is not None

    @property
    def is_suspect(self) -> bool:
        """Whether its last worker died, perhaps because of it."""
        return bool(self.lease_token)


class Preparations(models.QuerySet[Preparation]):
    """The verbs of preparations; like those of the ledger, each is one conditional statement."""

    # Filters

    def of(self, pk: int) -> Self:
        """That of a file."""
        return self.filter(file=pk)

    def of_alias(self, *aliases: str) -> Self:
        """Those of these storages.

        The subquery keeps databases from reading all files of the storages instead of those that
        have to pass steps.
        """
        file = ledger().using(self.db).filter(pk=OuterRef("file"))
        return self.alias(its_alias=Subquery(file.values("alias"))).filter(its_alias__in=aliases)

    def here(self) -> Self:
        """Those whose bytes this host can read."""
        return self.filter(host=settings.host) if settings.local_per_host else self

    def due(self) -> Self:
        return self.filter(due_at__lte=DatabaseNow()).here()

    def new(self) -> Self:
        """Those that no worker has begun."""
        return self.filter(lease_token="")

    def suspects(self) -> Self:
        """Those whose worker died, or is still at work."""
        return self.exclude(lease_token="")

    def waiting(self) -> Self:
        return self.filter(state=PreparationState.WAITING)

    def stopped(self) -> Self:
        """Those that wait for an operator."""
        return self.filter(state__in=[PreparationState.HELD, PreparationState.REJECTED])

    def current(self) -> Self:
        """Those that no other content has followed."""
        return self.filter(generation=F("file__generation"))

    # Saving

    def begin(self, pk: int, generation: int, content: Content, hidden: str = "") -> str:
        """Let the steps of new content begin, in the transaction that writes the file's row.

        Return the hidden name of earlier content, which is of no use now.
        """
        columns: dict[str, Any] = {
            "state": PreparationState.WAITING,
            "generation": generation,
            "hidden": hidden,
            "size": content.size,
            "checksum": content.checksum,
            "content_type": content.content_type,
            "step": 0,
            "plan": "",
            "is_released": False,
            "attempts": 0,
            "due_at": DatabaseNow(),
            "lease_token": "",
            "host": settings.host,
            "reason": "",
            "last_error": "",
            "saved_at": DatabaseNow(),
        }
        before = self.of(pk).values_list("hidden", flat=True).first()
        if before is None or not self.of(pk).update(**columns):
            new: Any = Preparation(file_id=pk, **columns)
            self.bulk_create([new])
        return before or ""

    # Operators

    def release(self) -> int:
        """Let these be published and transferred, whatever their steps say."""
        return (
            self.stopped()
            .filter(due_at=None)
            .update(
                state=PreparationState.WAITING, is_released=True, due_at=DatabaseNow(), attempts=0
            )
        )

    def retriable(self) -> Self:
        """Those whose steps could not be run."""
        stopped = Q(state=PreparationState.HELD)
        waits = Q(state=PreparationState.WAITING, lease_token="")
        return self.filter(stopped | waits)

    def retry(self) -> int:
        """Let the steps that could not be run be run again now."""
        return self.retriable().update(
            state=PreparationState.WAITING, due_at=DatabaseNow(), attempts=0
        )

    def make_stale(self) -> int:
        """Let workers remove the content, as if other content had followed it."""
        return self.update(
            state=PreparationState.WAITING, generation=0, due_at=DatabaseNow(), lease_token=""
        )

    # Workers

    def hurry(self) -> int:
        """Let workers look at these now."""
        return self.update(due_at=DatabaseNow())

    def update(self, **columns: Any) -> int:
        """Do the same as Django's method, despite a short outage of the database."""
        return outlast(lambda: super(Preparations, self).update(**columns), self.db)

    update.alters_data = True  # type: ignore[attr-defined]  # templates must not call it


def preparations() -> Preparations:
    return Preparations(Preparation, using=ledger_database())


class Counted(NamedTuple):
    """The files of one storage whose steps are in one state."""

    alias: str
    state: str
    files: int
    oldest: datetime  # when the content of the oldest one was saved
    age: float  # seconds since then


def counts() -> list[Counted]:
    """Count the files whose steps have not all passed."""
    age: Any = ExpressionWrapper(
        Max(DatabaseNow()) - Min("saved_at"), output_field=models.DurationField()
    )
    # With a join, SQLite would look for the steps of every file in the ledger.
    alias = Subquery(ledger().filter(pk=OuterRef("file")).values("alias"))
    rows: Any = preparations().annotate(its_alias=alias).values_list("its_alias", "state")
    found = rows.order_by("its_alias", "state").annotate(Count("pk"), Min("saved_at"), age=age)
    return [
        Counted(alias, state, files, oldest, max(age.total_seconds(), 0.0))
        for alias, state, files, oldest, age in found
    ]


def living(pk: int, generation: int) -> Any:
    """The row of a file, if it was neither deleted nor given other content."""
    return ledger().filter(pk=pk, generation=generation).exclude(state=State.DELETING)
