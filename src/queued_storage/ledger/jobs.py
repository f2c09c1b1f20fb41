"""Actions on many files that were requested in the admin, and that workers carry out."""

from collections.abc import Collection
from typing import Any, Self

from django.db import models
from django.db.models import F, Value
from django.db.models.functions import Now  # noqa: TID251  # the default in the migration
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..reporting.counts import counted
from ..runtime.rules import HOST_MAX_LENGTH
from . import schema
from .database import ledger_database
from .models import ExactCharField
from .rows import new_token
from .sql.clock import DatabaseNow, UTCDateTimeField, seconds_from_now

MAX_FINDINGS = 100  # problems that a job remembers

Finding = dict[str, Any]  # "name" and "error"; of a comparison also "side" and "kind"


class Action(models.TextChoices):
    EVICT = "evict", _("evict")
    RESTORE = "restore", _("restore")
    VERIFY = "verify", _("verify")
    ACCEPT_LOCAL = "accept_local", _("accept local")


class JobState(models.TextChoices):
    PENDING = "pending", _("pending")  # no worker has begun it
    RUNNING = "running", _("running")  # begun, and under a lease unless its worker was stopped
    DONE = "done", _("done")
    CANCELLED = "cancelled", _("cancelled")


UNFINISHED = (JobState.PENDING, JobState.RUNNING)


class Job(models.Model):
    """An action on many files of one storage, and how far it is.

    ``due_at`` is when a worker may go on with it: at once, or at the end of a lease. It is NULL
    once the job has ended.
    """

    Action = Action
    State = JobState

    action = models.CharField(_("action"), max_length=16, choices=Action)
    alias = ExactCharField(_("storage"), max_length=64)
    host = models.CharField(
        _("host"), max_length=HOST_MAX_LENGTH, blank=True, db_default=""
    )  # whose workers can process it; "" for all
    pks = models.JSONField(_("files"), null=True, blank=True)  # their ids; NULL at the end
    files = models.PositiveIntegerField(_("files"), db_default=0)  # how many
    position = models.PositiveIntegerField(_("processed"), db_default=0)  # files
    succeeded = models.PositiveIntegerField(_("succeeded"), db_default=0)  # files
    failed = models.PositiveIntegerField(_("failed"), db_default=0)  # files
    findings = models.JSONField(_("findings"), null=True, blank=True)  # the first MAX_FINDINGS
    state = models.CharField(
        _("state"), max_length=16, choices=JobState, db_default=JobState.PENDING
    )
    requested_by = models.CharField(_("requested by"), max_length=255, blank=True, db_default="")
    requested_at = UTCDateTimeField(_("requested at"), db_default=Now())
    ended_at = UTCDateTimeField(_("ended at"), null=True, blank=True)
    due_at = UTCDateTimeField(_("due at"), null=True, blank=True)
    lease_token = models.CharField(_("lease"), max_length=32, blank=True, db_default="")
    attempts = models.PositiveIntegerField(_("attempts"), db_default=0)  # for the next file

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        default_permissions = ["view", "delete"]
        permissions = [("cancel_job", _("Can cancel jobs"))]
        indexes = [models.Index(fields=["due_at", "alias"], name="queued_storage_job_due")]

    def __str__(self) -> str:
        return f"{self.action} {counted(self.files, '{} file', '{} files')} of {self.alias}"

    @property
    def is_unfinished(self) -> bool:
        return self.state in UNFINISHED


class Jobs(models.QuerySet[Job]):
    """The verbs of jobs; like those of the ledger, each is one conditional statement."""

    # Filters

    def unfinished(self) -> Self:
        return self.filter(state__in=UNFINISHED)

    def due(self) -> Self:
        """Jobs that no worker is processing, except those of a newer version."""
        return self.filter(due_at__lte=DatabaseNow(), action__in=Action.values)

    def workable_here(self) -> Self:
        if not settings.local_per_host:
            return self
        return self.filter(host__in=["", settings.host])

    def due_keys(self, aliases: Collection[str]) -> list[tuple[int, str]]:
        """The ids and aliases of jobs that this process can go on with, the oldest due first."""
        rows = self.due().workable_here().filter(alias__in=aliases).order_by("due_at", "pk")
        return list(rows.values_list("pk", "alias"))

    # Verbs

    def request(self, action: str, alias: str, host: str, pks: list[int], requested_by: str) -> Job:
        return self.create(
            action=action,
            alias=alias,
            host=host,
            pks=pks,
            files=len(pks),
            requested_by=requested_by[:255],
            requested_at=DatabaseNow(),
            due_at=DatabaseNow(),
        )

    def claim(self, pk: int) -> Job | None:
        """Claim a due job; None if another worker was faster, or it has ended."""
        token = new_token()
        claimed = (
            self.filter(pk=pk)
            .due()
            .workable_here()
            .update(
                state=JobState.RUNNING,
                attempts=F("attempts") + 1,
                lease_token=token,
                due_at=seconds_from_now(settings.lease),
            )
        )
        return self.filter(pk=pk, lease_token=token).first() if claimed else None

    def advance(self, job: Job, findings: list[Finding], *, is_success: bool) -> bool:
        """Record that the next file was processed, and renew the lease.

        Return False if the job was cancelled, or if another worker has processed the file.
        """
        columns: dict[str, Any] = {
            "position": job.position + 1,
            "succeeded": job.succeeded + is_success,
            "failed": job.failed + bool(findings),
            "attempts": 1,
            "lease_token": job.lease_token,
            "due_at": seconds_from_now(settings.lease),
        }
        if findings:
            columns["findings"] = [*(job.findings or []), *findings][:MAX_FINDINGS]
        is_last = job.position + 1 >= job.files
        at_the_end = self._end(JobState.DONE) if is_last else {}
        # Another worker may have claimed the job and returned it, since the file took so long.
        advanced = self.filter(
            pk=job.pk,
            state=JobState.RUNNING,
            position=job.position,
            lease_token__in=[job.lease_token, ""],
        ).update(**columns | at_the_end)
        for name in ("position", "succeeded", "failed", "findings", "attempts"):
            setattr(job, name, columns.get(name, getattr(job, name)))
        return bool(advanced) and not is_last

    def release(self, job: Job, delay: float = 0, *, is_failure: bool = False) -> int:
        """Let any worker go on with the job in ``delay`` seconds.

        ``is_failure`` says that this attempt to process the next file counts.
        """
        claimed = self.filter(pk=job.pk, state=JobState.RUNNING, lease_token=job.lease_token)
        count = F("attempts") if is_failure else Value(0)
        return claimed.update(due_at=seconds_from_now(delay), lease_token="", attempts=count)

    def cancel(self) -> int:
        """End these jobs; a worker stops after the file that it is processing."""
        return self.unfinished().update(**self._end(JobState.CANCELLED))

    @staticmethod
    def _end(state: JobState) -> dict[str, Any]:
        return {
            "state": state,
            "ended_at": DatabaseNow(),
            "due_at": None,
            "lease_token": "",
            "pks": None,
        }


def jobs() -> Jobs:
    """All jobs."""
    return Jobs(Job, using=ledger_database())


def are_available() -> bool:
    """Whether the database has the table of jobs, which it has not until ``migrate`` was run."""
    return schema.has_table(Job)
