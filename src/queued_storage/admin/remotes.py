"""Remotes on the dashboard: which are closed and why, with buttons that steer them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from ..exceptions import UnknownAlias
from ..ledger.availability import Availability, availabilities, waiting
from ..ledger.remotes import RemoteState
from ..operations import remotes
from ..operations.mirrors import unfinished
from . import overview
from .formats import AtLeast, Number, duration
from .log import log_change

WAITING = ngettext_lazy("%(count)s file waits.", "%(count)s files wait.", "count")
NEXT_PROBE = ngettext_lazy(
    "Next probe in %(seconds)d second.", "Next probe in %(seconds)d seconds.", "seconds"
)
HEADLINES: dict[str, Any] = {
    RemoteState.AWAY: _("The remote of %(alias)s has been away for %(time)s."),
    RemoteState.REFUSED: _("The remote of %(alias)s has refused files for %(time)s."),
    RemoteState.PAUSED: _("The remote of %(alias)s has been paused for %(time)s."),
}
MIRROR_HEADLINE = _("A mirror of %(alias)s has been closed for %(time)s.")
OTHER_HEADLINE = _("The remote of %(alias)s has been closed for %(time)s.")


@dataclass(frozen=True)
class Action:
    """What a button does, and what it says to the user and in the admin's log."""

    name: str
    label: Any
    verb: Callable[[str], int]
    done: Any
    none: Any
    log: Any


PAUSE = Action(
    "pause",
    _("Pause uploads"),
    remotes.pause,
    _("The remote of %(alias)s is paused. Files can still be saved; they wait."),
    _("The remote of %(alias)s is paused already."),
    _("Paused."),
)
RESUME = Action(
    "resume",
    _("Resume uploads"),
    remotes.resume,
    _("The remote of %(alias)s is open again."),
    _("The remote of %(alias)s is not paused."),
    _("Resumed."),
)
PROBE = Action(
    "probe",
    _("Probe now"),
    remotes.request_probe,
    _("The remote of %(alias)s is being probed. It opens if the probe succeeds."),
    _("The remote of %(alias)s is open or paused, so it is not probed."),
    _("Probe requested."),
)
ACTIONS = {action.name: action for action in (PAUSE, RESUME, PROBE)}


@dataclass(frozen=True)
class Button:
    """An action that the user may take on a remote."""

    action: Action
    url: str


@dataclass(frozen=True)
class Line:
    """One remote on the dashboard."""

    remote: Availability
    label: str  # of the state
    waiting: Number
    headline: str
    ending: str  # when it will open
    buttons: list[Button]

    @property
    def files(self) -> str:
        return WAITING % {"count": self.waiting}


def lines(request: HttpRequest, site: AdminSite) -> list[Line]:
    """The remotes in use, with the actions that the user may take, and mirrors that are closed."""
    buttons = {}
    if request.user.has_perm("queued_storage.steer_remote"):
        buttons = {name: Button(action, _url(site, name)) for name, action in ACTIONS.items()}
    known = availabilities()
    in_use = [each for each in known if each.is_configured][: overview.ALIASES]
    mirrors = [each for each in known if each.is_mirror and not each.is_open]
    return [
        *(_line(each, buttons) for each in in_use),
        *(_line(each, {}) for each in mirrors[: overview.ALIASES]),
    ]


def _url(site: AdminSite, action: str) -> str:
    name = "admin:queued_storage_queuedfile_remotes"
    return reverse(name, args=[action], current_app=site.name)


def _line(remote: Availability, buttons: dict[str, Button]) -> Line:
    files = _count(remote, overview.LIMIT + 1)
    headline = HEADLINES.get(remote.state, OTHER_HEADLINE)
    if remote.is_mirror:
        headline = MIRROR_HEADLINE
    names = {"alias": remote.alias, "time": duration(remote.age)}
    return Line(
        remote,
        str(dict(RemoteState.choices).get(remote.state, remote.state)),
        Number(files) if files <= overview.LIMIT else AtLeast(overview.LIMIT),
        headline % names,
        _ending(remote),
        [buttons[action.name] for action in _actions(remote) if buttons],
    )


def _count(remote: Availability, limit: int) -> int:
    """Count the files that wait for a remote, up to a limit."""
    if remote.is_mirror:
        return len(unfinished(remote.alias, remote.digest).values("pk")[:limit])
    return waiting(remote.alias, limit)


def _actions(remote: Availability) -> list[Action]:
    if remote.is_paused:
        return [RESUME]
    return [PAUSE] if remote.is_open else [PROBE, PAUSE]


def _ending(remote: Availability) -> str:
    if remote.is_paused:
        return gettext("It stays closed until an operator resumes it.")
    if not remote.next_probe_in:
        return gettext("It is being probed.")
    seconds = round(remote.next_probe_in)
    if seconds < 60:
        return str(NEXT_PROBE % {"seconds": seconds})
    return gettext("Next probe in %(time)s.") % {"time": duration(seconds)}


@require_POST
def steer(request: HttpRequest, name: str, site: AdminSite) -> HttpResponse:
    """Take an action on the remote of the storage in the form, and go back to the dashboard."""
    if not request.user.has_perm("queued_storage.steer_remote"):
        raise PermissionDenied
    action = ACTIONS.get(name)
    if action is None:
        raise Http404
    alias = request.POST.get("alias", "")
    try:
        count = action.verb(alias)
    except UnknownAlias as error:
        raise Http404 from error
    if count:
        log_change(request, list(remotes.rows(alias)), str(action.log))
        messages.success(request, action.done % {"alias": alias})
    else:
        messages.warning(request, action.none % {"alias": alias})
    url = reverse("admin:queued_storage_queuedfile_dashboard", current_app=site.name)
    return HttpResponseRedirect(url)
