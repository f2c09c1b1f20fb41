"""Files that nginx sends for the view."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from tests.support.nginx import start
from tests.support.scripted import disk, file, make, row

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.one_database,
    pytest.mark.one_lane,
]

DATA = bytes(range(256)) * 40

# With the locations that docs/urls.md shows
SERVER = """
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass {site};
    }}
    location /protected/ {{
        internal;
        alias {files}/;
        add_header X-Content-Type-Options nosniff;
        add_header Content-Security-Policy "default-src 'none'; sandbox";
    }}
}}
"""


@pytest.fixture
def live_server(django_db_setup: None, live_server: Any) -> Any:
    """A live server, started after SQLite's test database has its file."""
    return live_server


@pytest.fixture
def nginx(live_server: Any, tmp_path: Path, spawn: Callable[..., subprocess.Popen[Any]]) -> str:
    """The URL of an nginx in front of the site."""
    site, files = live_server.url, disk().location

    def server(port: int) -> str:
        return SERVER.format(port=port, site=site, files=files)

    return f"http://127.0.0.1:{start(tmp_path, spawn, server)}"


@pytest.fixture(autouse=True)
def sendfile(settings: Settings) -> None:
    way = {"HEADER": "X-Accel-Redirect", "ROOT": "/protected/"}
    settings.QUEUED_STORAGE = {**django_settings.QUEUED_STORAGE, "SENDFILE": way}


def ask(url: str, **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        answer = urlopen(Request(url, headers=names), timeout=30)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers, answer.read()


@pytest.mark.parametrize("name", ["a.png", "grüße 1%?#&+.png", "docs/..a b.png", "a%2fb.png"])
def test_nginx_sends_the_file(nginx: str, name: str) -> None:
    storage = make(url_mode="stable")
    url = nginx + storage.url(storage.save(name, file(DATA)))
    status, headers, body = ask(url)
    assert (status, body) == (200, DATA)
    assert "nginx" in headers["Server"]
    assert "X-Accel-Redirect" not in headers
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Disposition"].startswith("inline; filename")
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    status, there, body = ask(url, Range="bytes=5-9")
    assert (status, there["Content-Range"], body) == (206, "bytes 5-9/10240", DATA[5:10])
    assert ask(url, If_None_Match=headers["ETag"])[0] == 304
    assert ask(url, If_Match=headers["ETag"])[0] == 200


def test_harmful_types_are_downloaded(nginx: str) -> None:
    storage = make(url_mode="stable")
    url = nginx + storage.url(storage.save("a.html", file(b"<script>alert(1)</script>")))
    status, headers, _body = ask(url)
    assert status == 200
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"].startswith("attachment")


def test_the_internal_location_is_not_public(nginx: str) -> None:
    storage = make(url_mode="signed")
    name = storage.save("a.png", file(DATA))
    assert ask(f"{nginx}/protected/{name}")[0] == 404
    assert ask(f"{nginx}/protected/")[0] == 404
    assert ask(f"{nginx}/queued/files/{storage.alias}/{name}")[0] == 404
    url = nginx + storage.url(name)
    assert ask(url)[2] == DATA
    assert ask(url[:-1] + ("a" if url[-1] != "a" else "b"))[0] == 403


def test_a_proxied_file_is_sent_by_the_site(nginx: str) -> None:
    storage = make(url_mode="proxied")
    name = storage.save("a.png", file(DATA))
    url = nginx + storage.url(name)
    assert ask(url)[2] == DATA
    storage.queue.deliver()
    storage.local.delete(name)
    ledger().filter(pk=row(storage, name).pk).update(is_local=False)
    assert ask(url)[2] == DATA
    assert ask(url, Range="bytes=5-9")[2] == DATA[5:10]
