"""Actions on the files of the change list."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from ..ledger.database import QueuedFileQuerySet, ledger_database
from ..ledger.jobs import Action, are_available
from ..ledger.priorities import priority_of
from ..operations import jobs, steering
from .base import LedgerAdmin
from .formats import Number
from .jobs import url_of
from .log import Asked, log_request

MAX_ROWS = 10_000  # for an action that the request carries out itself, in the ledger only
MAX_FILES = 100_000  # for an action that workers carry out


@dataclass(frozen=True)
class Texts:
    """What an action says to the user, and in the admin's log."""

    done: Any  # with the number of files
    none: Any  # if there were none
    log: Any


RETRY = Texts(
    ngettext_lazy("%(count)s file will be retried.", "%(count)s files will be retried.", "count"),
    _("None of the selected files can be retried."),
    _("Retry requested."),
)
TRANSFER = Texts(
    ngettext_lazy(
        "%(count)s file will be transferred now.",
        "%(count)s files will be transferred now.",
        "count",
    ),
    _("None of the selected files can be transferred now."),
    _("Transfer requested."),
)
PRIORITIZE = Texts(
    ngettext_lazy(
        "%(count)s file has another priority now.",
        "%(count)s files have another priority now.",
        "count",
    ),
    _("None of the selected files is waiting with another priority."),
    _("Change of the priority requested."),
)
CANCEL = Texts(
    ngettext_lazy(
        "%(count)s transfer was cancelled.", "%(count)s transfers were cancelled.", "count"
    ),
    _("None of the selected files has a transfer to cancel."),
    _("Cancellation of the transfer requested."),
)
EVICT = Texts(
    ngettext_lazy(
        "A worker will evict %(count)s local copy.",
        "A worker will evict %(count)s local copies.",
        "count",
    ),
    _("None of the selected files has a local copy that can be evicted."),
    _("Eviction requested."),
)
RESTORE = Texts(
    ngettext_lazy(
        "A worker will restore %(count)s file to local storage.",
        "A worker will restore %(count)s files to local storage.",
        "count",
    ),
    _("None of the selected files can be restored to local storage."),
    _("Restore requested."),
)
VERIFY = Texts(
    ngettext_lazy(
        "A worker will verify both copies of %(count)s file.",
        "A worker will verify both copies of %(count)s files.",
        "count",
    ),
    _("None of the selected files can be verified."),
    _("Verification requested."),
)
ACCEPT_LOCAL = Texts(
    ngettext_lazy(
        "A worker will accept the local copy of %(count)s file if it was changed.",
        "A worker will accept the local copies of %(count)s files if they were changed.",
        "count",
    ),
    _("None of the selected files has a local copy."),
    _("Acceptance of changed local copies requested."),
)


def _permission(name: str) -> Callable[[Any, HttpRequest], bool]:
    """Return the method by which Django's admin asks for the permission of an action."""

    def has_permission(self: Any, request: HttpRequest) -> bool:
        return request.user.has_perm(f"queued_storage.{name}_queuedfile")

    return has_permission


class FileActions(LedgerAdmin):
    """Each action requires the permission of its name, ``retry_queuedfile`` for ``retry``."""

    actions = (
        *("retry", "transfer", "go_first", "go_normally", "go_last", "cancel"),
        *("evict", "restore", "verify", "accept_local"),
    )

    has_retry_permission = _permission("retry")
    has_transfer_permission = _permission("transfer")
    has_cancel_permission = _permission("cancel")
    has_evict_permission = _permission("evict")
    has_restore_permission = _permission("restore")
    has_verify_permission = _permission("verify")
    has_accept_local_permission = _permission("accept_local")

    @admin.action(permissions=["retry"], description=_("Retry selected files"))
    def retry(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        run(request, rows, steering.retry, RETRY)

    @admin.action(permissions=["transfer"], description=_("Transfer selected files now"))
    def transfer(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        run(request, rows, steering.transfer, TRANSFER)

    # For the order of transfers, the permission to request one is enough.

    @admin.action(permissions=["transfer"], description=_("Give selected files a high priority"))
    def go_first(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        _prioritize(request, rows, "high")

    @admin.action(permissions=["transfer"], description=_("Give selected files a normal priority"))
    def go_normally(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        _prioritize(request, rows, "normal")

    @admin.action(permissions=["transfer"], description=_("Give selected files a low priority"))
    def go_last(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        _prioritize(request, rows, "low")

    @admin.action(permissions=["cancel"], description=_("Cancel transfers of selected files"))
    def cancel(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        run(request, rows, steering.cancel, CANCEL)

    # The remote may be slow or away, so no request may wait for it: workers do these.

    @admin.action(permissions=["evict"], description=_("Evict local copies of selected files"))
    def evict(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._request_job(request, rows, Action.EVICT, EVICT)

    @admin.action(permissions=["restore"], description=_("Restore selected files to local storage"))
    def restore(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._request_job(request, rows, Action.RESTORE, RESTORE)

    @admin.action(permissions=["verify"], description=_("Verify both copies of selected files"))
    def verify(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._request_job(request, rows, Action.VERIFY, VERIFY)

    def _request_job(
        self, request: HttpRequest, rows: QueuedFileQuerySet, action: Action, texts: Texts
    ) -> None:
        if not are_available():
            messages.error(request, gettext("Nothing was changed: run manage.py migrate first."))
            return
        rows = jobs.applicable(action, rows)
        if not is_in_limit(request, rows, MAX_FILES):
            return
        asked = Asked(rows)
        with transaction.atomic(using=ledger_database()):
            found = jobs.request(action, rows, request.user.get_username())
        if not found:
            messages.warning(request, texts.none)
            return
        asked.log(request, texts.log)
        log_request(request, found, texts.log)
        text = texts.done % {"count": Number(sum(job.files for job in found))}
        url = url_of(self.admin_site, request, found)
        link = format_html(' <a href="{}">{}</a>', url, gettext("Show the progress")) if url else ""
        messages.success(request, format_html("{}{}", text, link))

    @admin.action(permissions=["accept_local"], description=_("Accept changed local copies"))
    def accept_local(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._request_job(request, rows, Action.ACCEPT_LOCAL, ACCEPT_LOCAL)


def is_in_limit(request: HttpRequest, rows: QuerySet, limit: int | None = None) -> bool:
    """Whether the request can process the rows within a reasonable time; otherwise say so."""
    limit = MAX_ROWS if limit is None else limit
    if rows.order_by().values("pk")[: limit + 1].count() <= limit:
        return True
    text = gettext(
        "Nothing was changed: too many files are selected. Select fewer, or use "
        "manage.py queued_storage."
    )
    messages.error(request, text)
    return False


def _prioritize(request: HttpRequest, rows: QueuedFileQuerySet, name: str) -> None:
    verb = partial(steering.prioritize, priority=priority_of(name))
    run(request, rows, verb, PRIORITIZE)


def run(
    request: HttpRequest, rows: QueuedFileQuerySet, verb: Callable[..., int], texts: Texts
) -> None:
    """Carry out an action that only changes the ledger."""
    if not is_in_limit(request, rows):
        return
    asked = Asked(rows)
    count = verb(rows)
    if count:
        asked.log(request, texts.log)
        messages.success(request, texts.done % {"count": Number(count)})
    else:
        messages.warning(request, texts.none)
