"""The ledger's table, with one row per stored file."""

from datetime import datetime
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..reporting.reasons import one_line
from ..runtime.rules import HOST_MAX_LENGTH
from . import installation  # noqa: F401  # registers its check
from .sql.clock import UTCDateTimeField, host_time
from .sql.partial import PartialIndex
from .states import Sending, State, is_read_remotely

NAME_MAX_LENGTH = 700  # characters; the limit of a unique index of InnoDB, less the alias
NAME_MAX_BYTES = 2048  # in UTF-8; below the limit of an index entry in PostgreSQL
MAX_FAILURES = 10  # failed attempts that a row remembers


class ExactCharField(models.CharField):
    """A CharField that compares case, accents and trailing spaces, on MySQL and MariaDB too."""

    def db_parameters(self, connection: Any) -> dict[str, Any]:
        parameters: dict[str, Any] = super().db_parameters(connection)
        if connection.vendor == "mysql":
            is_mariadb = connection.mysql_is_mariadb
            parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return parameters


class QueuedFile(models.Model):
    """Where one stored file is, and what is still to be done for it.

    ``due_at`` is when a worker must process the row next: the next attempt of a pending file or of
    a delete, the end of the lease of a claimed row, the eviction of a transferred file. NULL means
    that there is nothing to do until a user or an operator asks for something.
    """

    State = State

    alias = ExactCharField(_("storage"), max_length=64)
    name = ExactCharField(_("name"), max_length=NAME_MAX_LENGTH)
    remote_name = models.CharField(
        _("name on the remote"), max_length=1024, blank=True
    )  # reserved by an attempt, before it sends the file; "" before that
    unconfirmed = models.CharField(
        _("unconfirmed upload"), max_length=150, blank=True
    )  # "16 crc32:1a2b3c4d …": what an upload without a known result may have sent; see ``Sending``
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    task = models.CharField(_("task"), max_length=255, blank=True)  # dotted path
    is_local = models.BooleanField(_("has a local copy"), default=True)
    size = models.BigIntegerField(_("size"), default=0)  # bytes
    checksum = models.CharField(_("checksum"), max_length=128, blank=True)  # "crc32:…"
    content_type = models.CharField(_("content type"), max_length=255, blank=True)
    verified = models.CharField(
        _("verified by"), max_length=16, blank=True
    )  # "size", "checksum" or "content"
    generation = models.PositiveIntegerField(_("generation"), default=1)  # of its content
    attempts = models.PositiveIntegerField(_("attempts"), default=0)  # since the last request
    sent = models.BigIntegerField(_("sent"), default=0)  # bytes, by the running attempt
    due_at = UTCDateTimeField(_("due at"), null=True, blank=True)
    lease_token = models.CharField(_("lease"), max_length=32, blank=True)  # "" if unclaimed
    host = models.CharField(_("host"), max_length=HOST_MAX_LENGTH, blank=True)  # that saved it
    last_error = models.TextField(_("last error"), blank=True)
    saved_at = UTCDateTimeField(_("saved at"))
    transferred_at = UTCDateTimeField(_("transferred at"), null=True, blank=True)
    evicted_at = UTCDateTimeField(_("evicted at"), null=True, blank=True)
    failures = models.JSONField(_("failures"), default=list, blank=True)  # the last few attempts
    # The digest of the place that the file was, or will be, uploaded to, as it was when the file
    # was saved. 0 for one that cannot be told from others. NULL in rows of earlier versions: the
    # place at which the alias was first seen.
    place = models.BigIntegerField(_("place"), null=True, blank=True)
    priority = models.SmallIntegerField(_("priority"), db_default=0)  # lower ones go first

    class Meta:
        app_label = "queued_storage"
        verbose_name = _("queued file")
        verbose_name_plural = _("queued files")
        default_permissions = ["view"]  # rows are never added, changed or deleted by hand
        permissions = [
            ("retry_queuedfile", _("Can retry failed files")),
            ("transfer_queuedfile", _("Can transfer files now")),
            ("cancel_queuedfile", _("Can cancel transfers")),
            ("evict_queuedfile", _("Can evict local copies")),
            ("restore_queuedfile", _("Can restore files to local storage")),
            ("verify_queuedfile", _("Can verify copies")),
            ("accept_local_queuedfile", _("Can accept changed local copies")),
        ]
        constraints = [
            models.UniqueConstraint(fields=["alias", "name"], name="queued_storage_name_unique")
        ]
        indexes = [
            # They contain all columns that a sweep and a status need, so that neither reads a row.
            # Most files have nothing to do, and need no entry.
            PartialIndex(
                fields=["alias", "priority", "due_at", "host", "is_local", "id"],
                name="queued_storage_scheduled",
                where=models.Q(due_at__isnull=False),
            ),
            models.Index(
                fields=["alias", "state", "transferred_at", "saved_at", "size"],
                name="queued_storage_state",
            ),
            # The local copies: their size in one range, and those to evict in the order of "id".
            models.Index(
                fields=["alias", "is_local", "id", "host", "size"], name="queued_storage_local"
            ),
        ]

    def __str__(self) -> str:
        return one_line(f"{self.name} ({self.alias})")

    @property
    def is_remote(self) -> bool:
        """Whether reads go to the remote."""
        return is_read_remotely(self.state, self.is_local, self.remote_name)

    @property
    def sending(self) -> Sending | None:
        """The upload that may have reached the remote, under ``object_name``, without an answer."""
        return Sending.parse(self.unconfirmed)

    @property
    def object_name(self) -> str:
        """The name under which the remote has the file, or may have it; "" if it was never sent."""
        return self.remote_name or (self.name if self.unconfirmed else "")

    @property
    def is_object_its_own(self) -> bool:
        """Whether an answered upload made the object; else only its bytes can prove whose it is."""
        return bool(self.remote_name) and not self.unconfirmed

    @property
    def is_tried(self) -> bool:
        """Whether the row says that this claim may upload the file."""
        sending = self.sending
        return sending is not None and sending.token == self.lease_token != ""

    @property
    def lease_expires_at(self) -> datetime | None:
        """When the claim ends unless it is renewed; None for an unclaimed row."""
        return self.due_at if self.lease_token else None

    def failures_with(self, error: str) -> list[dict[str, Any]]:
        """The failed attempts, including the one of this claim, which failed now.

        The time is from this host's clock. It is only shown, never compared.
        """
        failure = {
            "at": host_time().isoformat(timespec="seconds"),
            "host": settings.host,
            "attempt": self.attempts,
            "work": self.state,
            "error": error,
        }
        return [*self.failures, failure][-MAX_FAILURES:]
