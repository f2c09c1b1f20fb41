"""How numbers, sizes and times are written in the admin."""

from datetime import UTC, datetime, timedelta

from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext_lazy

from ..ledger.sql.clock import in_utc, seconds_between

SIZE = filesizeformat
_DAY = datetime(2020, 1, 1, tzinfo=UTC)


class Number(int):
    """A number that is written with thousands separators."""

    def __str__(self) -> str:
        return number_format(int(self), force_grouping=True)


class AtLeast(Number):
    """A number whose counting was stopped."""

    def __str__(self) -> str:
        return f"{super().__str__()}+"


FILES = ngettext_lazy("%(count)s file", "%(count)s files", "count")
BYTES = ngettext_lazy("%(count)s byte", "%(count)s bytes", "count")


def age(time: datetime | None, now: datetime) -> str:
    """Return how old a time of the ledger is at another one."""
    if time is None:
        return "-"
    if seconds_between(time, now) < 60:
        return gettext("less than a minute")
    return timesince(in_utc(time), in_utc(now), depth=1)


def duration(seconds: float) -> str:
    """Return how long a time is, in the largest unit that suits it."""
    if seconds < 60:
        return gettext("less than a minute")
    # From a day that is far from a change of the clocks
    return timesince(_DAY, _DAY + timedelta(seconds=seconds), depth=1)


def later(seconds: float) -> str:
    """Return when something is that is due in so many seconds."""
    if seconds <= 0:
        return gettext("now")
    if seconds < 60:
        return gettext("in less than a minute")
    return gettext("in %(time)s") % {"time": duration(seconds)}


def local_time(time: datetime) -> datetime:
    return timezone.localtime(time) if timezone.is_aware(time) else time
