"""The live page of the admin, and its plots."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..ledger.states import State
from .overview import MINUTES, Failed, Overview, Pile, Running, Share, overview

SECONDS = 5  # between two looks of an open page
LABELS = {
    State.PENDING: _("waiting"),
    State.TRANSFERRING: _("moving"),
    State.FAILED: _("failed"),
    State.HELD: _("held"),
    State.DELETING: _("deleting"),
}


@require_safe
@never_cache
def page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The whole page; it is complete without JavaScript."""
    context = {
        **site.each_context(request),
        **_context(site),
        "title": gettext("Live dashboard"),
        "seconds": SECONDS,
    }
    return TemplateResponse(request, "queued_storage/dashboard.html", context)


@require_safe
@never_cache
def numbers(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The part of the page that changes, for its script."""
    return TemplateResponse(request, "queued_storage/dashboard_numbers.html", _context(site))


def _context(site: AdminSite) -> dict[str, Any]:
    found = overview()
    urls = _Urls(site)
    return {
        "at": found.at,
        "summary": _summary(found),
        "tiles": _tiles(found, urls),
        "plots": _plots(found),
        "running": [_running(row, urls) for row in found.running],
        "failed": [_failed(row, urls) for row in found.failed],
        "groups": [
            (gettext("Storages"), gettext("Storage"), _lines(found.storages, found, "alias", urls)),
            (gettext("Hosts"), gettext("Host"), _lines(found.hosts, found, "host", urls)),
        ],
        "minutes": MINUTES,
        "changelist_url": urls.changelist(),
        "dashboard_url": urls.dashboard(),
        "numbers_url": urls.numbers(),
    }


class _Urls:
    """Addresses in one admin site."""

    def __init__(self, site: AdminSite) -> None:
        self._site = site.name

    def _reverse(self, name: str, *args: Any, query: dict[str, str] | None = None) -> str:
        url = reverse(f"admin:queued_storage_queuedfile_{name}", args=args, current_app=self._site)
        pairs = "&".join(f"{key}={quote(value)}" for key, value in (query or {}).items())
        return f"{url}?{pairs}" if pairs else url

    def changelist(self, **query: str) -> str:
        return self._reverse("changelist", query=query)

    def change(self, pk: int) -> str:
        return self._reverse("change", pk)

    def dashboard(self) -> str:
        return self._reverse("dashboard")

    def numbers(self) -> str:
        return self._reverse("dashboard_numbers")


def _summary(found: Overview) -> str:
    """What is read out when it changes."""
    return ", ".join(
        f"{_count(found.total.piles[state])} {LABELS[state]}"
        for state in (State.PENDING, State.TRANSFERRING, State.FAILED)
    )


def _count(pile: Pile) -> str:
    return number_format(pile.files, force_grouping=True) + ("+" if pile.is_cut else "")


def _size(count: float) -> str:
    return filesizeformat(count)


def _age(time: datetime | None, now: datetime) -> str:
    if time is None:
        return ""
    if (now - time).total_seconds() < 60:
        return gettext("under a minute")
    return timesince(time, now, depth=1)


# The tiles


@dataclass(frozen=True)
class Tile:
    """One number in large type."""

    key: str
    label: str
    value: str
    details: str = ""
    url: str = ""
    is_bad: bool = False


def _tiles(found: Overview, urls: _Urls) -> list[Tile]:
    tiles = []
    for state, label in LABELS.items():
        pile = found.total.piles[state]
        if state in (State.HELD, State.DELETING) and not pile.files:
            continue
        tiles.append(
            Tile(
                key=state,
                label=str(label),
                value=_count(pile),
                details=_size(pile.bytes) + ("+" if pile.is_cut else ""),
                url=urls.changelist(state=state),
                is_bad=state == State.FAILED and pile.files > 0,
            )
        )
    waiting = [found.total.piles[state].oldest for state in (State.PENDING, State.TRANSFERRING)]
    oldest = min(filter(None, waiting), default=None)
    rate = found.total.rate
    more = "" if found.full_minutes else "+"  # so many that not even one minute was counted
    return [
        *tiles,
        Tile("age", gettext("oldest on its way"), _age(oldest, found.at) or "-"),
        Tile(
            "rate",
            gettext("per minute"),
            ngettext("%d file", "%d files", rate.files) % rate.files + more,
            _size(rate.bytes) + more,
        ),
    ]


# The plots


@dataclass(frozen=True)
class Bar:
    """One minute, in the units of its plot."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """Bars of equal width; the last one is the last minute."""

    title: str
    width: int
    height: int
    bars: list[Bar]
    highest: str = ""

    @property
    def label(self) -> str:
        return f"{self.title}: " + ", ".join(bar.title for bar in self.bars)


def _plots(found: Overview) -> list[Plot]:
    minutes = found.total.minutes[: found.full_minutes]
    return [
        _plot(gettext("Files per minute"), [minute.files for minute in minutes], _plain, 300, 80),
        _plot(gettext("Bytes per minute"), [minute.bytes for minute in minutes], _size, 300, 80),
    ]


def _plain(count: float) -> str:
    return number_format(count, force_grouping=True)


def _plot(title: str, values: list[int], show: Any, width: int, height: int) -> Plot:
    """``values`` begins with the last minute; a minute that was not counted has no bar."""
    highest = max(values, default=0)
    step = width / MINUTES
    bars = []
    for ago, value in enumerate(values):
        tall = round(height * value / highest, 1) if highest else 0
        tall = max(tall, 1.5) if value else 0
        when = gettext("last minute") if ago == 0 else gettext("%d min ago") % ago
        x = round(width - (ago + 1) * step, 1)
        bars.append(Bar(x, height - tall, round(step * 0.8, 1), tall, f"{when}: {show(value)}"))
    return Plot(title, width, height, bars, show(highest))


# The tables


@dataclass(frozen=True)
class Cell:
    label: str
    value: str
    state: str = ""


@dataclass(frozen=True)
class Line:
    """One storage or host."""

    name: str
    url: str
    is_claimed: bool
    cells: list[Cell]
    plot: Plot


def _lines(shares: Iterable[Share], found: Overview, key: str, urls: _Urls) -> list[Line]:
    return [_line(share, found, urls.changelist(**{key: share.name})) for share in shares]


def _line(share: Share, found: Overview, url: str) -> Line:
    oldest = min(filter(None, (pile.oldest for pile in share.piles.values())), default=None)
    cells = [
        Cell(
            str(LABELS[state]),
            _count(share.piles[state]),
            state if share.piles[state].files else "",
        )
        for state in LABELS
    ]
    cells += [
        Cell(gettext("oldest"), _age(oldest, found.at) or "-"),
        Cell(gettext("files per minute"), _plain(share.rate.files)),
        Cell(gettext("bytes per minute"), _size(share.rate.bytes)),
    ]
    files = [minute.files for minute in share.minutes[: found.full_minutes]]
    plot = _plot(gettext("Files per minute"), files, _plain, 90, 20)
    return Line(share.name or "-", url, share.is_claimed, cells, plot)


def _running(row: Running, urls: _Urls) -> dict[str, Any]:
    sent = min(row.sent, row.size)
    return {
        "row": row,
        "url": urls.change(row.pk),
        "sent": sent,
        "percent": int(100 * sent / row.size) if row.size else 0,
        "progress": gettext("%(sent)s of %(size)s")
        % {"sent": _size(sent), "size": _size(row.size)},
    }


def _failed(row: Failed, urls: _Urls) -> dict[str, Any]:
    return {"row": row, "url": urls.change(row.pk)}
