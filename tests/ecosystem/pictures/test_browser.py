"""Wagtail's admin in a real browser, while S3 is available and while it is not."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse
from selenium.webdriver.common.by import By
from wagtail.documents.models import Document
from wagtail.images.models import Image
from wagtail.models import Collection

from tests.support import services
from tests.support.fault_proxy import Mode
from tests.support.services import S3Server

from .site import KEEPS, picture, site_on

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(400)]


class Browser:
    """A headless Chromium that visits the pages of the admin."""

    def __init__(self, driver: Any, address: str, uploads: Path) -> None:
        self.driver, self.address, self.uploads = driver, address, uploads
        driver.set_window_size(1280, 900)

    def log_in(self, user: str, password: str) -> None:
        self.open("/admin/login/?next=/admin/images/")
        self.element("[name=username]").send_keys(user)
        self.element("[name=password]").send_keys(password)
        self.press("form button[type=submit]", "/admin/images/")

    def upload(self, kind: str, name: str, content: bytes) -> None:
        (self.uploads / name).write_bytes(content)
        self.open(f"/admin/{kind}/add/")
        self.element("[name=file]").send_keys(str(self.uploads / name))
        until(lambda: self.element("[name=title]").get_property("value"))  # from the file's name
        self.press("main form button[type=submit]", f"/admin/{kind}/")

    def delete(self, kind: str, pk: int) -> None:
        app = {"images": "wagtailimages", "documents": "wagtaildocs"}[kind]
        self.open(reverse(f"{app}:delete", args=[pk]))
        self.press("main form [type=submit]", f"/admin/{kind}/")

    def pictures(self) -> dict[str, int]:
        """Return the URL and the loaded width of each image in the list of images."""
        self.open("/admin/images/")
        found = {}
        for image in self.driver.find_elements(By.CSS_SELECTOR, "main img"):
            self.driver.execute_script("arguments[0].scrollIntoView()", image)
            until(lambda image=image: image.get_property("complete"))
            found[str(image.get_property("src"))] = int(image.get_property("naturalWidth"))
        return found

    def text(self, path: str) -> str:
        self.open(path)
        return str(self.element("main").text)

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)

    def element(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, selector: str, leads_to: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.element(selector))
        until(lambda: self.driver.current_url == self.address + leads_to)


def until(is_so: Callable[[], Any], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def browser(live_server: Any, tmp_path: Path) -> Iterator[Browser]:
    services.require("browser")
    with services.chromium() as driver:
        yield Browser(driver, live_server.url, tmp_path)


def test_images_and_documents_in_the_admin(
    browser: Browser, s3_server: S3Server, collection: Collection, admin_user: Any
) -> None:
    with site_on(s3_server, KEEPS) as site:
        s3 = site.proxy.endpoint_url
        browser.log_in("admin", "password")

        # While S3 is available
        browser.upload("images", "first.jpg", picture(1, width=300).read())
        browser.upload("documents", "first.txt", b"The first document")
        [(url, width)] = browser.pictures().items()
        assert url.startswith(browser.address)
        assert width > 0
        assert "first.txt" in browser.text("/admin/documents/")
        assert site.proxy.requests == []
        site.transfer()
        [(url, width)] = browser.pictures().items()
        assert url.startswith(s3)
        assert width > 0

        # While S3 is not available
        first_image, first_document = Image.objects.get(), Document.objects.get()
        site.proxy.mode = Mode.REFUSE
        browser.upload("images", "second.jpg", picture(2, width=300).read())
        browser.upload("documents", "second.txt", b"The second document")
        shown = browser.pictures()
        assert sorted((url.startswith(s3), width > 0) for url, width in shown.items()) == [
            (False, True),  # the second image is served by the site
            (True, False),  # the first one is on S3, which the browser cannot reach
        ]
        browser.delete("images", first_image.pk)
        browser.delete("documents", first_document.pk)
        [(url, width)] = browser.pictures().items()
        assert url.startswith(browser.address)
        assert width > 0
        assert "first.txt" not in browser.text("/admin/documents/")
        assert "second.txt" in browser.text("/admin/documents/")
        assert not any("first" in name for name in site.local_names())

        # After S3 is available again
        site.proxy.mode = Mode.OK
        site.transfer()
        assert site.remote_names() == site.local_names()
        assert all("second" in name for name in site.remote_names())
        browser.delete("images", Image.objects.get().pk)
        browser.delete("documents", Document.objects.get().pk)
        site.transfer()
        assert site.remote_names() == site.local_names() == set()
