"""The parts of the change list whose cost doesn't grow with the ledger."""

from functools import cached_property
from itertools import chain, islice
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import truncatechars
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..ledger.availability import availabilities, in_use
from ..ledger.copies import CopyState, copies
from ..ledger.copy_counts import UNFINISHED
from ..ledger.database import QueuedFileQuerySet, ledger_database
from ..ledger.measures import aliases
from ..ledger.priorities import NAMES
from ..ledger.sql.clock import database_time
from ..ledger.states import State
from ..operations.failures import waiting
from ..operations.tiers import ways
from . import overview
from .dates import DateHierarchy, require_dates
from .formats import AtLeast, Number

WITHIN = "*"  # begins a search within names
WAITING = (State.HELD, State.PENDING, State.TRANSFERRING, State.FAILED)


class CappedPaginator(Paginator):
    """Stops counting at ``overview.LIMIT`` rows."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        found: int = rows.order_by().values("pk")[: overview.LIMIT + 1].count()
        return Number(found) if found <= overview.LIMIT else AtLeast(overview.LIMIT)


class QueuedFileChangeList(ChangeList):
    def get_filters(self, request: HttpRequest) -> Any:
        """Refuse dates that no database can compare with, which Django would try."""
        require_dates(self.date_hierarchy, self.params)
        return super().get_filters(request)

    def get_results(self, request: HttpRequest) -> None:
        """Let each row on the page know the time at which it was read, for its age and its next
        attempt, whether its remote is closed, and the last tier that the file has got to, if its
        remote is a queued storage."""
        super().get_results(request)
        now = database_time(ledger_database())
        rows: list[Any] = list(self.result_list)
        tiers = ways(rows)
        closed = {remote.alias for remote in in_use() if not remote.is_open} if rows else set()
        for row in rows:
            row.read_at = now
            row.waits_for_remote = row.alias in closed
            row.tier = next(reversed(tiers.get(row.pk, [])), None)
        self.result_list = rows
        self._say_where_it_searched(request)

    def _say_where_it_searched(self, request: HttpRequest) -> None:
        """Offer to search within names, which no index can do, if none starts with the term."""
        term = self.query.strip()
        if not term or term.startswith(WITHIN) or self.result_count:
            return
        url = self.get_query_string({SEARCH_VAR: f"{WITHIN}{term}"})
        found_none = gettext("No name starts with “%(term)s”.") % {"term": term}
        link = gettext("Search within the names, which reads every row that the filters find.")
        messages.info(request, format_html('{} <a href="{}">{}</a>', found_none, url, link))

    def date_links(self) -> dict[str, Any]:
        return DateHierarchy(self).context()


def _filtered(rows: QuerySet, column: str, value: str | None) -> QuerySet:
    """Filter by a value of the query string, which may be anything."""
    if not value:
        return rows
    if "\0" in value:  # PostgreSQL raises an error
        return rows.none()
    return rows.filter(**{column: value})


def _with_aliases(rows: Any) -> QueuedFileQuerySet:
    """Let an index that begins with the alias find the rows."""
    found: QueuedFileQuerySet = rows.filter(alias__in=aliases(overview.ALIASES))
    return found


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        others = [(overview.OTHER, _("other states"))] if self.value() == overview.OTHER else []
        return [*State.choices, *others]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not (state := self.value()):
            return queryset
        if state == overview.OTHER:
            return _with_aliases(queryset).in_unknown_state()
        if state != State.TRANSFERRED:  # the index for these starts with the alias
            queryset = _with_aliases(queryset)
        return _filtered(queryset, "state", state)


class StorageFilter(admin.SimpleListFilter):
    title = _("storage")
    parameter_name = "alias"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(alias, alias) for alias in aliases(overview.ALIASES)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return _filtered(queryset, "alias", self.value())


class HostFilter(admin.SimpleListFilter):
    title = _("host")
    parameter_name = "host"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(host, host) for host in overview.hosts()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return _filtered(queryset, "host", self.value())


class PriorityFilter(admin.SimpleListFilter):
    """Filters the files that are not transferred yet, for which the priority matters."""

    title = _("priority")
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("high", _("high")), ("normal", _("normal")), ("low", _("low"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if (name := self.value()) not in NAMES:
            return queryset if not name else queryset.none()
        waiting = queryset.filter(alias__in=aliases(overview.ALIASES), state__in=WAITING)
        return waiting.filter(priority=NAMES[name])


class AttemptFilter(admin.SimpleListFilter):
    """Filters the files that wait for another attempt."""

    WAITING = "waiting"
    title = _("attempt")
    parameter_name = "attempt"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(self.WAITING, _("waiting after an error"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not (value := self.value()):
            return queryset
        if value != self.WAITING:
            return queryset.none()
        # From the index of due rows. No database finds them in it in the order of the list.
        ranges = waiting().ranges(aliases(overview.ALIASES))
        found = (rows.values_list("pk", flat=True)[: overview.LIMIT + 1] for rows in ranges)
        return queryset.filter(pk__in=list(islice(chain(*found), overview.LIMIT + 1)))


class ErrorFilter(admin.SimpleListFilter):
    """Filters the files whose last error begins with a text. Only links of the dashboard set it."""

    title = _("last error")
    parameter_name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(value, truncatechars(value, 60))] if (value := self.value()) else []

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        # Errors have no index, so only files that aren't transferred are read, or those that
        # another filter finds.
        if not {"state", AttemptFilter.parameter_name} & set(request.GET):
            queryset = _with_aliases(queryset).unsettled()
        return _filtered(queryset, "last_error__startswith", self.value())


class CopiesFilter(admin.SimpleListFilter):
    """Filters the files that mirrors lack."""

    MISSING, FAILED = "missing", "failed"
    title = _("copies on mirrors")
    parameter_name = "copies"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        mirrors = any(remote.is_mirror for remote in availabilities())
        choices = [(self.MISSING, _("missing")), (self.FAILED, _("failed"))]
        return choices if mirrors or self.value() else []

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        states = {self.MISSING: UNFINISHED, self.FAILED: (CopyState.FAILED,)}
        if not (value := self.value()):
            return queryset
        if value not in states:
            return queryset.none()
        mirrors = {remote.digest for remote in availabilities() if remote.is_mirror}
        found = copies().filter(place__in=mirrors, state__in=states[value])
        pks = found.values_list("file", flat=True)[: overview.LIMIT + 1]
        return queryset.filter(pk__in=list(pks))


class LocalCopyFilter(admin.BooleanFieldListFilter):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = gettext("local copy")
