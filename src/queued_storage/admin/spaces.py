"""Local storages with limits on the dashboard: how full they are, of what, and since when."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..operations.space import Space, spaces
from .formats import SIZE, age
from .urls import Urls

KEPT: dict[str, Any] = {
    "young": _("%(size)s too young"),
    "uncopied": _("%(size)s not on all mirrors"),
    "open": _("%(size)s open"),
    "failed": _("%(size)s cannot be evicted"),
}


@dataclass(frozen=True)
class Line:
    """One local storage."""

    space: Space
    local: str
    pending: str
    evictable: str
    kept: str
    free: str
    full_for: str
    headline: str
    url: str  # of the list of the local copies


def lines(now: datetime, urls: Urls) -> list[Line]:
    return [_line(space, now, urls) for space in spaces()]


def _line(space: Space, now: datetime, urls: Urls) -> Line:
    its_host = {"host": space.host} if space.host else {}
    kept = [KEPT[why] % {"size": SIZE(size)} for why, size in space.kept.items() if size]
    full_for = age(space.full_since, now) if space.full_since else ""
    return Line(
        space=space,
        local=_share(space.local, space.max_bytes),
        pending=_share(space.pending, space.max_pending_bytes),
        evictable=SIZE(space.evictable),
        kept=", ".join(kept) or "-",
        free=_share(space.free, space.disk) if space.free is not None else "-",
        full_for=full_for or "-",
        headline=gettext("The local storage of %(alias)s has been full for %(time)s.")
        % {"alias": space.alias, "time": full_for},
        url=urls.changelist(alias=space.alias, is_local__exact="1", **its_host),
    )


def _share(size: int, limit: int | None) -> str:
    if limit is None:
        return str(SIZE(size))
    return gettext("%(size)s of %(limit)s") % {"size": SIZE(size), "limit": SIZE(limit)}
