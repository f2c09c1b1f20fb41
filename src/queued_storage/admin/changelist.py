"""The parts of the change list whose cost doesn't grow with the ledger."""

from functools import cached_property
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..ledger.database import ledger_database
from ..ledger.measures import aliases
from ..ledger.priorities import NAMES
from ..ledger.sql.clock import database_time
from ..ledger.states import State
from . import overview
from .dates import DateHierarchy, require_dates
from .formats import AtLeast, Number

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
        """Let each row on the page know the time at which it was read, for its age."""
        super().get_results(request)
        now = database_time(ledger_database())
        for row in self.result_list:
            row.read_at = now

    def date_links(self) -> dict[str, Any]:
        return DateHierarchy(self).context()


def _filtered(rows: QuerySet, column: str, value: str | None) -> QuerySet:
    """Filter by a value of the query string, which may be anything."""
    if not value:
        return rows
    if "\0" in value:  # PostgreSQL raises an error
        return rows.none()
    return rows.filter(**{column: value})


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return State.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not (state := self.value()):
            return queryset
        if state != State.TRANSFERRED:  # the index for these starts with the alias
            queryset = queryset.filter(alias__in=aliases(overview.ALIASES))
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


class LocalCopyFilter(admin.BooleanFieldListFilter):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = gettext("local copy")
