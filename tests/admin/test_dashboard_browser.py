"""The live dashboard in a browser."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.files.storage import storages
from django.http import HttpResponse
from django.test import Client

from queued_storage.admin import dashboard
from queued_storage.ledger.jobs import Action, JobState, jobs
from queued_storage.ledger.remotes import remotes
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.uploaders import Uploader
from tests.admin.test_overview import add
from tests.support import services
from tests.support.outages import close
from tests.support.scripted import file
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

URL = "/admin/queued_storage/queuedfile/dashboard/"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "SECONDS", 0.1)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    services.require("browser")
    with services.chromium() as driver:
        yield driver


@pytest.fixture
def live_server(django_db_setup: None, live_server: Any) -> Any:
    """The server, started after the test database was created.

    Before that, SQLite's database seems to be in memory, and the server would share the connection
    of this thread.
    """
    return live_server


@pytest.fixture
def browser(chromium: Any, live_server: Any, quick: None, transactional_db: None) -> Iterator[Any]:
    """A logged-in browser, as wide as on a desktop."""
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    chromium.get(
        f"{live_server.url}/static/queued_storage/admin.css"
    )  # a cookie needs a page of the site
    chromium.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})
    see(chromium)
    chromium.get_log("browser")
    yield chromium
    see(chromium)
    chromium.get("about:blank")  # no requests while the database is emptied


def see(browser: Any, width: int = 1280, scheme: str = "light", *, scripts: bool = True) -> None:
    call = browser.execute_cdp_cmd
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    call("Emulation.setDeviceMetricsOverride", screen)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    call("Emulation.setEmulatedMedia", {"features": media})
    call("Emulation.setScriptExecutionDisabled", {"value": not scripts})


# Replaces the timers of the page. They run when the test calls tick().
CLOCK = """
window.later = [];
window.setTimeout = (what) => window.later.push(what);
window.clearTimeout = (id) => { delete window.later[id - 1]; };
window.waiting = () => window.later.filter(Boolean).length;
window.tick = () => {
  const what = window.later.filter(Boolean);
  window.later = [];
  what.forEach((one) => one());
};
"""


@pytest.fixture
def stepped(browser: Any) -> Iterator[Any]:
    """The browser with timers that the test controls."""
    call = browser.execute_cdp_cmd
    added = call("Page.addScriptToEvaluateOnNewDocument", {"source": CLOCK})
    yield browser
    call("Page.removeScriptToEvaluateOnNewDocument", added)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an entry for each request for the numbers."""
    found: list[int] = []
    numbers = dashboard.numbers

    def noted(*args: Any) -> HttpResponse:
        found.append(1)
        return numbers(*args)

    monkeypatch.setattr(dashboard, "numbers", noted)
    return found


def planned(browser: Any) -> int:
    """The number of waiting timers."""
    return int(browser.execute_script("return waiting()"))


def tile(browser: Any, key: str = "pending") -> str:
    script = f"return document.querySelector('.queued-{key} .queued-value').textContent"
    return str(browser.execute_script(script))


def summary(browser: Any) -> str:
    return str(browser.execute_script("return document.querySelector('[role=status]').textContent"))


def test_it_updates_itself(browser: Any, live_server: Any) -> None:
    browser.get(live_server.url + URL)
    browser.execute_script("window.same = true")
    assert tile(browser) == "0"
    storages["default"].save("a.txt", file())
    until(lambda: tile(browser) == "1")
    until(lambda: summary(browser) == "Pending: 1. Transferring: 0. Failed: 0.")
    assert browser.execute_script("return window.same")


def test_progress_is_updated(browser: Any, live_server: Any) -> None:
    add(1, State.TRANSFERRING, size=100, sent=10)
    browser.get(live_server.url + URL)
    value = "return document.querySelector('progress').value"
    assert browser.execute_script(value) == 10
    QueuedFile.objects.update(sent=70)
    until(lambda: browser.execute_script(value) == 70)


def test_it_pauses_in_the_background(stepped: Any, live_server: Any, asked: list[int]) -> None:
    stepped.get(live_server.url + URL)
    assert planned(stepped) == 1
    stepped.execute_script("tick()")
    until(lambda: asked and planned(stepped))
    look = "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
    look += "document.dispatchEvent(new Event('visibilitychange'))"
    stepped.execute_script(look.format("true"))
    assert planned(stepped) == 0
    assert len(asked) == 1
    stepped.execute_script(look.format("false"))
    until(lambda: len(asked) == 2 and planned(stepped) == 1)


def test_the_keyboard_can_pause_and_refresh(stepped: Any, live_server: Any) -> None:
    stepped.get(live_server.url + URL)
    pause = stepped.find_element("id", "queued-pause")
    pause.send_keys("\n")
    assert pause.text == "Resume"
    assert planned(stepped) == 0
    storages["default"].save("a.txt", file())
    stepped.find_element("id", "queued-refresh").send_keys("\n")
    until(lambda: tile(stepped) == "1")
    assert pause.text == "Resume"
    assert planned(stepped) == 0
    storages["default"].save("b.txt", file())
    pause.send_keys(" ")
    assert pause.text == "Pause"
    until(lambda: tile(stepped) == "2" and planned(stepped) == 1)


def test_an_update_keeps_the_focus(browser: Any, live_server: Any) -> None:
    add(1, State.FAILED, name="bad.txt")
    browser.get(live_server.url + URL)
    for selector in ("#queued-tile-failed", ".queued-table th a"):
        browser.execute_script(
            "const link = document.querySelector(arguments[0]); link.focus(); link.old = true",
            selector,
        )
        focus = "return document.activeElement === document.querySelector(arguments[0])"
        until(
            lambda selector=selector: browser.execute_script(
                "return !document.querySelector(arguments[0]).old", selector
            )
        )
        assert browser.execute_script(focus, selector)


def test_an_update_keeps_the_selection(stepped: Any, live_server: Any, asked: list[int]) -> None:
    add(1, State.FAILED, last_error="to be copied")
    stepped.get(live_server.url + URL)
    stepped.execute_script(
        "getSelection().selectAllChildren(document.querySelector('[data-label=Error]')); tick()"
    )
    until(lambda: planned(stepped) == 1)
    assert asked == []
    assert stepped.execute_script("return String(getSelection())") == "to be copied"
    stepped.execute_script("getSelection().removeAllRanges(); tick()")
    until(lambda: asked)


def test_it_says_when_the_user_is_logged_out(browser: Any, live_server: Any) -> None:
    browser.get(live_server.url + URL)
    Session.objects.all().delete()
    until(lambda: "logged out" in browser.find_element("id", "queued-trouble").text)


def test_it_retries_after_a_server_error(
    browser: Any, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.get(live_server.url + URL)
    with monkeypatch.context() as broken:
        broken.setattr(dashboard, "numbers", lambda *args: HttpResponse(status=503))
        until(lambda: "Trying again" in browser.find_element("id", "queued-trouble").text)
    until(lambda: browser.find_element("id", "queued-trouble").text == "")


def test_it_works_without_scripts(browser: Any, live_server: Any) -> None:
    add(3)
    see(browser, scripts=False)
    browser.get(live_server.url + URL)
    cells = [cell.text for cell in browser.find_elements("css selector", ".queued-numbers td")]
    assert cells[:2] == ["3", "0"]
    assert not browser.find_element("id", "queued-pause").is_displayed()
    assert browser.find_element("id", "queued-refresh").is_displayed()


@pytest.mark.parametrize("path", ["queuedfile/", "queuedfile/dashboard/", "job/", "job/{}/change/"])
def test_it_fits_on_a_phone(browser: Any, live_server: Any, path: str) -> None:
    job = jobs().request(Action.EVICT, "default", "", [1, 2], "anna")
    findings = [{"name": "long-name-" * 20, "error": "x" * 300}]
    jobs().filter(pk=job.pk).update(state="running", failed=1, findings=findings)
    add(1, State.FAILED, name=f"{'long-name-' * 20}.jpg", last_error="x" * 300)
    add(1, State.TRANSFERRING, name=f"{'other-name-' * 20}.jpg", size=10**12)
    close(storages["default"])
    remotes().update(last_error="x" * 500, place="s3://" + "y" * 200)
    see(browser, width=360)
    browser.get(f"{live_server.url}/admin/queued_storage/{path.format(job.pk)}")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("width", [1280, 800])
def test_the_dashboard_fits_on_a_small_window(browser: Any, live_server: Any, width: int) -> None:
    add(1, State.FAILED, alias="documents-of-customers", host="web-frontend-17", last_error="x")
    see(browser, width)
    browser.get(live_server.url + URL)
    shown = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(shown) == 0


def test_a_long_name_leaves_room_in_the_list(browser: Any, live_server: Any) -> None:
    add(1, State.FAILED, name=f"{'a_long_name_' * 8}.jpg")
    browser.get(f"{live_server.url}/admin/queued_storage/queuedfile/")
    edge = "return document.querySelector('.results').getBoundingClientRect().right"
    last = "return document.querySelector('td.field-alias').getBoundingClientRect().right"
    assert browser.execute_script(last) <= browser.execute_script(edge)


def press(browser: Any, selector: str) -> None:
    """Press a button in one step, since an update of the page replaces it at any moment."""
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_an_action_is_followed_and_cancelled(browser: Any, live_server: Any) -> None:
    add(2, State.TRANSFERRED)
    browser.get(f"{live_server.url}/admin/queued_storage/queuedfile/")
    browser.find_element("id", "action-toggle").click()
    browser.find_element("css selector", "option[value=evict]").click()
    browser.find_element("css selector", ".actions button").click()
    until(lambda: "A worker will evict 2 local copies." in browser.page_source)
    browser.get(live_server.url + URL)
    press(browser, "a[id^=queued-job-]")
    until(lambda: browser.find_elements("css selector", ".queued-cancel button"))
    press(browser, ".queued-cancel button")
    until(lambda: "1 job was cancelled." in browser.page_source)
    assert jobs().get().state == JobState.CANCELLED
    assert not browser.find_elements("css selector", ".queued-cancel")


BANNER = "return document.querySelector('.queued-outage')?.textContent ?? ''"


def test_a_remote_is_paused_and_resumed(browser: Any, live_server: Any) -> None:
    storages["default"].save("a.txt", file())
    browser.get(live_server.url + URL)
    assert browser.execute_script(BANNER) == ""
    press(browser, "#queued-pause-default")
    until(lambda: "Files can still be saved" in browser.page_source)
    assert "has been paused for less than a minute" in browser.execute_script(BANNER)
    assert summary(browser).startswith("Remote of default: paused.")
    # The button is still that of the user after an update.
    script = "const button = document.getElementById(arguments[0]); button.focus(); button.old = 1"
    browser.execute_script(script, "queued-resume-default")
    until(lambda: browser.execute_script("return !document.activeElement.old"))
    press(browser, "#queued-resume-default")
    until(lambda: "is open again" in browser.page_source)
    assert browser.execute_script(BANNER) == ""


def test_a_probe_opens_the_remote(
    browser: Any, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages["default"].save("a.txt", file())
    close(storages["default"], ago=800, probe_in=1000)
    monkeypatch.setattr(Uploader, "write_probe", lambda uploader: None)
    browser.get(live_server.url + URL)
    assert "has been away for 13" in browser.execute_script(BANNER)
    press(browser, "#queued-probe-default")
    until(lambda: "is being probed" in browser.page_source)
    until(lambda: not browser.find_elements("css selector", ".queued-outage"))


def test_all_files_of_an_error_are_retried(browser: Any, live_server: Any) -> None:
    add(3, last_error="OSError: no")
    browser.get(live_server.url + URL)
    press(browser, "[id^=queued-retry-]")
    until(lambda: "3 files will be retried." in browser.page_source)
    assert not browser.find_elements("css selector", "[id^=queued-retry-]")


def test_an_update_keeps_the_period(browser: Any, live_server: Any) -> None:
    browser.get(live_server.url + URL)
    press(browser, "#queued-range-1w")
    until(lambda: "range=1w" in browser.current_url)
    storages["default"].save("a.txt", file())
    until(lambda: tile(browser) == "1")
    # In one step, since an update of the page replaces what was found
    script = "return [document.querySelector('[aria-current=true]').textContent, "
    script += "document.querySelector('.queued-plot').querySelectorAll('.queued-rect').length]"
    assert browser.execute_script(script) == ["1 week", 84]


def test_it_has_a_dark_mode(browser: Any, live_server: Any) -> None:
    add(1)
    color = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    found = {}
    for scheme in ("light", "dark"):
        see(browser, scheme=scheme)
        browser.get(live_server.url + URL)
        found[scheme] = [
            sum(map(int, re.findall(r"\d+", browser.execute_script(color, selector, what))[:3]))
            for selector, what in [
                (".queued-tile", "backgroundColor"),
                (".queued-value", "color"),
                (".queued-plot figcaption", "color"),
            ]
        ]
    assert found["light"][0] > 700 > found["light"][1] + 500
    assert found["dark"][0] < 100
    assert min(found["dark"][1:]) > 600


def test_it_works_under_a_strict_csp(
    browser: Any, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = dashboard.page

    def strict(*args: Any) -> HttpResponse:
        answer = page(*args)
        answer["Content-Security-Policy"] = "default-src 'self'"
        return answer

    monkeypatch.setattr(dashboard, "page", strict)
    browser.get(live_server.url + URL)
    storages["default"].save("a.txt", file())
    until(lambda: tile(browser) == "1")
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert [text for text in said if "favicon" not in text] == []
