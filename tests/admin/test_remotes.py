"""Remotes on the dashboard, and the buttons that steer them."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.files.storage import storages
from django.test import Client
from pytest_django import Settings

from queued_storage.ledger.availability import availabilities, beside_them
from queued_storage.ledger.copies import copies
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.sql.clock import DatabaseNow
from queued_storage.transfers import watching
from tests.admin.pages import staff, text_of
from tests.support.outages import ERROR, close, registered
from tests.support.scripted import file

pytestmark = pytest.mark.django_db(transaction=True)

DASHBOARD = "/admin/queued_storage/queuedfile/dashboard/"
CLOSED = [RemoteState.AWAY, RemoteState.REFUSED]


def url(action: str) -> str:
    return f"/admin/queued_storage/queuedfile/remotes/{action}/"


@pytest.fixture
def operator() -> Client:
    return staff("view_queuedfile", "steer_remote")


def steer(client: Client, action: str, alias: str = "default") -> list[str]:
    """Press a button; return the messages."""
    answer = client.post(url(action), {"alias": alias}, follow=True)
    assert answer.redirect_chain == [(DASHBOARD, 302)]
    return [str(message) for message in answer.context["messages"]]


# The banner


@pytest.mark.parametrize("path", [DASHBOARD, f"{DASHBOARD}numbers/"])
@pytest.mark.parametrize(
    ("state", "text"), [("away", "has been away for"), ("refused", "has refused files for")]
)
def test_banner_of_a_closed_remote(
    storage: Any, viewer: Client, state: str, text: str, path: str
) -> None:
    for name in ("a.txt", "b.txt"):
        storage.save(name, file())
    assert "has been" not in text_of(viewer, path)
    close(storage, state, ago=12 * 60 + 5, probe_in=200)
    registered(storage).update(probes=3)
    shown = text_of(viewer, path)
    assert f"The remote of default {text} 12 minutes. 2 files wait. Next probe in 3 min" in shown
    assert f"3 probes have failed. {ERROR} {storage.remote_place.description}" in shown
    assert f"Remote of default: {state}." in viewer.get(path).content.decode()


def test_banner_of_a_closed_mirror(settings: Settings, operator: Client) -> None:
    mirror = {"BACKEND": "tests.support.scripted.ScriptedStorage", "OPTIONS": {"place": "mirror"}}
    options = {**settings.STORAGES["default"]["OPTIONS"], "mirrors": ["second"]}
    default = settings.STORAGES["default"] | {"OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"second": mirror, "default": default}
    storage: Any = storages["default"]
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    copies().update(state="pending", due_at=None)
    [second] = [each for each in availabilities() if each.is_mirror]
    assert "1 copy is missing." in text_of(operator, DASHBOARD)
    copies().update(state="failed")
    shown = text_of(operator, DASHBOARD)
    assert "1 copy is missing. 1 has failed." in shown
    assert "missing copies 1 1 failed" in shown
    remotes().filter(digest=second.digest).close("away", "The mirror is away.", 60)
    shown = text_of(operator, DASHBOARD)
    assert "A mirror of default has been closed for" in shown
    assert "1 copy waits." in shown
    assert "Mirror of default: away." in shown
    assert f"The mirror is away. {second.place}" in shown
    assert "run: manage.py queued_storage check-remote second. " in shown
    assert "Probe now" in shown


def test_banner_of_a_paused_remote(storage: Any, viewer: Client) -> None:
    close(storage, RemoteState.PAUSED, ago=130)
    shown = text_of(viewer, DASHBOARD)
    assert "has been paused for 2 minutes. 0 files wait. It stays closed until an op" in shown


@pytest.mark.parametrize(("seconds", "text"), [(30, "Next probe in"), (-5, "It is being probed.")])
def test_when_the_next_probe_is(storage: Any, viewer: Client, seconds: float, text: str) -> None:
    close(storage, probe_in=seconds)
    assert text in text_of(viewer, DASHBOARD)


def test_state_of_a_newer_version(storage: Any, viewer: Client) -> None:
    close(storage)
    registered(storage).update(state="drained", next_probe_at=None)
    assert "The remote of default has been closed for" in text_of(viewer, DASHBOARD)


def test_errors_are_escaped(storage: Any, viewer: Client) -> None:
    close(storage)
    registered(storage).update(last_error="<script>alert(1)</script>")
    assert "<script>alert" not in viewer.get(DASHBOARD).content.decode()


# The buttons


def test_buttons_by_state(storage: Any, operator: Client, viewer: Client) -> None:
    def buttons(client: Client) -> list[str]:
        html = client.get(DASHBOARD).content.decode()
        return [name for name in ("pause", "resume", "probe") if f'"queued-{name}-default"' in html]

    assert buttons(operator) == ["pause"]
    for state in CLOSED:
        registered(storage).update(state=state)
        assert buttons(operator) == ["pause", "probe"]
    registered(storage).update(state=RemoteState.PAUSED)
    assert buttons(operator) == ["resume"]
    assert buttons(viewer) == []


def test_pause_and_resume(storage: Any, operator: Client) -> None:
    assert "is paused. Files can still be saved" in steer(operator, "pause")[0]
    assert registered(storage).get().state == RemoteState.PAUSED
    assert "is paused already" in steer(operator, "pause")[0]
    storage.save("a.txt", file())
    storage.queue.messages.clear()
    assert "is open again" in steer(operator, "resume")[0]
    assert registered(storage).get().is_open
    assert storage.queue.messages
    assert "is not paused" in steer(operator, "resume")[0]
    entries = LogEntry.objects.order_by("pk").values_list("change_message", "object_repr")
    place = storage.remote_place.description
    assert list(entries) == [
        ("Paused.", f"default: {place}"[:200]),
        ("Resumed.", f"default: {place}"[:200]),
    ]


@pytest.fixture
def others(settings: Settings) -> dict[str, str]:
    """Give the storage a mirror and a previous remote; return what a form has to name them."""
    backend = "tests.support.scripted.ScriptedStorage"
    more = {key: {"BACKEND": backend, "OPTIONS": {"place": key}} for key in ("second", "old")}
    options = {
        **settings.STORAGES["default"]["OPTIONS"],
        "mirrors": ["second"],
        "previous": ["old"],
    }
    default = settings.STORAGES["default"] | {"OPTIONS": options}
    settings.STORAGES = settings.STORAGES | more | {"default": default}
    return {each.name: str(each.digest) for each in beside_them(availabilities())}


@pytest.mark.parametrize("name", ["second", "old"])
def test_steering_a_mirror_or_previous_remote(
    operator: Client, others: dict[str, str], name: str
) -> None:
    place = others[name]

    def act(action: str) -> str:
        answer = operator.post(url(action), {"alias": "default", "place": place}, follow=True)
        return str(next(iter(answer.context["messages"])))

    its = remotes().filter(digest=place)
    assert f"at {storages[name].location} is paused." in act("pause")  # type: ignore[attr-defined]
    assert its.get().state == RemoteState.PAUSED
    assert "is paused already" in act("pause")
    assert "of default has been paused for" in text_of(operator, DASHBOARD)
    html = operator.get(DASHBOARD).content.decode()
    assert f'id="queued-resume-default-{place}"' in html
    assert 'id="queued-pause-default"' in html
    assert "is open again" in act("resume")
    assert "is open or paused" in act("probe")
    assert remotes().exclude(digest=place).closed().count() == 0


def test_a_mirror_without_a_name_is_tested_by_a_probe(settings: Settings, operator: Client) -> None:
    mirror = {"BACKEND": "tests.support.scripted.ScriptedStorage", "OPTIONS": {"place": "second"}}
    options = {**settings.STORAGES["default"]["OPTIONS"], "mirrors": [mirror]}
    settings.STORAGES = settings.STORAGES | {
        "default": settings.STORAGES["default"] | {"OPTIONS": options}
    }
    storage: Any = storages["default"]
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    [second] = [each for each in availabilities() if each.is_mirror]
    remotes().filter(digest=second.digest).close("away", "The mirror is away.", 60)
    shown = text_of(operator, DASHBOARD)
    assert f"run: manage.py queued_storage remotes probe default {second.place}. " in shown


@pytest.mark.parametrize("place", ["x", "5", "9" * 19, "9" * 30, "\u0665"])
def test_places_that_do_not_exist(operator: Client, others: dict[str, str], place: str) -> None:
    assert operator.post(url("pause"), {"alias": "default", "place": place}).status_code == 404
    assert not remotes().exists()


def test_a_probe_is_requested(
    storage: Any, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[int] = []
    monkeypatch.setattr(watching, "probe_soon", lambda: woken.append(1))
    assert "is open or paused" in steer(operator, "probe")[0]
    close(storage, probe_in=1000)
    assert "is being probed" in steer(operator, "probe")[0]
    assert remotes().filter(next_probe_at__lte=DatabaseNow()).exists()
    assert woken == [1]


@pytest.mark.parametrize("action", ["pause", "resume", "probe"])
def test_steering_requires_both_permissions(storage: Any, action: str) -> None:
    close(storage)
    before = remotes().values().get()
    for client in (staff("view_queuedfile"), staff("steer_remote")):
        assert client.post(url(action), {"alias": "default"}).status_code == 403
    assert Client().post(url(action), {"alias": "default"}).status_code == 302
    assert remotes().values().get() == before


@pytest.mark.parametrize("action", ["pause", "resume", "probe"])
def test_steering_requires_a_post_with_a_token(operator: Client, action: str) -> None:
    assert operator.get(url(action)).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get())
    assert strict.post(url(action), {"alias": "default"}).status_code == 403
    assert not remotes().exists()


@pytest.mark.parametrize(
    ("action", "alias"), [("pause", "nobody"), ("resume", ""), ("open", "default"), ("pause", "\0")]
)
def test_what_does_not_exist(storage: Any, operator: Client, action: str, alias: str) -> None:
    close(storage)
    assert operator.post(url(action), {"alias": alias}).status_code == 404
    assert not LogEntry.objects.exists()
