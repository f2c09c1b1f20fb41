"""Entries in the admin's log, which say who asked for what."""

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import ngettext_lazy

from ..ledger.database import QueuedFileQuerySet
from ..ledger.jobs import Job
from ..ledger.models import QueuedFile
from .formats import Number

MAX_ENTRIES = 100  # files of one action that have an entry each; more have one together

MANY = ngettext_lazy("%(count)s queued file", "%(count)s queued files", "count")


class Asked:
    """The files that an action was requested for, as they were before it."""

    def __init__(self, rows: QueuedFileQuerySet) -> None:
        self._first: list[QueuedFile] = list(rows[: MAX_ENTRIES + 1])
        self._count = len(self._first)
        if self._count > MAX_ENTRIES:
            self._count = rows.order_by().count()

    def log(self, request: HttpRequest, text: str) -> None:
        """Add an entry for each file; for very many files, one entry with their number."""
        if self._count <= MAX_ENTRIES:
            _log(request, self._first, CHANGE, text)
            return
        LogEntry.objects.create(
            user_id=_user(request),
            content_type=ContentType.objects.get_for_model(QueuedFile),
            object_repr=MANY % {"count": Number(self._count)},
            action_flag=CHANGE,
            change_message=text,
        )


def log_request(request: HttpRequest, jobs: Sequence[Job], text: str) -> None:
    _log(request, jobs, ADDITION, text)


def log_change(request: HttpRequest, rows: Sequence[Model], text: str) -> None:
    _log(request, rows, CHANGE, text)


def _log(request: HttpRequest, rows: Sequence[Any], flag: int, text: str) -> None:
    if rows:
        LogEntry.objects.log_actions(_user(request), rows, flag, text)


def _user(request: HttpRequest) -> Any:
    return request.user.pk
