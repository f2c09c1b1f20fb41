"""The date hierarchy of the change list."""

import calendar
from collections.abc import Mapping
from datetime import date
from itertools import takewhile
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.utils import formats, timezone
from django.utils.text import capfirst
from django.utils.translation import gettext

from ..ledger.database import ledger, ledger_database
from ..ledger.sql.clock import database_time

OLDEST = 100  # rows that are read to find the first year
PARTS = ("year", "month", "day")
DIGITS = 15  # of a number that all databases can compare with
# The first and the last that have a neighbor in each time zone
RANGES = {"year": (2, 9998), "month": (1, 12), "day": (1, 31)}

Choice = dict[str, str]


def require_dates(column: str, params: Mapping[str, Any]) -> None:
    """Raise ``IncorrectLookupParameters`` for numbers that are not those of a date.

    Without a year, any month and day that a database can compare with finds nothing.
    """
    is_date = f"{column}__year" in params
    for part, (first, last) in RANGES.items():
        text = str(params.get(f"{column}__{part}", first))
        is_number = len(text) <= DIGITS and text.isascii() and text.isdecimal()
        if not is_number or (is_date and not first <= int(text) <= last):
            raise IncorrectLookupParameters(f"{text[:DIGITS]!r} is not a valid {part}.")


class DateHierarchy:
    """Offers the years since the first file, and all months and days of what is chosen.

    Django's own reads the date of every row to leave out days without files.
    """

    def __init__(self, changelist: ChangeList) -> None:
        self._changelist = changelist
        self._keys = [f"{changelist.date_hierarchy}__{part}" for part in PARTS]
        self._chosen = self._chosen_numbers(changelist.params)
        self._today = timezone.localdate(database_time(ledger_database()))

    def context(self) -> dict[str, Any]:
        """Return the context of ``admin/date_hierarchy.html``."""
        back: Choice | None
        match self._chosen:
            case [year, month, day]:
                back, choices = self._month(year, month), [_day_title(date(year, month, day))]
            case [year, month]:
                back, choices = self._year(year), self._days_of(year, month)
            case [year]:
                back, choices = self._all(), self._months_of(year)
            case _:
                back, choices = None, self._years()
        return {"show": True, "back": back, "choices": choices}

    def _chosen_numbers(self, params: Mapping[str, Any]) -> list[int]:
        """Return the year, month and day of the query. A month counts only with its year."""
        return [int(params[key]) for key in takewhile(params.__contains__, self._keys)]

    def _years(self) -> list[Choice]:
        today = self._today
        # A row has a later time if its file was overwritten, so the first one isn't enough.
        times = ledger().order_by("pk").values_list("saved_at", flat=True)[:OLDEST]
        first = min((time.year for time in times), default=today.year)
        return [self._year(year) for year in range(first, today.year + 1)]

    def _months_of(self, year: int) -> list[Choice]:
        today = self._today
        months = [month for month in range(1, 13) if date(year, month, 1) <= today]
        return [self._month(year, month) for month in months]

    def _days_of(self, year: int, month: int) -> list[Choice]:
        last = calendar.monthrange(year, month)[1]
        days = [date(year, month, day) for day in range(1, last + 1)]
        return [self._day(day) for day in days if day <= self._today]

    def _all(self) -> Choice:
        return {"title": gettext("All dates"), "link": self._link()}

    def _year(self, year: int) -> Choice:
        return {"title": str(year), "link": self._link(year)}

    def _month(self, year: int, month: int) -> Choice:
        title = formats.date_format(date(year, month, 1), "YEAR_MONTH_FORMAT")
        return {"title": capfirst(title), "link": self._link(year, month)}

    def _day(self, day: date) -> Choice:
        return _day_title(day) | {"link": self._link(day.year, day.month, day.day)}

    def _link(self, *numbers: int) -> str:
        filters = {key: str(number) for key, number in zip(self._keys, numbers, strict=False)}
        return self._changelist.get_query_string(filters, [f"{self._changelist.date_hierarchy}__"])


def _day_title(day: date) -> Choice:
    return {"title": capfirst(formats.date_format(day, "MONTH_DAY_FORMAT"))}
