"""The charts of the dashboard: the last fifteen minutes from the ledger, longer ones from its table
of minutes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.formats import date_format
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from ..ledger.states import State
from ..ledger.throughput import MINUTE, QUARTER, Numbers, beginning, is_available, throughput
from .formats import SIZE, Number, local_time
from .overview import MINUTES, Overview, Share

WIDE = (300, 80)  # width and height, in units of the chart
NARROW = (90, 20)


@dataclass(frozen=True)
class Range:
    """A period that the charts show."""

    key: str  # in the URL
    label: Any
    seconds: int  # of a bar
    bars: int
    ago: Any  # when it begins
    files: Any  # the titles
    bytes: Any
    failures: Any

    @property
    def is_from_rows(self) -> bool:
        """Whether the transfers are counted in the ledger's rows, and those of each minute."""
        return self.seconds == MINUTE


RANGES = (
    Range(
        "15m",
        _("15 minutes"),
        MINUTE,
        MINUTES,
        _("15 minutes ago"),
        _("Files per minute"),
        _("Bytes per minute"),
        _("Failed attempts per minute"),
    ),
    Range(
        "3h",
        _("3 hours"),
        5 * MINUTE,
        36,
        _("3 hours ago"),
        _("Files per 5 minutes"),
        _("Bytes per 5 minutes"),
        _("Failed attempts per 5 minutes"),
    ),
    Range(
        "1d",
        _("1 day"),
        2 * QUARTER,
        48,
        _("1 day ago"),
        _("Files per 30 minutes"),
        _("Bytes per 30 minutes"),
        _("Failed attempts per 30 minutes"),
    ),
    Range(
        "1w",
        _("1 week"),
        8 * QUARTER,
        84,
        _("1 week ago"),
        _("Files per 2 hours"),
        _("Bytes per 2 hours"),
        _("Failed attempts per 2 hours"),
    ),
)


def range_of(key: str) -> Range:
    """The range of this key, or the shortest one."""
    return next((each for each in RANGES if each.key == key), RANGES[0])


@dataclass(frozen=True)
class Bar:
    """One part of the period, in the units of its chart."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """Bars of equal width; the last one is that of now."""

    title: str
    width: int
    height: int
    bars: list[Bar]
    highest: str = ""
    kind: str = "transferred"  # names the color

    @property
    def label(self) -> str:
        return "; ".join([self.title, *(bar.title for bar in self.bars)])


def plots(found: Overview, period: Range) -> list[Plot]:
    """The charts of all storages together; none of what was not recorded."""
    recorded = _recorded(period, found.at)
    if not (recorded or period.is_from_rows):
        return []

    def dated(ago: int, value: object) -> str:
        return _dated(period, found.at, ago, value)

    counted, title_of = (recorded, dated)
    if period.is_from_rows:
        counted, title_of = _of_rows(found.total, found), _minute
    drawn = [
        _plot(period.files, [each.files for each in counted], period.bars, Number, title_of),
        _plot(period.bytes, [each.bytes for each in counted], period.bars, SIZE, title_of),
    ]
    if recorded:
        failures = [each.failures for each in recorded]
        pending = [each.pending for each in recorded]
        # Processes record it once a minute, and none does if no worker is running.
        pending[0] = max(pending[0], _pending(found))
        drawn += [
            _plot(period.failures, failures, period.bars, Number, dated, kind="failed"),
            _plot(_("Pending files"), pending, period.bars, Number, dated, kind="pending"),
        ]
    return drawn


def _pending(found: Overview) -> int:
    """The files that are pending or transferring now."""
    return sum(found.total.piles[state].files for state in (State.PENDING, State.TRANSFERRING))


def small_plot(share: Share, found: Overview) -> Plot:
    """The files of one storage or host per minute."""
    files = [minute.files for minute in _of_rows(share, found)]
    return _plot(_("Files per minute"), files, MINUTES, Number, _minute, NARROW)


def _of_rows(share: Share, found: Overview) -> list[Numbers]:
    """The numbers of each minute in which all transfers were counted, the newest first."""
    minutes = share.minutes[: found.full_minutes]
    return [Numbers(minute.files, minute.bytes) for minute in minutes]


def _recorded(period: Range, now: datetime) -> list[Numbers]:
    """The numbers of each bar, the newest first; empty before ``migrate`` was run."""
    if not is_available():
        return []
    kept = MINUTE if period.seconds < QUARTER else QUARTER
    last = beginning(now, period.seconds)
    first = last - timedelta(seconds=period.seconds * (period.bars - 1))
    numbers = [Numbers()] * period.bars
    for at, each in throughput().since(kept, first):
        ago = int((last - beginning(at, period.seconds)).total_seconds()) // period.seconds
        if 0 <= ago < period.bars:  # the clock of the database may have been set back
            numbers[ago] = numbers[ago].plus(each)
    return numbers


def _plot(
    title: Any,
    values: Sequence[int],
    count: int,
    written: Callable[[int], object],
    title_of: Callable[[int, object], str],
    size: tuple[int, int] = WIDE,
    kind: str = "transferred",
) -> Plot:
    """``values`` starts with the last of ``count`` bars. One that was not counted is missing."""
    width, height = size
    highest = max(values, default=0)
    step = width / count
    bars = []
    for ago, value in enumerate(values):
        tall = round(height * value / highest, 1) if highest else 0
        tall = max(tall, 1.5) if value else 0
        x = round(width - (ago + 1) * step, 1)
        title_of_bar = title_of(ago, written(value))
        bars.append(Bar(x, height - tall, round(step * 0.8, 1), tall, title_of_bar))
    return Plot(str(title), width, height, bars, str(written(highest)), kind)


def _minute(ago: int, value: object) -> str:
    if not ago:
        return gettext("last minute: %(value)s") % {"value": value}
    text = ngettext("%(minutes)d minute ago: %(value)s", "%(minutes)d minutes ago: %(value)s", ago)
    return text % {"minutes": ago, "value": value}


def _dated(period: Range, now: datetime, ago: int, value: object) -> str:
    at = beginning(now, period.seconds) - timedelta(seconds=ago * period.seconds)
    style = "TIME_FORMAT" if period.seconds < QUARTER else "SHORT_DATETIME_FORMAT"
    time = date_format(local_time(at), style)
    return gettext("%(time)s: %(value)s") % {"time": time, "value": value}
