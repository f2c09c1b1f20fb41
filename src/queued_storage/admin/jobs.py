"""Jobs in the admin: their list, the page of one, and how they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from ..ledger.jobs import MAX_FINDINGS, Action, Job, Jobs, JobState, are_available, jobs
from ..ledger.sql.clock import seconds_from_now
from ..operations.comparison import Kind
from .base import LedgerAdmin
from .formats import Number
from .log import log_change

IDLE_AFTER = 60  # seconds after which a due job is shown as one without a worker
SHOWN = 20  # jobs on the dashboard
NONE = "-"

CANCELLED = ngettext_lazy("%(count)s job was cancelled.", "%(count)s jobs were cancelled.", "count")
NOT_CANCELLED = _("None of the selected jobs is pending or running.")
IDLE = _("No worker is processing it. Start a worker.")
PROBLEMS = {
    ("evict", None): _("The local copy was not evicted. %(error)s"),
    ("restore", None): _("The file was not restored. %(error)s"),
    ("local", Kind.MISSING): _("The local copy is missing. %(error)s"),
    ("local", Kind.EXTRA): _("There is an unexpected local copy. %(error)s"),
    ("local", Kind.DIFFERENT): _("The local copy is different. %(error)s"),
    ("local", Kind.UNREADABLE): _("The local copy could not be checked. %(error)s"),
    ("remote", Kind.MISSING): _("The remote copy is missing. %(error)s"),
    ("remote", Kind.DIFFERENT): _("The remote copy is different. %(error)s"),
    ("remote", Kind.UNREADABLE): _("The remote copy could not be checked. %(error)s"),
}


def url_of(site: AdminSite, request: HttpRequest, found: Sequence[Job]) -> str:
    """The page of a job, or the list of several; empty if the user cannot view them."""
    if not (site.is_registered(Job) and request.user.has_perm("queued_storage.view_job")):
        return ""
    if len(found) == 1:
        return reverse("admin:queued_storage_job_change", args=[found[0].pk], current_app=site.name)
    return reverse("admin:queued_storage_job_changelist", current_app=site.name)


def visible_jobs() -> Jobs:
    """All jobs without their long columns; those that no worker is processing are marked."""
    is_idle = Q(due_at__lte=seconds_from_now(-IDLE_AFTER))
    return jobs().defer("pks", "findings").annotate(is_idle=is_idle)


@dataclass(frozen=True)
class Line:
    """One job on the dashboard."""

    job: Any
    url: str
    percent: int
    progress: str


def lines(request: HttpRequest, site: AdminSite) -> list[Line]:
    """The unfinished jobs, the newest first."""
    if not are_available():
        return []
    found = visible_jobs().unfinished().order_by("-pk")[:SHOWN]
    return [Line(job, url_of(site, request, [job]), percent(job), progress(job)) for job in found]


def percent(job: Job) -> int:
    return int(100 * job.position / job.files) if job.files else 100


def progress(job: Job) -> str:
    numbers = {"position": Number(job.position), "files": Number(job.files)}
    if not job.failed:
        return gettext("%(position)s of %(files)s") % numbers
    numbers["failed"] = Number(job.failed)
    return gettext("%(position)s of %(files)s, %(failed)s failed") % numbers


@admin.register(Job)
class JobAdmin(LedgerAdmin):
    """Users with the permission ``view_job`` follow jobs; ``cancel_job`` lets them cancel some."""

    actions = ("cancel",)
    list_display = ["title", "alias", "status", "progress", "requested_by", "requested_at"]
    list_filter = ["state", "action"]
    lookups: ClassVar = {"state__exact": JobState.values, "action__exact": Action.values}
    ordering = ["-pk"]
    sortable_by = ()
    fieldsets = [
        (None, {"fields": ["title", "alias", "status", "progress", "succeeded", "failed"]}),
        (_("Request"), {"fields": ["requested_by", "requested_at", "ended_at", "host"]}),
        (_("Problems"), {"fields": ["problems"]}),
    ]

    class Media:
        css = {"all": ["queued_storage/admin.css"]}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_ended = obj is None or not obj.is_unfinished
        return is_ended and super().has_delete_permission(request, obj)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("queued_storage.cancel_job")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return visible_jobs().order_by(*self.ordering)

    # What is shown

    @admin.display(description=_("action"))
    def title(self, job: Job) -> str:
        return str(job.get_action_display())

    @admin.display(description=_("state"))
    def status(self, job: Any) -> SafeString:
        state = format_html(
            '<span class="queued-state queued-{}">{}</span>', job.state, job.get_state_display()
        )
        if not job.is_idle:
            return state
        return format_html('{}<span class="queued-error">{}</span>', state, IDLE)

    @admin.display(description=_("progress"))
    def progress(self, job: Job) -> SafeString:
        return format_html(
            '<progress max="100" value="{0}" class="queued-meter" title="{0} %">{0} %</progress> '
            "{1}",
            percent(job),
            progress(job),
        )

    @admin.display(description=_("files"))
    def problems(self, job: Job) -> SafeString | str:
        if not job.findings:
            return gettext("No problem was found.") if not job.failed else NONE
        rows = format_html_join(
            "", "<tr><td>{}</td><td>{}</td></tr>", (_cells(job, each) for each in job.findings)
        )
        more = ""
        if len(job.findings) == MAX_FINDINGS:
            more = gettext("Only the first %(count)s problems are kept.") % {
                "count": Number(MAX_FINDINGS)
            }
        return format_html(
            '<div class="queued-scroll"><table class="queued-history"><thead><tr>'
            '<th scope="col">{}</th><th scope="col">{}</th></tr></thead><tbody>{}</tbody></table>'
            "{}</div>",
            _("file"),
            _("problem"),
            rows,
            more,
        )

    # What can be done

    @admin.action(permissions=["cancel"], description=_("Cancel selected jobs"))
    def cancel(self, request: HttpRequest, rows: Jobs) -> None:
        self._cancel(request, rows)

    def _cancel(self, request: HttpRequest, rows: Jobs) -> None:
        pks = [job.pk for job in rows if job.is_unfinished]
        unfinished = jobs().filter(pk__in=pks)
        if not (count := unfinished.cancel()):
            messages.warning(request, NOT_CANCELLED)
            return
        log_change(
            request, list(jobs().filter(pk__in=pks).defer("findings")), gettext("Cancelled.")
        )
        messages.success(request, CANCELLED % {"count": Number(count)})

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self._cancel_one))
        return [
            path("<int:pk>/cancel/", view, name="queued_storage_job_cancel"),
            *super().get_urls(),
        ]

    def _cancel_one(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not (self.has_cancel_permission(request) and self.has_view_permission(request)):
            raise PermissionDenied
        rows = jobs().filter(pk=pk)
        get_object_or_404(rows)
        self._cancel(request, rows)
        return HttpResponseRedirect(
            reverse("admin:queued_storage_job_change", args=[pk], current_app=self.admin_site.name)
        )

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        job = context["original"]
        can_cancel = job.is_unfinished and self.has_cancel_permission(request)
        context["cancel_url"] = (
            reverse(
                "admin:queued_storage_job_cancel", args=[job.pk], current_app=self.admin_site.name
            )
            if can_cancel
            else ""
        )
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response


def _cells(job: Job, finding: dict[str, Any]) -> list[str]:
    key = (finding.get("side", job.action), finding.get("kind"))
    text = PROBLEMS.get(key, "%(error)s")
    return [finding["name"], text % {"error": finding["error"]}]
