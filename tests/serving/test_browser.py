"""One URL in a real browser: before the transfer, after it, and after eviction."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from storages.backends.s3 import S3Storage

from queued_storage.ledger.database import ledger
from tests.support import services
from tests.support.scripted import file, make, row
from tests.support.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    services.require("browser")
    with services.chromium() as driver:
        yield driver
        driver.get("about:blank")


@pytest.fixture
def live_server(django_db_setup: None, live_server: Any) -> Any:
    """A live server, started after SQLite's test database has its file."""
    return live_server


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


SHOW = """
document.body.innerHTML = "";
const picture = new Image();
picture.id = "shown";
picture.src = arguments[0];
document.body.append(picture);
"""
SIZE = """
const picture = document.querySelector("#shown, body > img");
return picture && picture.complete ? [picture.naturalWidth, picture.naturalHeight] : null;
"""


def shown_in_a_page(browser: Any, url: str) -> list[int]:
    """The size of the image in the browser; 0 by 0 if it was not loaded."""
    browser.execute_script(SHOW, url)
    return list(until(lambda: browser.execute_script(SIZE)))


def shown_by_itself(browser: Any, url: str) -> list[int]:
    browser.get(url)
    return list(until(lambda: browser.execute_script(SIZE)))


@pytest.mark.parametrize("way", ["stable", "proxied", "signed"])
def test_a_picture_in_every_state(
    chromium: Any, live_server: Any, s3_options: dict[str, Any], way: str
) -> None:
    storage = make(remote=S3Storage(**s3_options), url_mode=way)
    name = storage.save("docs/grüße 1.png", file(picture(32, 16)))
    url = live_server.url + storage.url(name)

    def look() -> str:
        chromium.execute_cdp_cmd("Network.clearBrowserCache", {})
        chromium.get(f"{live_server.url}/static/queued_storage/admin.css")
        assert shown_in_a_page(chromium, url) == [32, 16]
        assert shown_by_itself(chromium, url) == [32, 16]
        return str(chromium.current_url)

    s3 = s3_options["endpoint_url"]
    assert look() == url
    storage.queue.deliver()
    assert look().startswith(live_server.url if way == "proxied" else s3)
    storage.local.delete(name)
    ledger().filter(pk=row(storage, name).pk).update(is_local=False)
    last = look()
    assert last.startswith(live_server.url if way == "proxied" else s3)
    assert ("X-Amz-Signature=" in last) == (way != "proxied")


def test_an_uploaded_page_is_not_displayed(chromium: Any, live_server: Any) -> None:
    storage = make(url_mode="stable")
    page = file(b"<!doctype html><title>taken</title><script>document.title = 'over'</script>")
    safe = live_server.url + storage.url(storage.save("a.png", file(picture(8, 8))))
    assert shown_by_itself(chromium, safe) == [8, 8]
    for name, kind in (("a.html", ""), ("b.svg", ""), ("c.png", "image/png")):
        url = live_server.url + storage.url(storage.save(name, page))
        if kind:
            ledger().filter(name=name).update(content_type=kind)
        chromium.get(url)
        assert chromium.title not in ("taken", "over")


def test_a_text_is_shown(chromium: Any, live_server: Any) -> None:
    storage = make(url_mode="stable")
    url = live_server.url + storage.url(storage.save("a.txt", file(b"<b>plain</b>")))
    chromium.get(url)
    assert chromium.find_element("css selector", "body").text == "<b>plain</b>"
