"""The errors on the dashboard, each with its files, and a button that retries them all."""

from dataclasses import dataclass

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext
from django.views.decorators.http import require_POST

from ..ledger.database import ledger
from ..ledger.sql.clock import seconds_between
from ..operations import failures, steering
from ..operations.failures import Group
from .actions import MAX_ROWS, RETRY, run
from .formats import AtLeast, Number, later
from .overview import Overview
from .urls import Urls

SHOWN = 10  # errors on the dashboard
ALL = 500  # of them that are shown to who asks for all
READ = 2_000  # failed files of a storage, and waiting files of a priority, that are grouped


@dataclass(frozen=True)
class Line:
    """The files of one storage with the same error."""

    group: Group
    files: Number
    url: str  # of the list of these files
    next_attempt: str


@dataclass(frozen=True)
class Errors:
    """The largest groups, and how many files they are all together."""

    lines: list[Line]
    groups: int
    waiting: Number  # files that wait for their next attempt
    retry_url: str  # "" if the user may not retry files

    @property
    def are_all_shown(self) -> bool:
        return len(self.lines) == self.groups


def shows_all(request: HttpRequest) -> bool:
    """Whether the page was asked for all errors."""
    return request.GET.get("errors") == "all"


def errors(request: HttpRequest, site: AdminSite, found: Overview) -> Errors:
    """The errors of the files that failed, and of those that wait for their next attempt."""
    limit = ALL if shows_all(request) else SHOWN
    groups = failures.groups([share.name for share in found.storages], READ)
    waiting = [group for group in groups if not group.is_failed]
    count = sum(len(group.pks) for group in waiting)
    is_cut = any(group.is_cut for group in waiting)
    may_retry = request.user.has_perm("queued_storage.retry_queuedfile")
    urls = Urls(site)
    return Errors(
        [_line(group, found, urls) for group in groups[:limit]],
        len(groups),
        AtLeast(count) if is_cut else Number(count),
        urls.retry() if may_retry else "",
    )


def _line(group: Group, found: Overview, urls: Urls) -> Line:
    count = len(group.pks)
    attempt = {"state": "failed"} if group.is_failed else {"attempt": "waiting"}
    next_attempt = gettext("none")
    if group.next_at:
        next_attempt = later(seconds_between(found.at, group.next_at))
    return Line(
        group,
        AtLeast(count) if group.is_cut else Number(count),
        urls.changelist(alias=group.alias, error=group.beginning, **attempt),
        next_attempt,
    )


@require_POST
def retry(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Retry all files with the error in the form, and go back to the dashboard."""
    if not request.user.has_perm("queued_storage.retry_queuedfile"):
        raise PermissionDenied
    group = failures.group_of(request.POST.get("group", ""))
    if group is None:
        messages.warning(request, RETRY.none)
    else:
        pks = group.pks[:MAX_ROWS]  # a group of many files needs several requests
        run(request, ledger().filter(pk__in=pks), steering.retry, RETRY)
    return HttpResponseRedirect(Urls(site).dashboard())
