"""The page of the live dashboard."""

import re
from html import unescape

import pytest
from django.test import Client

from queued_storage.admin import overview
from queued_storage.ledger.states import State
from tests.admin.pages import LIST, staff
from tests.admin.test_overview import add, ago

pytestmark = pytest.mark.django_db

URL = "/admin/queued_storage/queuedfile/dashboard/"
NUMBERS = f"{URL}numbers/"


def html_of(client: Client, url: str = URL) -> str:
    answer = client.get(url)
    assert answer.status_code == 200
    return answer.content.decode().replace("\xa0", " ")


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize("url", [URL, NUMBERS])
def test_it_requires_the_view_permission(url: str) -> None:
    assert Client().get(url).status_code == 302
    assert staff("retry_queuedfile").get(url).status_code == 403


@pytest.mark.parametrize("url", [URL, NUMBERS])
def test_it_is_read_only_and_never_cached(viewer: Client, url: str) -> None:
    assert viewer.post(url).status_code == 405
    assert "no-store" in viewer.get(url)["Cache-Control"]


def test_the_change_list_links_to_it(viewer: Client) -> None:
    changelist = "/admin/queued_storage/queuedfile/"
    assert f'href="{URL}"' in html_of(viewer, changelist)
    assert text_of(html_of(viewer)).count("All files") == 1
    assert f'href="{changelist}"' in html_of(viewer)


@pytest.mark.parametrize("url", [URL, NUMBERS])
def test_an_empty_ledger(viewer: Client, url: str) -> None:
    text = text_of(html_of(viewer, url))
    assert "pending 0" in text
    assert "The ledger is empty." in text
    assert "No transfer is in progress." in text


def test_it_is_complete_without_javascript(viewer: Client) -> None:
    add(2, size=1024, saved_at=ago(7200))
    add(1, State.TRANSFERRING, size=2048, sent=1024, saved_at=ago(30))
    add(1, State.FAILED, alias="archive", host="web-2", last_error="no such <bucket>")
    add(3, State.TRANSFERRED, transferred_at=ago(20), size=1024)
    html = html_of(viewer)
    text = text_of(html)
    assert "pending 2 2.0 KB" in text
    assert "oldest pending 2 hours" in text
    assert "per minute 3 files 3.0 KB" in text
    assert "1.0 KB of 2.0 KB" in text
    assert '<progress max="100" value="50"' in html
    assert "archive unknown alias 0 0 1 0 0" in text
    assert "web-1 2 1 0 0 0 2 hours 3 3.0 KB" in text
    assert "no such &lt;bucket&gt;" in html


def test_capped_numbers_have_a_plus_sign(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LIMIT", 4)
    add(6)
    add(30, State.TRANSFERRED, transferred_at=ago(5))
    text = text_of(html_of(viewer))
    assert "pending 4+" in text
    assert re.search(r"per minute \d+\+ files ", text)


def test_each_number_leads_to_its_files(viewer: Client) -> None:
    soon = ago(-300)
    add(2, due_at=soon, last_error="OSError: no")
    add(3, State.FAILED, alias="archive", host="web-2")
    add(4, State.TRANSFERRING, alias="archive")
    add(5, State.HELD, host="web-2")
    add(6, "checking")  # type: ignore[arg-type]
    html = html_of(viewer)
    links = re.findall(rf'<a href="({LIST}\?[^"]+)"[^>]*>(.*?)</a>', html, re.S)
    checked = 0
    for url, inside in links:
        shown = re.sub(r"[\d.]+ (bytes|KB)", "", text_of(inside))
        numbers = re.findall(r"(?:^| )(\d+)(?: |$)", shown)
        if numbers and "oldest" not in shown and "per minute" not in shown:
            found = viewer.get(unescape(url)).context["cl"].result_count
            assert [found] == list(map(int, numbers)), (url, shown)
            checked += 1
    assert checked > 15


def test_a_list_that_is_cut_says_so(viewer: Client) -> None:
    add(overview.FAILURES, State.FAILED)
    add(overview.TRANSFERS, State.TRANSFERRING)
    assert "show all" not in text_of(html_of(viewer))
    add(150 - overview.FAILURES, State.FAILED)
    add(1, State.TRANSFERRING)
    html = html_of(viewer)
    assert "Failed 10 of 150 · show all" in text_of(html)
    assert "Transfers in progress 20 of 21 · show all" in text_of(html)
    assert f'href="{LIST}?state=failed" id="queued-all-failed"' in html


def test_breadcrumbs(viewer: Client) -> None:
    found = text_of(html_of(viewer))
    assert "Home &rsaquo; Queued storage &rsaquo; Queued files &rsaquo; Live dashboard" in found


def test_screen_readers_can_read_the_plots(viewer: Client) -> None:
    add(3, State.TRANSFERRED, transferred_at=ago(20))
    add(6, State.TRANSFERRED, transferred_at=ago(80))
    html = html_of(viewer)
    assert 'aria-label="Files per minute; last minute: 3; 1 minute ago: 6; 2 minutes ago: 0' in html
    bars = re.findall(r'class="queued-rect" x="([\d.]+)" y="([\d.]+)" .* height="([\d.]+)"', html)
    assert bars[0][1:] == ("40.0", "40.0")
    assert bars[1][1:] == ("0.0", "80.0")
    assert float(bars[0][0]) > float(bars[1][0])


def test_it_has_no_inline_or_external_code(viewer: Client) -> None:
    add(1, State.TRANSFERRING)
    html = html_of(viewer)
    own = html[html.index('id="content-main"') :]
    assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", own)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
