"""The live dashboard."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..ledger.models import QueuedFile
from ..ledger.states import State
from . import errors, jobs, plots, remotes, spaces
from .changelist import AttemptFilter, CopiesFilter
from .errors import Errors
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
from .plots import RANGES, Plot
from .urls import Urls

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
    urls = Urls(site)
    remote_lines = remotes.lines(request, site)
    its_errors = errors.errors(request, site, found)
    period = plots.range_of(request.GET.get("range", ""))
    shown = {"errors": "all"} if errors.shows_all(request) else {}
    storages = [_line(share, found, urls, "alias") for share in found.storages]
    hosts = [_line(share, found, urls, "host") for share in found.hosts]
    failed = found.total.piles[State.FAILED]
    return {
        "at": found.at,
        "summary": _summary(found, remote_lines),
        "remotes": remote_lines,
        "spaces": spaces.lines(found.at, urls),
        "tiles": [*_tiles(found, its_errors, urls), *_copy_tiles(remote_lines, urls)],
        "errors": its_errors,
        "plots": plots.plots(found, period),
        "range": period,
        "ranges": [(each, urls.dashboard(range=each.key, **shown)) for each in RANGES],
        "all_errors_url": urls.dashboard(range=period.key, errors="all"),
        "running": [_running(row, urls) for row in found.running],
        "running_of": _part(found.running, found.total.piles[State.TRANSFERRING]),
        "running_url": urls.changelist(state=State.TRANSFERRING),
        "failed": [_failed(row, urls) for row in found.failed],
        "failed_of": _part(found.failed, failed),
        "failed_url": urls.changelist(state=State.FAILED),
        "jobs": jobs.lines(request, site),
        "groups": [
            (gettext("Storages"), gettext("Storage"), storages),
            (gettext("Hosts"), gettext("Host"), hosts),
        ],
        "minutes": MINUTES,
        "changelist_url": urls.changelist(),
        "opts": QueuedFile._meta,
        "dashboard_url": urls.dashboard(range=period.key, **shown),
        "numbers_url": urls.numbers(range=period.key, **shown),
    }


def _part(shown: Sized, pile: Pile) -> str:
    """How many of the files are shown; "" if all are."""
    if not pile.is_cut and len(shown) >= pile.files:
        return ""
    return gettext("%(shown)s of %(count)s") % {
        "shown": Number(len(shown)),
        "count": _count(pile),
    }


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


def _tiles(found: Overview, its_errors: Errors, urls: Urls) -> list[Tile]:
    tiles = [
        _state_tile(state, found.total.piles[state], urls)
        for state in SHOWN
        if found.total.piles[state].files or state not in (State.HELD, State.DELETING, *OF_STEPS)
    ]
    return [
        *tiles,
        *_waiting_tiles(its_errors, urls),
        *_other_tiles(found, urls),
        _age_tile(found, urls),
        _rate_tile(found, urls),
    ]


def _state_tile(state: State, pile: Pile, urls: Urls) -> Tile:
    return Tile(
        key=state,
        label=str(state.label),
        value=str(_count(pile)),
        details=SIZE(pile.bytes) + ("+" if pile.is_cut else ""),
        url=urls.changelist(state=state),
        is_bad=state == State.FAILED and pile.files > 0,
    )


def _waiting_tiles(its_errors: Errors, urls: Urls) -> list[Tile]:
    """Files whose last attempt failed, if there are any."""
    if not its_errors.waiting:
        return []
    url = urls.changelist(attempt=AttemptFilter.WAITING)
    return [Tile("waiting", gettext("waiting after an error"), str(its_errors.waiting), url=url)]


def _other_tiles(found: Overview, urls: Urls) -> list[Tile]:
    """Files in states that a newer version of the package wrote, if there are any."""
    pile = found.total.piles[OTHER]
    if not pile.files:
        return []
    size = SIZE(pile.bytes) + ("+" if pile.is_cut else "")
    url = urls.changelist(state=OTHER)
    return [Tile(OTHER, gettext("other states"), str(_count(pile)), size, url)]


def _copy_tiles(remote_lines: list[remotes.Line], urls: Urls) -> list[Tile]:
    """The copies that mirrors lack, if there are any."""
    mirrors = [line for line in remote_lines if line.remote.is_mirror]
    missing = Number(sum(line.waiting for line in mirrors))
    failed = Number(sum(line.failed for line in mirrors))
    if not missing:
        return []
    details = gettext("%(count)s failed") % {"count": failed}
    url = urls.changelist(copies=CopiesFilter.MISSING)
    label = gettext("missing copies")
    return [Tile("copies", label, str(missing), details, url, is_bad=failed > 0)]


def _age_tile(found: Overview, urls: Urls) -> Tile:
    times = [found.total.piles[state].oldest for state in (State.PENDING, State.TRANSFERRING)]
    oldest = min(filter(None, times), default=None)
    url = urls.changelist(state=State.PENDING)
    return Tile("age", gettext("oldest pending"), age(oldest, found.at), url=url)


def _rate_tile(found: Overview, urls: Urls) -> Tile:
    rate = found.total.rate
    is_cut = not found.full_minutes  # more transfers in the last minute than are counted
    files = AtLeast(rate.files) if is_cut else Number(rate.files)
    return Tile(
        "rate",
        gettext("per minute"),
        FILES % {"count": files},
        SIZE(rate.bytes) + ("+" if is_cut else ""),
        urls.changelist(state=State.TRANSFERRED),
    )


# The tables


@dataclass(frozen=True)
class Cell:
    label: str
    value: str
    state: str = ""
    url: str = ""


@dataclass(frozen=True)
class Line:
    """One storage or host."""

    name: str
    url: str
    is_known: bool
    cells: list[Cell]
    plot: Plot


def _line(share: Share, found: Overview, urls: Urls, column: str) -> Line:
    """``column`` is the filter of the list that finds the files of the storage or host."""
    its = {column: share.name}
    oldest = min(filter(None, (pile.oldest for pile in share.piles.values())), default=None)
    cells = [
        *(
            _state_cell(state, share.piles[state], urls.changelist(**its, state=state))
            for state in SHOWN
            if found.total.piles[state].files or state not in OF_STEPS
        ),
        Cell(gettext("oldest"), age(oldest, found.at)),
        Cell(gettext("files per minute"), str(Number(share.rate.files))),
        Cell(gettext("bytes per minute"), SIZE(share.rate.bytes)),
    ]
    plot = plots.small_plot(share, found)
    return Line(share.name or "-", urls.changelist(**its), share.is_known, cells, plot)


def _state_cell(state: State, pile: Pile, url: str) -> Cell:
    is_some = pile.files > 0
    return Cell(
        str(state.label), str(_count(pile)), state if is_some else "", url if is_some else ""
    )


def _running(row: Running, urls: Urls) -> dict[str, Any]:
    sent = min(row.sent, row.size)
    return {
        "row": row,
        "url": urls.change(row.pk),
        "attempts": Number(row.attempts),
        "sent": sent,
        "percent": int(100 * sent / row.size) if row.size else 0,
        "progress": gettext("%(sent)s of %(size)s") % {"sent": SIZE(sent), "size": SIZE(row.size)},
    }


def _failed(row: Failed, urls: Urls) -> dict[str, Any]:
    return {"row": row, "url": urls.change(row.pk)}
