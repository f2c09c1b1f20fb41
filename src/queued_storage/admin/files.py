"""The change list of the ledger, with a page for each file."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.db.models import Q, QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.template.defaultfilters import truncatechars
from django.urls import URLPattern, path, reverse
from django.utils import formats
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..conf import settings
from ..health import outside_transactions
from ..ledger.copies import copies
from ..ledger.database import ledger
from ..ledger.measures import aliases
from ..ledger.models import QueuedFile
from ..ledger.priorities import name_of
from ..ledger.remotes import remotes as remotes_of_ledger
from ..ledger.sql.clock import seconds_between
from ..ledger.states import State
from ..operations.tiers import ways
from ..storage.tiers import Tier
from . import dashboard, errors, overview, preview, remotes
from .actions import FileActions
from .changelist import (
    WITHIN,
    AttemptFilter,
    CappedPaginator,
    CopiesFilter,
    ErrorFilter,
    HostFilter,
    LocalCopyFilter,
    PriorityFilter,
    QueuedFileChangeList,
    StateFilter,
    StorageFilter,
)
from .dates import PARTS
from .formats import BYTES, SIZE, Number, age, later, local_time

LAST_CHARACTER = "\U0010ffff"
NONE = "-"
# What the links of the change list have in their query strings
LOOKUPS = {"state", "alias", "host", "priority", "attempt", "error", "copies"}
LOOKUPS |= {"is_local__exact", "is_local__isnull"}
LOOKUPS |= {f"saved_at__{part}" for part in PARTS}


@admin.register(QueuedFile)
class QueuedFileAdmin(FileActions):
    date_hierarchy = "saved_at"
    list_display = ["name", "status", "length", "age", "tries", "alias"]
    list_filter = [
        *(StateFilter, AttemptFilter, ErrorFilter, StorageFilter, HostFilter, PriorityFilter),
        ("is_local", LocalCopyFilter),
        CopiesFilter,
    ]
    ordering = ["-pk"]
    paginator = CappedPaginator
    search_fields = ["name"]
    search_help_text = _(
        "Finds names that start with the search term, from an index. Start the term with * to "
        "search within names: this reads every row that the filters find."
    )
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
                    "further_copies",
                    "tiers",
                ]
            },
        ),
        (
            _("Attempts"),
            {"fields": ["attempts", "progress", "due_at", "priority_name", "task", "history"]},
        ),
    ]

    class Media:
        css = {"all": ["queued_storage/admin.css"]}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # The change list

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return ledger().order_by(*self.ordering)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return [*self.list_display, *(["host"] if settings.local_per_host else [])]

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup in LOOKUPS  # each filter takes any value

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return QueuedFileChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """Search for the start of the name, because an index supports that."""
        term = search_term.strip()
        if term.startswith(WITHIN):
            return queryset.filter(name__icontains=term.lstrip(WITHIN)), False
        if not term:
            return queryset, False
        starts = Q(name__startswith=term)
        if connections[queryset.db].vendor != "postgresql":
            # These databases compare names by their bytes, so the unique index has the names in a
            # range. On PostgreSQL that is true of the collation "C" only, and there it uses the
            # index for LIKE as well.
            starts = Q(name__gte=term, name__lt=term + LAST_CHARACTER)
        return queryset.filter(starts, alias__in=aliases(overview.ALIASES)), False

    @admin.display(description=_("state"))
    def status(self, row: QueuedFile) -> SafeString:
        state = _state(row)
        if tier := getattr(row, "tier", None):
            inner = _state(tier.row) if tier.row else gettext("unknown")
            state = format_html("{} → {} {}", state, tier.storage.alias, inner)
        if row.state == State.TRANSFERRING and row.size:
            return format_html("{} {}", state, self.progress(row))
        if not row.last_error:
            return state
        text = truncatechars(row.last_error, 100)
        return format_html('{}<span class="queued-error">{}</span>', state, text)

    @admin.display(description=_("progress"))
    def progress(self, row: QueuedFile) -> SafeString | str:
        if not row.size or row.state != State.TRANSFERRING:
            return NONE
        percent = int(100 * min(row.sent, row.size) / row.size)
        return format_html(
            '<progress max="100" value="{0}" class="queued-meter" title="{0} %">{0} %</progress>',
            percent,
        )

    @admin.display(description=_("size"))
    def length(self, row: QueuedFile) -> SafeString:
        exact = BYTES % {"count": Number(row.size)}
        return format_html('<span title="{}">{}</span>', exact, SIZE(row.size))

    @admin.display(description=_("age"))
    def age(self, row: Any) -> SafeString:
        return format_html(
            '<time datetime="{}" title="{}">{}</time>',
            row.saved_at.isoformat(),
            _when(row.saved_at),
            age(row.saved_at, row.read_at),
        )

    @admin.display(description=_("attempts"))
    def tries(self, row: Any) -> SafeString:
        """How many there were, and when the next one is."""
        return format_html(
            '{}<span class="queued-details queued-next">{}</span>',
            Number(row.attempts),
            self._next_attempt(row),
        )

    def _next_attempt(self, row: Any) -> SafeString | str:
        if row.due_at is None or row.lease_token:
            return ""
        if row.waits_for_remote:
            return gettext("next when the remote is open")
        when = later(seconds_between(row.read_at, row.due_at))
        return format_html(
            '<time datetime="{}" title="{}">{}</time>',
            row.due_at.isoformat(),
            _when(row.due_at),
            gettext("next %(when)s") % {"when": when},
        )

    # The page of one file

    @admin.display(description=_("state"))
    def state_only(self, row: QueuedFile) -> SafeString:
        return _state(row)

    @admin.display(description=_("priority"))
    def priority_name(self, row: QueuedFile) -> str:
        return gettext(name_of(row.priority))  # which the filter has marked for translation

    @admin.display(description=_("last error"))
    def error(self, row: QueuedFile) -> str:
        return row.last_error or NONE

    @admin.display(description=_("preview"))
    def preview(self, row: QueuedFile) -> SafeString | str:
        if not preview.has_preview(row):
            return NONE
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

    @admin.display(description=_("further copies"))
    def further_copies(self, row: QueuedFile) -> SafeString | str:
        """The copies on mirrors and at previous remotes."""
        found = list(copies().of(row).order_by("pk"))
        if not found:
            return NONE
        known = remotes_of_ledger().filter(alias=row.alias).values_list("digest", "place")
        places = dict(known)
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                [
                    places.get(copy.place, copy.place),
                    copy.remote_name,
                    copy.get_state_display(),
                    copy.verified,
                    copy.last_error,
                ]
                for copy in found
            ),
        )
        return _table(
            [_("place"), _("name on the remote"), _("state"), _("verified by"), _("error")], rows
        )

    @admin.display(description=_("tiers"))
    def tiers(self, row: QueuedFile) -> SafeString | str:
        """How far the file has got, if the remote is a queued storage."""
        found = ways([row]).get(row.pk, [])
        if not found:
            return NONE
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                [
                    tier.storage.alias,
                    tier.storage.remote_place.description,
                    self._state_in(tier),
                    tier.row.last_error if tier.row else "",
                ]
                for tier in found
            ),
        )
        return _table([_("storage"), _("place"), _("state"), _("error")], rows)

    def _state_in(self, tier: Tier) -> SafeString | str:
        """The state of a file in another storage, with a link to its row there."""
        if tier.row is None:
            return gettext("unknown")
        url = reverse(
            "admin:queued_storage_queuedfile_change",
            args=[tier.row.pk],
            current_app=self.admin_site.name,
        )
        return format_html('<a href="{}">{}</a>', url, tier.row.get_state_display())

    @admin.display(description=_("failed attempts"))
    def history(self, row: QueuedFile) -> SafeString | str:
        if not row.failures:
            return NONE
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (_failure_cells(failure) for failure in reversed(row.failures)),
        )
        return _table([_("time"), _("attempt"), _("state"), _("host"), _("error")], rows)

    # Other pages

    def get_urls(self) -> list[URLPattern]:
        return [
            self._path("dashboard/", self._dashboard, "dashboard"),
            self._path("dashboard/numbers/", self._dashboard_numbers, "dashboard_numbers"),
            self._path("remotes/<slug:name>/", self._steer_remote, "remotes"),
            self._path("retry/", self._retry, "retry"),
            self._path("<int:pk>/preview/", self._preview, "preview"),
            *super().get_urls(),
        ]

    def _path(self, route: str, view: Callable[..., Any], name: str) -> URLPattern:
        # A preview may call a remote: where local copies are, or for a URL. What steers a remote is
        # told when it is committed, and must be told if the rest of the request fails.
        view = outside_transactions(self.admin_site.admin_view(view))
        return path(route, view, name=f"queued_storage_queuedfile_{name}")

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _dashboard(self, request: HttpRequest) -> HttpResponse:
        self._require_view(request)
        return dashboard.page(request, self.admin_site)

    def _dashboard_numbers(self, request: HttpRequest) -> HttpResponse:
        self._require_view(request)
        return dashboard.numbers(request, self.admin_site)

    def _steer_remote(self, request: HttpRequest, name: str) -> HttpResponse:
        self._require_view(request)
        return remotes.steer(request, name, self.admin_site)

    def _retry(self, request: HttpRequest) -> HttpResponse:
        self._require_view(request)
        return errors.retry(request, self.admin_site)

    def _preview(self, request: HttpRequest, pk: int) -> HttpResponse | FileResponse:
        self._require_view(request)
        row = self.get_queryset(request).filter(pk=pk).first()
        response = None if row is None else preview.response(row)
        if response is None:
            raise Http404
        return response


def _table(heads: list[Any], rows: SafeString) -> SafeString:
    head = format_html_join("", '<th scope="col">{}</th>', ([text] for text in heads))
    return format_html(
        '<div class="queued-scroll"><table class="queued-history"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>",
        head,
        rows,
    )


def _state(row: QueuedFile) -> SafeString:
    return format_html(
        '<span class="queued-state queued-{}">{}</span>', row.state, row.get_state_display()
    )


def _when(time: datetime) -> str:
    return formats.localize(local_time(time))


def _failure_cells(failure: dict[str, Any]) -> list[Any]:
    at = parse_datetime(failure["at"])
    state = dict(State.choices).get(failure["work"], failure["work"])
    when = _when(at) if at else failure["at"]
    return [when, failure["attempt"], state, failure["host"], failure["error"]]
