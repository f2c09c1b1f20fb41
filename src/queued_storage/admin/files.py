"""The ledger in Django's admin: to be looked at and steered, not edited."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.db.models import Count, Q, QuerySet, Sum
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat, truncatechars
from django.urls import URLPattern, path, reverse
from django.utils import formats, timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State, is_reachable_from_here
from ..operations import comparison, errands, steering
from . import dashboard, overview
from .changelist import (
    CappedPaginator,
    HostFilter,
    QueuedFileChangeList,
    StateFilter,
    StorageFilter,
)

# What a browser shows without running anything in it; an SVG may hold scripts.
PICTURES = frozenset(
    {"image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"}
)
PICTURE_MAX_SIZE = 20 * 1024 * 1024  # bytes
MOST_ROWS = 10_000  # that an action changes in the ledger
MOST_FILES = 100  # whose bytes, or remote copies, an action asks for within the request
MOST_BYTES = 100 * 1024 * 1024
MOST_MESSAGES = 10
LAST_CHARACTER = "\U0010ffff"


@admin.register(QueuedFile)
class QueuedFileAdmin(admin.ModelAdmin):
    actions = ["retry", "transfer", "cancel", "evict", "restore", "verify"]
    date_hierarchy = "saved_at"
    list_display = ["name", "status", "length", "age", "alias"]
    list_filter = [StateFilter, StorageFilter, HostFilter, "is_local"]
    ordering = ["-pk"]
    paginator = CappedPaginator
    search_fields = ["name"]
    search_help_text = _("The beginning of a name; with a * in front, any part of it.")
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    sortable_by = ()
    fieldsets = [
        (None, {"fields": ["name", "alias", "state_only", "error", "preview"]}),
        (
            _("Content"),
            {"fields": ["length", "content_type", "checksum", "generation", "saved_at"]},
        ),
        (
            _("Copies"),
            {
                "fields": [
                    "is_local",
                    "host",
                    "remote_name",
                    "verified",
                    "transferred_at",
                    "evicted_at",
                ]
            },
        ),
        (_("Attempts"), {"fields": ["attempts", "progress", "due_at", "task", "history"]}),
    ]

    class Media:
        css = {"all": ["queued_storage/admin.css"]}

    # Who may do what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def _may(self, request: HttpRequest, action: str) -> bool:
        return request.user.has_perm(f"queued_storage.{action}_queuedfile")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "retry")

    def has_transfer_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "transfer")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "cancel")

    def has_evict_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "evict")

    def has_restore_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "restore")

    def has_verify_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "verify")

    # The list

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return ledger().order_by(*self.ordering)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return [*self.list_display, *(["host"] if settings.local_per_host else [])]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return QueuedFileChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """By the beginning of the name, where an index can help."""
        term = search_term.strip()
        if term.startswith("*"):
            return queryset.filter(name__icontains=term.lstrip("*")), False
        if not term:
            return queryset, False
        starts = Q(name__startswith=term)
        if connections[queryset.db].vendor != "postgresql":
            # These compare names by their bytes, so it is a range of the unique index. Of
            # PostgreSQL's collations only "C" does, and there it finds that out by itself.
            starts = Q(name__gte=term, name__lt=term + LAST_CHARACTER)
        return queryset.filter(starts, alias__in=overview.aliases()), False

    @admin.display(description=_("state"))
    def status(self, row: QueuedFile) -> SafeString:
        state = _state(row)
        if row.state == State.TRANSFERRING and row.size:
            return format_html("{} {}", state, self.progress(row))
        if not row.last_error:
            return state
        text = truncatechars(row.last_error, 100)
        return format_html('{}<span class="queued-error">{}</span>', state, text)

    @admin.display(description=_("progress"))
    def progress(self, row: QueuedFile) -> SafeString | str:
        if not row.size or row.state != State.TRANSFERRING:
            return "-"
        percent = int(100 * min(row.sent, row.size) / row.size)
        return format_html(
            '<progress max="100" value="{0}" title="{0} %">{0} %</progress>', percent
        )

    @admin.display(description=_("size"))
    def length(self, row: QueuedFile) -> SafeString:
        exact = ngettext("%d byte", "%d bytes", row.size) % row.size
        return format_html('<span title="{}">{}</span>', exact, filesizeformat(row.size))

    @admin.display(description=_("age"))
    def age(self, row: QueuedFile) -> SafeString:
        return format_html(
            '<time datetime="{}" title="{}">{}</time>',
            row.saved_at.isoformat(),
            formats.localize(_local(row.saved_at)),
            timesince(row.saved_at, depth=1),
        )

    # One file

    @admin.display(description=_("state"))
    def state_only(self, row: QueuedFile) -> SafeString:
        return _state(row)

    @admin.display(description=_("last error"))
    def error(self, row: QueuedFile) -> str:
        return row.last_error or "-"

    @admin.display(description=_("picture"))
    def preview(self, row: QueuedFile) -> SafeString | str:
        if not _is_picture(row):
            return "-"
        url = reverse(
            "admin:queued_storage_queuedfile_preview",
            args=[row.pk],
            current_app=self.admin_site.name,
        )
        return format_html(
            '<img class="queued-preview" src="{}?{}" alt="{}" loading="lazy">',
            url,
            row.generation,
            row.name,
        )

    @admin.display(description=_("attempts that failed"))
    def history(self, row: QueuedFile) -> SafeString | str:
        if not row.failures:
            return "-"
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (_failure_cells(failure) for failure in reversed(row.failures)),
        )
        heads = [_("when"), _("attempt"), _("state"), _("host"), _("error")]
        head = format_html_join("", '<th scope="col">{}</th>', ([text] for text in heads))
        return format_html(
            '<div class="queued-scroll"><table class="queued-history"><thead><tr>{}</tr></thead>'
            "<tbody>{}</tbody></table></div>",
            head,
            rows,
        )

    # Other pages

    def get_urls(self) -> list[URLPattern]:
        def view(function: Callable[..., Any]) -> Any:
            return self.admin_site.admin_view(function)

        prefix = "queued_storage_queuedfile"
        return [
            path("dashboard/", view(self._dashboard), name=f"{prefix}_dashboard"),
            path(
                "dashboard/numbers/",
                view(self._dashboard_numbers),
                name=f"{prefix}_dashboard_numbers",
            ),
            path("<int:pk>/preview/", view(self._preview), name=f"{prefix}_preview"),
            *super().get_urls(),
        ]

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _dashboard(self, request: HttpRequest) -> HttpResponse:
        self._require_view(request)
        return dashboard.page(request, self.admin_site)

    def _dashboard_numbers(self, request: HttpRequest) -> HttpResponse:
        self._require_view(request)
        return dashboard.numbers(request, self.admin_site)

    def _preview(self, request: HttpRequest, pk: int) -> HttpResponse | FileResponse:
        """The picture: the local copy, or the way to the remote one."""
        self._require_view(request)
        row = self.get_queryset(request).filter(pk=pk).first()
        if row is None or not _is_picture(row):
            raise Http404
        try:
            storage: Any = storage_for(row.alias, row.task)
            if row.is_local and is_reachable_from_here(row.host):
                return _picture(storage.local.open(row.name), row.content_type)
            if row.is_remote:
                return HttpResponseRedirect(storage.url(row.name))
        except Exception as error:  # no such file, no address, no such storage here
            raise Http404 from error
        raise Http404

    # Actions

    @admin.action(permissions=["retry"], description=_("Retry what failed"))
    def retry(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._steer(request, rows, steering.retry, _("to be tried again"))

    @admin.action(permissions=["transfer"], description=_("Transfer now"))
    def transfer(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._steer(request, rows, steering.transfer, _("due now"))

    @admin.action(permissions=["cancel"], description=_("Cancel the transfer"))
    def cancel(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._steer(request, rows, steering.cancel, _("held"))

    @admin.action(permissions=["evict"], description=_("Free the local copy"))
    def evict(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._steer(request, rows, errands.evict, _("local copy freed"), at_once=True)

    @admin.action(permissions=["restore"], description=_("Bring back to local storage"))
    def restore(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        self._steer(request, rows, errands.restore, _("local again"), at_once=True)

    @admin.action(permissions=["verify"], description=_("Verify both copies"))
    def verify(self, request: HttpRequest, rows: QueuedFileQuerySet) -> None:
        if self._is_too_much(request, rows, at_once=True):
            return
        findings = list(comparison.verify(rows))  # two a file at most
        for finding in findings[:MOST_MESSAGES]:
            text = f"{finding.name}: {finding.side}: {finding.kind}. {finding.details}"
            self.message_user(request, text, messages.ERROR)
        if not findings:
            self.message_user(request, gettext("All is as the ledger has it."), messages.SUCCESS)

    def _steer(
        self,
        request: HttpRequest,
        rows: QueuedFileQuerySet,
        verb: Callable[..., int],
        done: Any,
        *,
        at_once: bool = False,
    ) -> None:
        if self._is_too_much(request, rows, at_once=at_once):
            return
        errors: list[str] = []
        count = verb(rows, lambda step: errors.append(step.error) if step.error else None)
        text = ngettext("%(count)d file: %(done)s.", "%(count)d files: %(done)s.", count)
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, text % {"count": count, "done": done}, level)
        for error in errors[:MOST_MESSAGES]:
            self.message_user(request, error, messages.ERROR)

    def _is_too_much(
        self, request: HttpRequest, rows: QueuedFileQuerySet, *, at_once: bool
    ) -> bool:
        """Whether it would keep this request busy for too long; says so."""
        limit = MOST_FILES if at_once else MOST_ROWS
        sizes = rows.order_by().values_list("size", flat=True)[: limit + 1]
        found: dict[str, Any] = sizes.aggregate(files=Count("size"), bytes=Sum("size"))
        if found["files"] <= limit and not (at_once and (found["bytes"] or 0) > MOST_BYTES):
            return False
        text = gettext(
            "Nothing was done: that is too much for one page. Choose fewer files, or use the "
            "command queued_storage."
        )
        self.message_user(request, text, messages.ERROR)
        return True


def _state(row: QueuedFile) -> SafeString:
    return format_html(
        '<span class="queued-state queued-{}">{}</span>', row.state, row.get_state_display()
    )


def _local(time: datetime) -> datetime:
    return timezone.localtime(time) if timezone.is_aware(time) else time


def _failure_cells(failure: dict[str, Any]) -> list[Any]:
    at = parse_datetime(failure["at"])
    when = formats.localize(_local(at)) if at else failure["at"]
    work = dict(State.choices).get(failure["work"], failure["work"])
    return [when, failure["attempt"], work, failure["host"], failure["error"]]


def _is_picture(row: QueuedFile) -> bool:
    """Whether to show it: no content type that is claimed leads to anything but a picture."""
    shown = row.content_type in PICTURES and row.size <= PICTURE_MAX_SIZE
    return shown and row.state != State.DELETING


def _picture(file: Any, content_type: str) -> FileResponse:
    return FileResponse(
        file,
        content_type=content_type,
        headers={
            "Cache-Control": "private, no-cache",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        },
    )
