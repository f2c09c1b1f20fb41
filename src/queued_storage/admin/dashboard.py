"""The live dashboard."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..ledger.states import State
from . import jobs, remotes, spaces
from .formats import FILES, SIZE, AtLeast, Number, age
from .overview import (
    MINUTES,
    OF_STEPS,
    OTHER,
    SHOWN,
    Failed,
    Overview,
    Pile,
    Running,
    Share,
    overview,
)

SECONDS = 5  # between two updates of an open page


@require_safe
@never_cache
def page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The whole page, which is complete without JavaScript."""
    context = {
        **site.each_context(request),
        **_context(request, site),
        "title": gettext("Live dashboard"),
        "seconds": SECONDS,
    }
    return TemplateResponse(request, "queued_storage/dashboard.html", context)


@require_safe
@never_cache
def numbers(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The part of the page that its script replaces."""
    return TemplateResponse(
        request, "queued_storage/dashboard_numbers.html", _context(request, site)
    )


def _context(request: HttpRequest, site: AdminSite) -> dict[str, Any]:
    found = overview()
    urls = _Urls(site)
    remote_lines = remotes.lines(request, site)
    storages = [_line(share, found, urls.changelist(alias=share.name)) for share in found.storages]
    hosts = [_line(share, found, urls.changelist(host=share.name)) for share in found.hosts]
    return {
        "at": found.at,
        "summary": _summary(found, remote_lines),
        "remotes": remote_lines,
        "spaces": spaces.lines(found.at),
        "tiles": [*_tiles(found, urls), *_copy_tiles(remote_lines)],
        "plots": _plots(found),
        "running": [_running(row, urls) for row in found.running],
        "failed": [_failed(row, urls) for row in found.failed],
        "jobs": jobs.lines(request, site),
        "groups": [
            (gettext("Storages"), gettext("Storage"), storages),
            (gettext("Hosts"), gettext("Host"), hosts),
        ],
        "minutes": MINUTES,
        "changelist_url": urls.changelist(),
        "dashboard_url": urls.dashboard(),
        "numbers_url": urls.numbers(),
    }


class _Urls:
    """URLs of one admin site."""

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


def _summary(found: Overview, remote_lines: list[remotes.Line]) -> str:
    """Return what a screen reader says when it changes."""
    piles = found.total.piles
    numbers = gettext(
        "Pending: %(pending)s. Transferring: %(transferring)s. Failed: %(failed)s."
    ) % {
        "pending": _count(piles[State.PENDING]),
        "transferring": _count(piles[State.TRANSFERRING]),
        "failed": _count(piles[State.FAILED]),
    }
    closed = [_said_of(line) for line in remote_lines if not line.remote.is_open]
    return " ".join([*closed, numbers])


def _said_of(line: remotes.Line) -> str:
    names = {"alias": line.remote.alias, "state": line.label}
    if line.remote.is_mirror:
        return gettext("Mirror of %(alias)s: %(state)s.") % names
    if not line.remote.is_configured:
        return gettext("Previous remote of %(alias)s: %(state)s.") % names
    return gettext("Remote of %(alias)s: %(state)s.") % names


def _count(pile: Pile) -> Number:
    return AtLeast(pile.files) if pile.is_cut else Number(pile.files)


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
    tiles = [
        _state_tile(state, found.total.piles[state], urls)
        for state in SHOWN
        if found.total.piles[state].files or state not in (State.HELD, State.DELETING, *OF_STEPS)
    ]
    return [*tiles, *_other_tiles(found), _age_tile(found), _rate_tile(found)]


def _state_tile(state: State, pile: Pile, urls: _Urls) -> Tile:
    return Tile(
        key=state,
        label=str(state.label),
        value=str(_count(pile)),
        details=SIZE(pile.bytes) + ("+" if pile.is_cut else ""),
        url=urls.changelist(state=state),
        is_bad=state == State.FAILED and pile.files > 0,
    )


def _other_tiles(found: Overview) -> list[Tile]:
    """Files in states that a newer version of the package wrote, if there are any."""
    pile = found.total.piles[OTHER]
    if not pile.files:
        return []
    size = SIZE(pile.bytes) + ("+" if pile.is_cut else "")
    return [Tile(OTHER, gettext("other states"), str(_count(pile)), size)]


def _copy_tiles(remote_lines: list[remotes.Line]) -> list[Tile]:
    """The copies that mirrors lack, if there are any."""
    mirrors = [line for line in remote_lines if line.remote.is_mirror]
    missing = Number(sum(line.waiting for line in mirrors))
    failed = Number(sum(line.failed for line in mirrors))
    if not missing:
        return []
    details = gettext("%(count)s failed") % {"count": failed}
    return [Tile("copies", gettext("missing copies"), str(missing), details, is_bad=failed > 0)]


def _age_tile(found: Overview) -> Tile:
    times = [found.total.piles[state].oldest for state in (State.PENDING, State.TRANSFERRING)]
    oldest = min(filter(None, times), default=None)
    return Tile("age", gettext("oldest pending"), age(oldest, found.at))


def _rate_tile(found: Overview) -> Tile:
    rate = found.total.rate
    is_cut = not found.full_minutes  # more transfers in the last minute than are counted
    files = AtLeast(rate.files) if is_cut else Number(rate.files)
    return Tile(
        "rate",
        gettext("per minute"),
        FILES % {"count": files},
        SIZE(rate.bytes) + ("+" if is_cut else ""),
    )


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
        return "; ".join([self.title, *(bar.title for bar in self.bars)])


def _plots(found: Overview) -> list[Plot]:
    minutes = found.total.minutes[: found.full_minutes]
    return [
        _plot(gettext("Files per minute"), [minute.files for minute in minutes], Number, 300, 80),
        _plot(gettext("Bytes per minute"), [minute.bytes for minute in minutes], SIZE, 300, 80),
    ]


def _plot(
    title: str, values: list[int], written: Callable[[int], object], width: int, height: int
) -> Plot:
    """``values`` starts with the last minute. A minute that was not counted has no bar."""
    highest = max(values, default=0)
    step = width / MINUTES
    bars = []
    for ago, value in enumerate(values):
        tall = round(height * value / highest, 1) if highest else 0
        tall = max(tall, 1.5) if value else 0
        x = round(width - (ago + 1) * step, 1)
        title_of_bar = _minute(ago, written(value))
        bars.append(Bar(x, height - tall, round(step * 0.8, 1), tall, title_of_bar))
    return Plot(title, width, height, bars, str(written(highest)))


def _minute(ago: int, value: object) -> str:
    if not ago:
        return gettext("last minute: %(value)s") % {"value": value}
    text = ngettext("%(minutes)d minute ago: %(value)s", "%(minutes)d minutes ago: %(value)s", ago)
    return text % {"minutes": ago, "value": value}


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
    is_known: bool
    cells: list[Cell]
    plot: Plot


def _line(share: Share, found: Overview, url: str) -> Line:
    oldest = min(filter(None, (pile.oldest for pile in share.piles.values())), default=None)
    cells = [
        *(
            _state_cell(state, share.piles[state])
            for state in SHOWN
            if found.total.piles[state].files or state not in OF_STEPS
        ),
        Cell(gettext("oldest"), age(oldest, found.at)),
        Cell(gettext("files per minute"), str(Number(share.rate.files))),
        Cell(gettext("bytes per minute"), SIZE(share.rate.bytes)),
    ]
    files = [minute.files for minute in share.minutes[: found.full_minutes]]
    plot = _plot(gettext("Files per minute"), files, Number, 90, 20)
    return Line(share.name or "-", url, share.is_known, cells, plot)


def _state_cell(state: State, pile: Pile) -> Cell:
    return Cell(str(state.label), str(_count(pile)), state if pile.files else "")


def _running(row: Running, urls: _Urls) -> dict[str, Any]:
    sent = min(row.sent, row.size)
    return {
        "row": row,
        "url": urls.change(row.pk),
        "sent": sent,
        "percent": int(100 * sent / row.size) if row.size else 0,
        "progress": gettext("%(sent)s of %(size)s") % {"sent": SIZE(sent), "size": SIZE(row.size)},
    }


def _failed(row: Failed, urls: _Urls) -> dict[str, Any]:
    return {"row": row, "url": urls.change(row.pk)}
