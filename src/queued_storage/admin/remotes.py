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
from ..ledger.availability import Availability, availabilities, availability_of, beside_them
from ..ledger.copy_counts import failed_at, waiting_for
from ..ledger.remotes import RemoteState
from ..ledger.states import State
from ..operations import remotes
from . import overview
from .changelist import CopiesFilter
from .formats import AtLeast, Number, duration
from .log import log_change
from .urls import Urls

COPIES_WAIT = ngettext_lazy("%(count)s copy waits.", "%(count)s copies wait.", "count")
MISSING = ngettext_lazy("%(count)s copy is missing.", "%(count)s copies are missing.", "count")
FAILED = ngettext_lazy("%(count)s has failed.", "%(count)s have failed.", "count")
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
MIRROR_PAUSED = _("A mirror of %(alias)s has been paused for %(time)s.")
PREVIOUS_HEADLINE = _("A previous remote of %(alias)s has been closed for %(time)s.")
PREVIOUS_PAUSED = _("A previous remote of %(alias)s has been paused for %(time)s.")
OTHER_HEADLINE = _("The remote of %(alias)s has been closed for %(time)s.")


ADVICE: dict[str, Any] = {
    RemoteState.AWAY: _(
        "Check the network, the endpoint of the storage, and the provider's status. To test the "
        "remote, run: %(command)s. Uploads go on by themselves when it works again."
    ),
    RemoteState.REFUSED: _(
        "Fix the key, the permissions, or the bucket, and restart the processes if you changed "
        "settings. To test the remote, run: %(command)s. Then probe it here. The files that wait "
        "keep their attempts."
    ),
}


@dataclass(frozen=True)
class Action:
    """What a button does, and what it says to the user and in the admin's log."""

    name: str
    label: Any
    verb: Callable[[str, int | None], int]
    done: Any
    none: Any
    done_there: Any  # of a mirror or previous remote
    none_there: Any
    log: Any


PAUSE = Action(
    "pause",
    _("Pause uploads"),
    remotes.pause,
    _("The remote of %(alias)s is paused. Files can still be saved; they wait."),
    _("The remote of %(alias)s is paused already."),
    _("The remote of %(alias)s at %(place)s is paused. What is due there waits."),
    _("The remote of %(alias)s at %(place)s is paused already."),
    _("Paused."),
)
RESUME = Action(
    "resume",
    _("Resume uploads"),
    remotes.resume,
    _("The remote of %(alias)s is open again."),
    _("The remote of %(alias)s is not paused."),
    _("The remote of %(alias)s at %(place)s is open again."),
    _("The remote of %(alias)s at %(place)s is not paused."),
    _("Resumed."),
)
PROBE = Action(
    "probe",
    _("Probe now"),
    remotes.request_probe,
    _("The remote of %(alias)s is being probed. It opens if the probe succeeds."),
    _("The remote of %(alias)s is open or paused, so it is not probed."),
    _("The remote of %(alias)s at %(place)s is being probed. It opens if the probe succeeds."),
    _("The remote of %(alias)s at %(place)s is open or paused, so it is not probed."),
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
    failed: Number  # copies that could not be made there
    url: str  # of the list of what waits for it
    advice: str  # what to do, if it is closed by itself

    @property
    def files(self) -> str:
        texts = COPIES_WAIT if self.remote.is_mirror else WAITING
        is_counted = self.remote.is_configured or self.remote.is_mirror
        return str(texts % {"count": self.waiting}) if is_counted else ""

    @property
    def copies(self) -> str:
        """What a mirror lacks; "" if nothing."""
        if not (self.remote.is_mirror and self.waiting):
            return ""
        failed = f" {FAILED % {'count': self.failed}}" if self.failed else ""
        return f"{MISSING % {'count': self.waiting}}{failed}"

    @property
    def kind(self) -> str:
        """What it is besides the remote that files are uploaded to."""
        if self.remote.is_mirror:
            return gettext("mirror")
        return "" if self.remote.is_configured else gettext("previous")

    @property
    def place(self) -> str:
        """What a form has to name it."""
        return "" if self.remote.is_configured else str(self.remote.digest)

    @property
    def key(self) -> str:
        """What tells its buttons from those of others."""
        return f"{self.remote.alias}{self.place and '-'}{self.place}"


def lines(request: HttpRequest, site: AdminSite) -> list[Line]:
    """The remotes in use with mirrors and previous ones, and the actions that the user may take."""
    buttons = {}
    if request.user.has_perm("queued_storage.steer_remote"):
        buttons = {name: Button(action, _url(site, name)) for name, action in ACTIONS.items()}
    known = availabilities()
    in_use = [each for each in known if each.is_configured][: overview.ALIASES]
    others = beside_them(known)[: overview.ALIASES]
    urls = Urls(site)
    return [_line(each, buttons, urls) for each in (*in_use, *others)]


def _url(site: AdminSite, action: str) -> str:
    name = "admin:queued_storage_queuedfile_remotes"
    return reverse(name, args=[action], current_app=site.name)


def _line(remote: Availability, buttons: dict[str, Button], urls: Urls) -> Line:
    files = waiting_for(remote, overview.LIMIT + 1)
    names = {"alias": remote.alias, "time": duration(remote.age)}
    return Line(
        remote,
        str(dict(RemoteState.choices).get(remote.state, remote.state)),
        _shown(files),
        _headline(remote) % names,
        _ending(remote),
        [buttons[action.name] for action in _actions(remote) if buttons],
        _shown(_failed(remote)),
        _url_of(remote, urls),
        _advice(remote),
    )


def _url_of(remote: Availability, urls: Urls) -> str:
    if remote.is_mirror:
        return urls.changelist(alias=remote.alias, copies=CopiesFilter.MISSING)
    return urls.changelist(alias=remote.alias, state=State.PENDING)


def _advice(remote: Availability) -> str:
    advice = ADVICE.get(remote.state)
    if advice is None:
        return ""
    verb = f"check-remote {remote.tested_by}"
    if not remote.tested_by:
        verb = f"remotes probe {remote.steered_by}"
    return str(advice) % {"command": f"manage.py queued_storage {verb}"}


def _headline(remote: Availability) -> Any:
    if remote.is_mirror:
        return MIRROR_PAUSED if remote.is_paused else MIRROR_HEADLINE
    if not remote.is_configured:
        return PREVIOUS_PAUSED if remote.is_paused else PREVIOUS_HEADLINE
    return HEADLINES.get(remote.state, OTHER_HEADLINE)


def _failed(remote: Availability) -> int:
    limit = overview.LIMIT + 1
    return failed_at(remote.alias, remote.digest, limit) if remote.is_mirror else 0


def _shown(count: int) -> Number:
    return Number(count) if count <= overview.LIMIT else AtLeast(overview.LIMIT)


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
    place = _place(request)
    try:
        there = None if place is None else _beside(alias, place)
        count = action.verb(alias, place)
    except UnknownAlias as error:
        raise Http404 from error
    done, none, names = action.done, action.none, {"alias": alias}
    if there:
        done, none = action.done_there, action.none_there
        names["place"] = there.place
    if count:
        log_change(request, list(remotes.rows(alias, place)), str(action.log))
        messages.success(request, done % names)
    else:
        messages.warning(request, none % names)
    url = reverse("admin:queued_storage_queuedfile_dashboard", current_app=site.name)
    return HttpResponseRedirect(url)


def _place(request: HttpRequest) -> int | None:
    """Return the place in the form, of a mirror or previous remote."""
    text = request.POST.get("place", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        raise Http404
    return int(text)


def _beside(alias: str, place: int) -> Availability:
    found = availability_of(alias, place)
    if found is None or found.is_configured or not found.is_known:
        raise Http404
    return found
