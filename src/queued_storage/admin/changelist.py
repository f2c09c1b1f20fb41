"""The admin's list of files: its pages, days and filters, none of which reads every row."""

import calendar
from datetime import date
from functools import cached_property
from itertools import takewhile
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import formats, timezone
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..ledger.database import ledger
from ..ledger.states import State
from . import overview

OLDEST = 100  # rows that are asked for the first day of the hierarchy


class AtLeast(int):
    """A count that was broken off."""

    def __str__(self) -> str:
        return f"{int(self)}+"


class CappedPaginator(Paginator):
    """Counts no further than the pages that somebody may want to leaf through."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        found: int = rows.order_by().values("pk")[: overview.LIMIT + 1].count()
        return found if found <= overview.LIMIT else AtLeast(overview.LIMIT)


class QueuedFileChangeList(ChangeList):
    """With a hierarchy by date that does not ask every row for its date."""

    def date_links(self) -> dict[str, Any]:
        """What ``admin/date_hierarchy.html`` shows: the years since the first file, and the months
        and days of what is chosen, whether or not there are files of that time."""
        field = str(self.date_hierarchy)
        parts = ("year", "month", "day")
        given = takewhile(self.params.__contains__, (f"{field}__{part}" for part in parts))
        chosen = [int(self.params[key]) for key in given]  # no month without its year
        today = timezone.localdate() if timezone.is_aware(timezone.now()) else date.today()

        def link(*numbers: int) -> str:
            filters = {
                f"{field}__{part}": str(number)
                for part, number in zip(parts, numbers, strict=False)
            }
            return self.get_query_string(filters, [f"{field}__"])

        def choice(title: str, *numbers: int) -> dict[str, str]:
            return {"title": capfirst(title)} | ({"link": link(*numbers)} if numbers else {})

        choices: list[dict[str, str]]
        back: dict[str, str] | None = None
        match chosen:
            case [year, month, day]:
                back = choice(_month(year, month), year, month)
                choices = [choice(formats.date_format(date(year, month, day), "MONTH_DAY_FORMAT"))]
            case [year, month]:
                back = choice(str(year), year)
                choices = [
                    choice(formats.date_format(at, "MONTH_DAY_FORMAT"), year, month, at.day)
                    for at in _days(year, month)
                    if at <= today
                ]
            case [year]:
                back = {"title": gettext("All dates"), "link": link()}
                choices = [
                    choice(_month(year, month), year, month)
                    for month in range(1, 13)
                    if date(year, month, 1) <= today
                ]
            case _:
                choices = [
                    choice(str(year), year)
                    for year in range(self._first_year(today), today.year + 1)
                ]
        return {"show": True, "back": back, "choices": choices}

    @staticmethod
    def _first_year(today: date) -> int:
        """Of the files that were saved first; those that were overwritten since do not tell."""
        times = ledger().order_by("pk").values_list("saved_at", flat=True)[:OLDEST]
        return min((time.year for time in times), default=today.year)


def _month(year: int, month: int) -> str:
    return formats.date_format(date(year, month, 1), "YEAR_MONTH_FORMAT")


def _days(year: int, month: int) -> list[date]:
    count = calendar.monthrange(year, month)[1]
    return [date(year, month, day) for day in range(1, count + 1)]


def _those(rows: QuerySet, column: str, value: str | None) -> QuerySet:
    """Those with a value that somebody may have typed, if there is one."""
    if not value:
        return rows
    if "\0" in value:  # which PostgreSQL does not take
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
        if state != State.TRANSFERRED:  # few of many; the index begins with the alias
            queryset = queryset.filter(alias__in=overview.aliases())
        return _those(queryset, "state", state)


class StorageFilter(admin.SimpleListFilter):
    title = _("storage")
    parameter_name = "alias"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(alias, alias) for alias in overview.aliases()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return _those(queryset, "alias", self.value())


class HostFilter(admin.SimpleListFilter):
    title = _("host")
    parameter_name = "host"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [(host, host) for host in overview.hosts()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return _those(queryset, "host", self.value())
