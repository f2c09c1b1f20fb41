"""Actions on the files of the change list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Sum
from django.http import HttpRequest
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from ..ledger.database import QueuedFileQuerySet
from ..operations import acceptance, comparison, errands, steering
from ..operations.comparison import Kind
from ..operations.passes import Step
from .formats import Number

MAX_ROWS = 10_000  # for an action that only changes the ledger
MAX_FILES = 100  # for an action that calls the remote, or reads files, during the request
MAX_BYTES = 100 * 1024 * 1024  # for the same
MAX_ERRORS = 10  # shown on the page


@dataclass(frozen=True)
class Texts:
    """What an action says when it is over."""

    done: Any  # with the number of files
    none: Any  # if there were none
    failed: Any = ""  # with the name of a file and the error


RETRY = Texts(
    ngettext_lazy("%(count)s file will be retried.", "%(count)s files will be retried.", "count"),
    _("None of the selected files can be retried."),
)
TRANSFER = Texts(
    ngettext_lazy(
        "%(count)s file will be transferred now.",
        "%(count)s files will be transferred now.",
        "count",
    ),
    _("None of the selected files can be transferred now."),
)
CANCEL = Texts(
    ngettext_lazy(
        "%(count)s transfer was cancelled.", "%(count)s transfers were cancelled.", "count"
    ),
    _("None of the selected files has a transfer to cancel."),
)
EVICT = Texts(
    ngettext_lazy(
        "%(count)s local copy was evicted.", "%(count)s local copies were evicted.", "count"
    ),
    _("No local copy was evicted."),
    _("The local copy of %(name)s was not evicted. %(error)s"),
)
RESTORE = Texts(
    ngettext_lazy(
        "%(count)s file was restored to local storage.",
        "%(count)s files were restored to local storage.",
        "count",
    ),
    _("No file was restored to local storage."),
    _("%(name)s was not restored. %(error)s"),
)
ACCEPT = Texts(
    ngettext_lazy(
        "%(count)s changed local copy will be transferred.",
        "%(count)s changed local copies will be transferred.",
        "count",
    ),
    _("None of the selected files has a local copy that was changed."),
    _("The local copy of %(name)s was not accepted. %(error)s"),
)
DIFFERENCES = {
    ("local", Kind.MISSING): _("The local copy of %(name)s is missing. %(details)s"),
    ("local", Kind.EXTRA): _("%(name)s has an unexpected local copy. %(details)s"),
    ("local", Kind.DIFFERENT): _("The local copy of %(name)s is different. %(details)s"),
    ("local", Kind.UNREADABLE): _("The local copy of %(name)s could not be checked. %(details)s"),
    ("remote", Kind.MISSING): _("The remote copy of %(name)s is missing. %(details)s"),
    ("remote", Kind.DIFFERENT): _("The remote copy of %(name)s is different. %(details)s"),
    ("remote", Kind.UNREADABLE): _("The remote copy of %(name)s could not be checked. %(details)s"),
}


def _permission(name: str) -> Callable[[Any, HttpRequest], bool]:
    """Return the method by which Django's admin asks for the permission of an action."""

    def has_permission(self: Any, request: HttpRequest) -> bool:
        return request.user.has_perm(f"queued_storage.{name}_queuedfile")

    return has_permission


class FileActions(admin.ModelAdmin):
    """Each action requires the permission of its name, ``retry_queuedfile`` for ``retry``."""

    actions = ("retry", "transfer", "cancel", "evict", "restore", "verify", "accept_local")

    has_retry_permission = _permission("retry")
    has_transfer_permission = _permission("transfer")
    has_cancel_permission = _permission("cancel")
    has_evict_permission = _permission("evict")
    has_restore_permission = _permission("restore")
    has_verify_permission = _permission("verify")
    has_accept_local_permission = _permission("accept_local")

    @admin.action(permissions=["retry"], description=_("Retry selected files"))
    def retry(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if _is_in_limit(request, rows):
            _run(request, rows, steering.retry, RETRY)

    @admin.action(permissions=["transfer"], description=_("Transfer selected files now"))
    def transfer(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if _is_in_limit(request, rows):
            _run(request, rows, steering.transfer, TRANSFER)

    @admin.action(permissions=["cancel"], description=_("Cancel transfers of selected files"))
    def cancel(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if _is_in_limit(request, rows):
            _run(request, rows, steering.cancel, CANCEL)

    @admin.action(permissions=["evict"], description=_("Evict local copies of selected files"))
    def evict(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if _is_in_remote_limit(request, rows):
            _run(request, rows, errands.evict, EVICT)

    @admin.action(permissions=["restore"], description=_("Restore selected files to local storage"))
    def restore(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if _is_in_remote_limit(request, rows):
            _run(request, rows, errands.restore, RESTORE)

    @admin.action(permissions=["verify"], description=_("Verify both copies of selected files"))
    def verify(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if not _is_in_remote_limit(request, rows):
            return
        found = list(comparison.verify(rows))  # at most two for each file
        if not found:
            messages.success(request, gettext("No differences found."))
        _show_errors(
            request,
            [
                DIFFERENCES[each.side, each.kind] % {"name": each.name, "details": each.details}
                for each in found
            ],
        )

    @admin.action(permissions=["accept_local"], description=_("Accept changed local copies"))
    def accept_local(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if _is_in_remote_limit(request, rows):
            _run(request, rows, acceptance.accept_local, ACCEPT)


def _is_in_limit(request: HttpRequest, rows: QueuedFileQuerySet) -> bool:
    """Whether the request can change the rows within a reasonable time; otherwise say so."""
    if rows.order_by().values("pk")[: MAX_ROWS + 1].count() <= MAX_ROWS:
        return True
    _refuse(request)
    return False


def _is_in_remote_limit(request: HttpRequest, rows: QueuedFileQuerySet) -> bool:
    """The same for an action that calls the remote, or reads bytes, for each file."""
    sizes = rows.order_by().values_list("size", flat=True)[: MAX_FILES + 1]
    found: dict[str, Any] = sizes.aggregate(files=Count("size"), bytes=Sum("size", default=0))
    if found["files"] <= MAX_FILES and found["bytes"] <= MAX_BYTES:
        return True
    _refuse(request)
    return False


def _refuse(request: HttpRequest) -> None:
    text = gettext(
        "Nothing was changed: too many files are selected. Select fewer, or use "
        "manage.py queued_storage."
    )
    messages.error(request, text)


def _run(
    request: HttpRequest, rows: QueuedFileQuerySet, verb: Callable[..., int], texts: Texts
) -> None:
    failed: list[Step] = []

    def note(step: Step) -> None:
        if step.error:
            failed.append(step)

    count = verb(rows, note)
    if count:
        messages.success(request, texts.done % {"count": Number(count)})
    else:
        messages.warning(request, texts.none)
    _show_errors(
        request, [texts.failed % {"name": step.name, "error": step.error} for step in failed]
    )


def _show_errors(request: HttpRequest, errors: list[str]) -> None:
    for error in errors[:MAX_ERRORS]:
        messages.error(request, error)
    if (left := len(errors) - MAX_ERRORS) > 0:
        text = ngettext(
            "%(count)s more error is not shown.", "%(count)s more errors are not shown.", left
        )
        messages.error(request, text % {"count": Number(left)})
