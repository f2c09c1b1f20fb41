"""Stable URLs: the project serves a file until its remote can."""

import asyncio
import re
import zlib
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.core.files.storage import FileSystemStorage
from django.db import connection, connections
from django.http import Http404, HttpRequest
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings
from storages.backends.s3 import S3Storage

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.models import QueuedFile
from queued_storage.serving import links, responses, views
from tests.support.fault_proxy import FaultProxy, Mode
from tests.support.scripted import ScriptedStorage, disk, file, make, row
from tests.support.volumes import mount, unmount

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

DATA = bytes(range(256)) * 40  # 10,240 bytes, each different from its neighbours


def get(url: str, method: str = "get", **headers: str) -> Any:
    """The whole response, as a browser of this site gets it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = getattr(Client(), method)(url, headers=names)
    body = answer.getvalue()
    answer.close()
    return SimpleNamespace(status=answer.status_code, headers=answer.headers, body=body)


def stable(data: bytes = DATA, name: str = "docs/a.png", **options: Any) -> tuple[Any, str]:
    """A storage with stable URLs, and the name of its file."""
    storage = make(**{"url_mode": "stable"} | options)
    return storage, storage.save(name, file(data))


def deliver(storage: Any, name: str, *, free: bool = False) -> None:
    storage.queue.deliver()
    assert row(storage, name).is_remote
    if free:
        FileSystemStorage.delete(storage.local, name)
        ledger().filter(name=name).update(is_local=False)


# One URL, wherever the file is


def test_the_url_stays_while_the_file_moves() -> None:
    storage, name = stable()
    url = storage.url(name)
    assert url == f"/queued/files/{storage.alias}/{name}" == storage.stable_url(name)
    answer = get(url)
    assert (answer.status, answer.body) == (200, DATA)
    deliver(storage, name)
    assert storage.url(name) == url
    answer = get(url)
    assert (answer.status, answer.headers["Location"]) == (302, f"https://far.example/{name}")
    deliver(storage, name, free=True)
    assert get(url).headers["Location"] == f"https://far.example/{name}"


def test_the_url_redirects_to_the_remote_name() -> None:
    storage, name = stable(remote=ScriptedStorage("elsewhere"))
    deliver(storage, name)
    ledger().update(remote_name="docs/other name.png")
    location = get(storage.url(name)).headers["Location"]
    assert location == "https://elsewhere.example/docs/other%20name.png"


def test_serving_and_redirecting_do_not_call_the_remote() -> None:
    storage, name = stable()
    storage.remote.refuses = True
    url = storage.url(name)
    assert get(url).status == 200
    storage.remote.refuses = False
    deliver(storage, name)
    storage.remote.calls.clear()
    storage.remote.refuses = True
    assert get(url).status == 302
    assert get(url, "head").status == 302
    assert storage.urls([name]) == {name: url}
    assert storage.remote.calls == {}


def test_how_many_queries_a_response_takes() -> None:
    storage, name = stable()
    with CaptureQueriesContext(connection) as queries:
        get(storage.url(name))
    assert len(queries) == 2
    deliver(storage, name)
    with CaptureQueriesContext(connection) as queries:
        get(storage.url(name))
    assert len(queries) == 1


def test_a_redirect_expires_before_its_target(s3_options: dict[str, Any]) -> None:
    storage, name = stable()
    deliver(storage, name)
    assert get(storage.url(name)).headers["Cache-Control"] == "public, max-age=60"
    for seconds, age in ((3600, 60), (30, 15), (1, 0)):
        remote = S3Storage(**s3_options, querystring_expire=seconds)
        storage, name = stable(remote=remote)
        deliver(storage, name)
        assert get(storage.url(name)).headers["Cache-Control"] == f"private, max-age={age}"


@pytest.mark.parametrize("url", [None, ""])
def test_no_redirect_to_an_empty_url(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    storage, name = stable()
    deliver(storage, name, free=True)
    monkeypatch.setattr(storage.remote, "url", lambda name: url)
    answer = get(storage.url(name))
    assert (answer.status, answer.body) == (200, DATA)


def test_deletes_win() -> None:
    storage, name = stable()
    url = storage.url(name)
    storage.delete(name)
    assert get(url).status == 404
    assert row(storage, name).state == State.DELETING


def test_a_file_evicted_during_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, name = stable()
    opened = storage.local.open

    def move(*args: Any) -> Any:
        monkeypatch.setattr(storage.local, "open", opened)
        deliver(storage, name, free=True)
        return opened(*args)

    monkeypatch.setattr(storage.local, "open", move)
    assert get(storage.url(name)).status == 302


def test_a_file_overwritten_during_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, name = stable()
    before = get(storage.url(name)).headers["ETag"]
    opened = storage.local.open

    def overwrite(*args: Any) -> Any:
        monkeypatch.setattr(storage.local, "open", opened)
        with storage.open(name, "wb") as draft:
            draft.write(DATA[::-1])
        return opened(*args)

    monkeypatch.setattr(storage.local, "open", overwrite)
    answer = get(storage.url(name))
    assert answer.body == DATA[::-1]
    assert answer.headers["ETag"] != before


def test_a_changed_local_copy_is_not_served() -> None:
    storage, name = stable()
    Path(storage.local.path(name)).write_bytes(b"spoiled")
    assert get(storage.url(name)).status == 404
    Path(storage.local.path(name)).unlink()
    assert get(storage.url(name)).status == 404


@pytest.mark.parametrize("alias", ["docs/a", "/docs", "..", "."])
def test_an_alias_that_cannot_have_urls(alias: str) -> None:
    storage, name = stable(alias=alias)
    with pytest.raises(ImproperlyConfigured, match="without '/'"):
        storage.url(name)
    with pytest.raises(ImproperlyConfigured, match="without '/'"):
        storage.stable_url(name, 60)


# Access


def test_a_signature_is_required_by_default() -> None:
    for way in (None, "direct", "signed"):
        storage, name = stable(url_mode=way)
        assert get(f"/queued/files/{storage.alias}/{name}").status == 404
        answer = get(storage.stable_url(name))
        assert (answer.status, answer.body) == (200, DATA)


def test_direct_urls_are_those_of_the_storages() -> None:
    storage, name = stable(url_mode=None)
    assert storage.url(name) == f"/media/{name}"
    assert storage.urls([name]) == {name: f"/media/{name}"}


def test_signed_urls_until_the_transfer() -> None:
    storage, name = stable(url_mode="signed")
    for url in (storage.url(name), storage.urls([name])[name]):
        assert url.startswith(f"/queued/files/{storage.alias}/{name}?until=")
        assert get(url).body == DATA
    signed = storage.url(name)
    deliver(storage, name)
    assert storage.url(name) == f"https://far.example/{name}"
    assert get(signed).headers["Location"] == f"https://far.example/{name}"


def test_a_signature_is_valid_for_one_url_only() -> None:
    storage, name = stable(url_mode="signed")
    other, _ = stable(url_mode="signed")
    storage.save("docs/b.png", file(b"another's"))
    url = storage.url(name)
    until = re.search(r"until=(\d+)", url)
    assert until
    for forged in (
        url.replace("a.png", "b.png"),
        url.replace(storage.alias, other.alias),
        url.replace(until[1], str(int(until[1]) + 1)),
        url.replace(f"until={until[1]}&", ""),
        url[:-1] + ("a" if url[-1] != "a" else "b"),
        url.partition("signature=")[0] + "signature=",
        url.replace(until[1], "9" * 5000),
        url.replace(until[1], "x"),
        url.replace(until[1], "%00"),
        url.partition("signature=")[0] + "signature=%F0%9F%90%9F%00",
    ):
        assert get(forged).status == 403, forged
    assert get(url).status == 200


def other_version(url: str) -> str:
    return re.sub(r"file=(\d+)-(\d+)", lambda found: f"file={int(found[1]) + 1}-{found[2]}", url)


@pytest.mark.parametrize(
    "forge",
    [
        other_version,
        lambda url: re.sub(r"file=(\d+)-\d+", r"file=\1-2", url),
        lambda url: re.sub(r"file=[\d-]+&", "", url),
        lambda url: re.sub(r"file=[\d-]+", "file=", url),
        lambda url: re.sub(r"file=[\d-]+", "file=null", url),
        lambda url: re.sub(r"file=[\d-]+", "file=" + "9" * 5000 + "-1", url),
    ],
)
def test_the_file_of_a_signature_cannot_be_changed(forge: Callable[[str], str]) -> None:
    storage, name = stable(url_mode="signed")
    storage.save("docs/b.png", file(b"another's"))
    for url in (storage.url(name), storage.stable_url(name)):
        assert get(url).status == 200
        assert get(forge(url)).status == 403


@pytest.mark.parametrize("is_transferred", [True, False])
@pytest.mark.parametrize("expire", [None, 60])
def test_a_signature_is_not_for_a_later_file(is_transferred: bool, expire: int | None) -> None:
    storage, name = stable(url_mode="signed")
    url = storage.stable_url(name, expire)
    storage.delete(name)
    storage.queue.deliver()
    assert get(url).status == 404
    assert storage.save(name, file(b"of somebody else")) == name
    if is_transferred:
        deliver(storage, name)
    assert get(url).status == 404
    assert get(storage.stable_url(name, expire)).status in (200, 302)


def test_a_signature_is_not_for_later_content() -> None:
    storage, name = stable(url_mode="signed")
    url = storage.url(name)
    with storage.open(name, "wb") as opened:
        opened.write(b"new")
    assert get(url).status == 404
    assert get(storage.url(name)).body == b"new"


def test_signature_of_an_unrecorded_file_is_not_reusable() -> None:
    storage, _name = stable()
    url = storage.stable_url("new.png", expire=60)
    assert get(url).status == 302
    assert storage.save("new.png", file(b"of somebody else")) == "new.png"
    assert get(url).status == 404


def test_a_signature_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, name = stable(url_mode="signed")
    url = storage.url(name, expire=60)
    assert get(url).status == 200
    now = links.time.time()
    monkeypatch.setattr(links.time, "time", lambda: now + 59)
    assert get(url).status == 200
    monkeypatch.setattr(links.time, "time", lambda: now + 62)
    assert get(url).status == 403


def test_secret_key_fallbacks_are_accepted(settings: Settings) -> None:
    storage, name = stable(url_mode="signed")
    url = storage.url(name)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "a new one"
    assert get(url).status == 200
    settings.SECRET_KEY_FALLBACKS = []
    assert get(url).status == 403


def lifetime(storage: Any, name: str, **kwargs: Any) -> int:
    found = re.search(r"until=(\d+)", storage.url(name, **kwargs))
    assert found
    return round(int(found[1]) - links.time.time())


def test_a_signature_expires_with_those_of_the_remote(s3_options: dict[str, Any]) -> None:
    for seconds in (600, 7):
        remote = S3Storage(**s3_options, querystring_expire=seconds)
        storage, name = stable(url_mode="signed", remote=remote)
        assert lifetime(storage, name) in (seconds, seconds + 1)
        assert lifetime(storage, name, expire=30) in (30, 31)
    storage, name = stable(url_mode="signed")
    assert lifetime(storage, name) in (3600, 3601)
    with override_settings(QUEUED_STORAGE={**django_settings.QUEUED_STORAGE, "URL_MAX_AGE": 50.5}):
        assert lifetime(storage, name) in (51, 52)


def test_a_redirect_does_not_outlast_its_signature(s3_options: dict[str, Any]) -> None:
    remote = S3Storage(**s3_options, querystring_expire=3600)
    storage, name = stable(url_mode="signed", remote=remote)
    short, long = storage.url(name, expire=40), storage.stable_url(name)
    deliver(storage, name)
    found = re.search(r"X-Amz-Expires=(\d+)", get(short).headers["Location"])
    assert found
    assert 1 <= int(found[1]) <= 40
    assert "X-Amz-Expires=3600" in get(long).headers["Location"]
    assert get(short).headers["Cache-Control"].startswith("private, max-age=")


Hook = Callable[[HttpRequest, QueuedFile], bool]


def with_permission(hook: Hook | str) -> Any:
    given = {**django_settings.QUEUED_STORAGE, "PERMISSION": hook}
    return override_settings(QUEUED_STORAGE=given)


def only_staff(request: HttpRequest, queued_file: QueuedFile) -> bool:
    return request.headers.get("X-Staff") == queued_file.name


def test_the_permission_is_checked_for_every_request() -> None:
    storage, name = stable()
    with with_permission(f"{__name__}.only_staff"):
        for _state in range(2):
            for url in (storage.url(name), storage.stable_url(name, expire=60)):
                for method in ("get", "head"):
                    assert get(url, method).status == 403
                    answer = get(url, method, X_Staff=name)
                    assert answer.status in (200, 302)
                    assert answer.headers["Cache-Control"].startswith("private, no-")
                etag = answer.headers.get("ETag", "")
                assert get(url, If_None_Match=etag).status == 403
            deliver(storage, name)


@pytest.mark.parametrize("mode", ["stable", "proxied", "signed"])
@pytest.mark.parametrize("is_transferred", [True, False])
@pytest.mark.parametrize("change", ["replace", "delete", "overwrite"])
def test_permission_is_about_the_row_sent(mode: str, is_transferred: bool, change: str) -> None:
    """While the project decides, another process puts another file in its place."""
    storage, name = stable(b"public", url_mode=mode)
    url = storage.stable_url(name)
    if is_transferred:
        deliver(storage, name)
    asked: list[tuple[int, int]] = []

    def may_read(request: HttpRequest, found: QueuedFile) -> bool:
        asked.append((found.pk, found.generation))
        if len(asked) > 1:
            return False
        if change == "overwrite":
            with storage.open(name, "wb") as opened:
                opened.write(b"secret")
            return True
        storage.delete(name)
        storage.queue.deliver()
        if change == "replace":
            assert storage.save(name, file(b"secret")) == name
        return True

    with with_permission(may_read):
        answer = get(url)
    assert answer.status in (403, 404)
    assert b"secret" not in answer.body
    assert len(set(asked)) == len(asked)


def test_file_replaced_during_a_read_from_the_remote() -> None:
    storage, name = stable(b"public", url_mode="proxied")
    deliver(storage, name, free=True)

    def replace(_name: str) -> None:
        storage.delete(name)
        storage.queue.deliver()
        assert storage.save(name, file(b"secret")) == name

    storage.remote.before["_open"] = replace
    with with_permission(lambda request, found: found.size == len(b"public")):
        answer = get(storage.url(name))
    assert answer.status in (403, 404)


def test_permission_of_an_unrecorded_file_is_not_reusable() -> None:
    storage, _name = stable()
    url = storage.stable_url("new.png", expire=60)

    def may_read(request: HttpRequest, found: QueuedFile) -> bool:
        storage.save("new.png", file(b"of somebody else"))
        return True

    with with_permission(may_read):
        assert get(url).status == 404


def test_a_permission_may_raise_404() -> None:
    def hide(request: HttpRequest, queued_file: QueuedFile) -> bool:
        raise Http404

    storage, name = stable()
    with with_permission(hide):
        assert get(storage.url(name)).status == 404


def test_a_permission_that_raises_denies_access() -> None:
    def fail(request: HttpRequest, queued_file: QueuedFile) -> bool:
        raise RuntimeError("of the project")

    storage, name = stable()
    with with_permission(fail), pytest.raises(RuntimeError):
        get(storage.url(name))
    with with_permission("tests.no_such.hook"), pytest.raises(ImportError):
        get(storage.url(name))


def test_only_reading_is_allowed() -> None:
    storage, name = stable()
    for method in ("post", "put", "delete", "patch"):
        assert get(storage.url(name), method).status == 405


# Hostile names

HOSTILE = [
    "../a.png", "docs/../../a.png", "docs/..", "..", ".", "%2e%2e/a.png", "docs%2f..%2fa.png",
    "..%2f..%2fetc%2fpasswd", "%5c..%5ca.png", "..%5c..%5cwindows", "%2fetc%2fpasswd",
    "/etc/passwd", "docs//a.png", "./docs/a.png", "docs", "docs/", "docs/a.png/", "docs/a.png/b",
    "docs/a.png%00", "%00", "a%00b.png", "%ff%fe", "%c0%ae%c0%ae/a.png", "x" * 701,
    "/".join("x" * 300), "x" * 20_000,
    "%0d%0aSet-Cookie:%20a=b", "docs/.queued-abcdefghijklmnop.png", "C:%5ca.png", "~root", "con",
    "docs/a.png;x=y", "%25252e", "%F0%9F%90%9F.png", "%ED%A0%80.png", "%0a", "docs/%0aa.png",
]  # fmt: skip


@pytest.mark.parametrize("way", ["stable", "signed", "proxied"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_not_found(name: str, way: str) -> None:
    storage, _name = stable(url_mode=way)
    disk().save("docs/.queued-abcdefghijklmnop.png", file(b"unfinished"))
    storage.remote.refuses = True
    assert get(f"/queued/files/{storage.alias}/{name}").status == 404
    assert storage.remote.calls == {}


@pytest.mark.parametrize(
    "alias", ["nobody", "disk", "far", "%00", "..", "x" * 5000, "%ff", "a%2fb"]
)
def test_a_hostile_alias_is_not_found(alias: str) -> None:
    assert get(f"/queued/files/{alias}/docs/a.png").status == 404


def test_there_is_no_listing() -> None:
    storage, _name = stable()
    base = f"/queued/files/{storage.alias}"
    assert [get(f"{base}{end}").status for end in ("", "/", "/docs", "/docs/")] == [404] * 4
    for directory in ("docs", "docs/"):
        assert get(links.signed(storage.alias, directory, None, None)).status == 404


def test_a_signed_name_without_a_file() -> None:
    storage, name = stable(url_mode="signed")
    assert get(storage.stable_url(f"{name}/b")).status == 302  # only the remote knows
    assert get(links.signed(storage.alias, "../a.png", None, None)).status == 404
    hidden = disk().save("docs/.queued-abcdefghijklmnop.png", file(b"unfinished"))
    assert get(links.signed(storage.alias, hidden, None, None)).status == 404


# Files that predate the ledger


def test_an_unrecorded_file_needs_a_signature() -> None:
    storage, _name = stable()
    disk().save("old.png", file(b"old"))
    assert get(storage.url("old.png")).status == 404
    answer = get(storage.stable_url("old.png", expire=60))
    assert (answer.status, answer.body) == (200, b"old")
    etag = answer.headers["ETag"]
    assert get(storage.stable_url("old.png", expire=60), If_None_Match=etag).status == 304
    location = get(storage.stable_url("older.png", expire=60)).headers["Location"]
    assert location == "https://far.example/older.png"
    asked: list[Any] = []
    with with_permission(lambda request, found: bool(asked.append(found))):  # type: ignore[func-returns-value]
        assert get(storage.stable_url("old.png", expire=60)).status == 403
    assert [(found.name, found.alias, found.pk) for found in asked] == [
        ("old.png", storage.alias, None)
    ]


# Headers


@pytest.mark.parametrize("method", ["get", "head"])
def test_the_headers_of_an_image(method: str) -> None:
    storage, name = stable()
    answer = get(storage.url(name), method)
    assert answer.status == 200
    assert answer.body == (DATA if method == "get" else b"")
    assert answer.headers["Content-Length"] == "10240"
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Disposition"] == 'inline; filename="a.png"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Last-Modified"].endswith(" GMT")
    assert re.fullmatch(r'"[0-9a-f]+-1-2800-[0-9a-f]{8}"', answer.headers["ETag"])


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("a.jpg", "image/jpeg", True),
        ("a.webp", "image/webp", True),
        ("a.mp4", "video/mp4", True),
        ("a.txt", "text/plain", True),
        ("a.txt", "text/plain; charset=utf-8", True),
        ("a.pdf", "application/pdf", True),
        ("a.svg", "image/svg+xml", False),
        ("a.html", "text/html", False),
        ("a.png", "text/html", False),
        ("a.png", "Text/HTML; x=image/png", False),
        ("a.xhtml", "application/xhtml+xml", False),
        ("a.xml", "text/xml", False),
        ("a.js", "text/javascript", False),
        ("a.css", "text/css", False),
        ("a.bin", "", False),
        ("a.png", "image/png\r\nSet-Cookie: a=b", False),
        ("a.png", " IMAGE/PNG ", True),
    ],
)
def test_only_harmless_types_are_shown(name: str, kind: str, shown: bool) -> None:
    storage, saved = stable(b"<script>alert(1)</script>", name)
    ledger().update(content_type=kind)
    answer = get(storage.url(saved))
    cleaned = kind.partition(";")[0].strip().lower()
    assert answer.headers["Content-Type"] == (cleaned if shown else "application/octet-stream")
    disposition = answer.headers["Content-Disposition"]
    assert disposition.startswith("inline" if shown else "attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert ("Content-Security-Policy" in answer.headers) == (kind != "application/pdf")
    assert "Set-Cookie" not in answer.headers


def test_displayed_types_cannot_contain_scripts() -> None:
    assert not {kind for kind in responses.SHOWN if re.search(r"html|xml|svg|script|css", kind)}


@pytest.mark.parametrize("name", ['a"b.png', "a;b=c.png", "grüße 1%.png", "a?b#c.png", "…/ü.png"])
def test_any_name_in_url_and_header(name: str) -> None:
    storage, saved = stable(DATA, name)
    answer = get(storage.url(saved))
    assert (answer.status, answer.body) == (200, DATA)
    assert "\n" not in answer.headers["Content-Disposition"]
    signed = storage.stable_url(saved, expire=60)
    assert get(signed).status == 200


def test_a_missing_urlconf_is_reported(settings: Settings) -> None:
    storage, name = stable()
    settings.ROOT_URLCONF = "tests.support.health_urls"
    with pytest.raises(ImproperlyConfigured, match=r"queued_storage\.urls"):
        storage.url(name)


# Ranges

RANGES = [
    ("bytes=0-0", 206, (0, 1)),
    ("bytes=0-99", 206, (0, 100)),
    ("bytes=100-", 206, (100, 10240)),
    ("bytes=-1", 206, (10239, 10240)),
    ("bytes=-99999", 206, (0, 10240)),
    ("bytes=10239-99999", 206, (10239, 10240)),
    ("bytes=0-10239", 206, (0, 10240)),
    ("bytes=10240-", 416, None),
    ("bytes=99999-100000", 416, None),
    ("bytes=-0", 416, None),
    ("bytes=5-4", 200, None),
    ("bytes=-", 200, None),
    ("bytes=0-1,5-6", 200, None),
    ("bytes=a-b", 200, None),
    ("lines=0-1", 200, None),
    ("bytes 0-1", 200, None),
    (f"bytes=0-{'9' * 5000}", 200, None),
    ("bytes=\u0660-\u0669", 200, None),
]


def assert_range(answer: Any, status: int, part: tuple[int, int] | None) -> None:
    assert answer.status == status
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */10240"
        assert answer.body == b""
        return
    start, end = part or (0, 10240)
    assert answer.body == DATA[start:end]
    assert answer.headers["Content-Length"] == str(end - start)
    shown = f"bytes {start}-{end - 1}/10240" if part else None
    assert answer.headers.get("Content-Range") == shown


@pytest.mark.parametrize(("wanted", "status", "part"), RANGES)
def test_ranges(wanted: str, status: int, part: tuple[int, int] | None) -> None:
    storage, name = stable()
    url = storage.url(name)
    assert_range(get(url, Range=wanted), status, part)
    etag = get(url).headers["ETag"]
    assert_range(get(url, Range=wanted, If_Range=etag), status, part)
    for other in ('"other"', f"W/{etag}", formatdate(usegmt=True)):
        assert_range(get(url, Range=wanted, If_Range=other), 200, None)
    head = get(url, "head", Range=wanted)
    assert (head.status in (200, 416), head.body) == (True, b"")


def test_a_range_of_an_empty_file() -> None:
    storage, name = stable(b"")
    assert get(storage.url(name)).body == b""
    answer = get(storage.url(name), Range="bytes=0-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")


# Conditions


def test_a_current_copy_gets_304() -> None:
    storage, name = stable()
    url = storage.url(name)
    known = get(url).headers
    for headers in (
        {"If_None_Match": known["ETag"]},
        {"If_None_Match": f'"x", {known["ETag"]}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": known["Last-Modified"]},
        {"If_None_Match": known["ETag"], "Range": "bytes=0-1"},
    ):
        for method in ("get", "head"):
            answer = get(url, method, **headers)
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["ETag"] == known["ETag"]
    assert get(url, If_None_Match='"x"').status == 200
    assert get(url, If_Match='"x"').status == 412
    assert get(url, If_Match=known["ETag"]).status == 200
    assert get(url, If_Unmodified_Since=formatdate(86400, usegmt=True)).status == 412


def test_new_content_has_another_etag() -> None:
    storage, name = stable()
    url = storage.url(name)
    known = get(url).headers["ETag"]
    with storage.open(name, "wb") as opened:
        opened.write(DATA)
    answer = get(url, If_None_Match=known)
    assert (answer.status, answer.body) == (200, DATA)
    assert get(url, Range="bytes=5-", If_Range=known).status == 200


def test_a_file_saved_again_has_another_etag() -> None:
    storage, name = stable()
    known = get(storage.url(name)).headers["ETag"]
    storage.delete(name)
    ledger().filter(name=name).delete()
    assert storage.save(name, file(DATA)) == name
    assert get(storage.url(name)).headers["ETag"] != known


# Sending by the web server


def with_sendfile(**way: str) -> Any:
    return override_settings(QUEUED_STORAGE={**django_settings.QUEUED_STORAGE, "SENDFILE": way})


def test_x_accel_redirect() -> None:
    storage, name = stable(DATA, "docs/grüße 1%?#.png")
    url = storage.url(name)
    with with_sendfile(HEADER="X-Accel-Redirect", ROOT="/protected/{alias}/"):
        for headers in ({}, {"Range": "bytes=0-1"}, {"If_Match": '"of the server"'}):
            answer = get(url, **headers)
            assert (answer.status, answer.body) == (200, b"")
            place = f"/protected/{storage.alias}/{quote(name)}"
            assert answer.headers["X-Accel-Redirect"] == place
            assert answer.headers["Content-Type"] == "image/png"
            assert "ETag" not in answer.headers
    deliver(storage, name)
    with with_sendfile(HEADER="X-Accel-Redirect", ROOT="/protected/"):
        assert get(url).status == 302


def test_x_sendfile() -> None:
    storage, name = stable(DATA, "docs/a b.png")
    with with_sendfile(HEADER="X-Sendfile"):
        answer = get(storage.url(name))
    assert answer.headers["X-Sendfile"] == quote(storage.local.path(name))


@pytest.mark.parametrize("name", ["a\nb.png", "a.png\n", "\r\n/a.png", "a\u2028b.png"])
def test_a_name_with_line_breaks_has_a_url(name: str) -> None:
    storage, name = stable(DATA, name)
    for url in (storage.url(name), storage.stable_url(name, 60)):
        answer = get(url)
        assert (answer.status, answer.body) == (200, DATA)
        assert "\n" not in answer.headers["Content-Disposition"]


def test_line_breaks_in_names_add_no_header() -> None:
    storage, name = stable(DATA, "a\r\nSet-Cookie: a=b.png")
    with with_sendfile(HEADER="X-Sendfile"):
        request = HttpRequest()
        request.method = "GET"
        answer = views.file(request, storage.alias, name)
    assert "%0D%0A" in answer.headers["X-Sendfile"]
    assert "\n" not in str(answer.headers["Content-Disposition"])


class Unpacking(FileSystemStorage):
    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, file(zlib.compress(content.read())))

    def _open(self, name: str, mode: str = "rb") -> File:
        with super()._open(name, mode) as packed:
            return file(zlib.decompress(packed.read()), name)


def test_sendfile_is_not_used_for_changed_content(tmp_path: Path) -> None:
    storage, name = stable(local=Unpacking(tmp_path))
    with with_sendfile(HEADER="X-Sendfile"):
        answer = get(storage.url(name))
    assert (answer.body, answer.headers.get("X-Sendfile")) == (DATA, None)


# Proxying


@pytest.fixture(params=["directory", "s3"])
def proxied(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A storage that proxies its remote files, and an evicted file of it."""
    options = {}
    if request.param == "s3":
        options = {"remote": S3Storage(**request.getfixturevalue("s3_options"))}
    storage, name = stable(url_mode="proxied", **options)
    deliver(storage, name, free=True)
    return storage, name


@pytest.mark.parametrize(("wanted", "status", "part"), RANGES[:8])
def test_ranges_of_the_remote(
    proxied: tuple[Any, str], wanted: str, status: int, part: tuple[int, int] | None
) -> None:
    storage, name = proxied
    assert_range(get(storage.url(name), Range=wanted), status, part)


def test_local_and_remote_responses_are_the_same() -> None:
    storage, name = stable(url_mode="proxied")
    url = storage.url(name)
    here = get(url)
    deliver(storage, name)
    between = get(url)
    deliver(storage, name, free=True)
    there = get(url)
    assert here.body == between.body == there.body == DATA
    assert dict(here.headers) == dict(between.headers) == dict(there.headers)
    storage.remote.refuses = True
    storage.remote.calls.clear()
    assert get(url, If_None_Match=here.headers["ETag"]).status == 304
    assert get(url, "head").status == 200
    assert storage.remote.calls == {}


def test_a_remote_without_urls_is_proxied() -> None:
    class Mute(ScriptedStorage):
        def url(self, name: str | None) -> str:
            raise NotImplementedError("no URLs here")

    storage, name = stable(remote=Mute())
    deliver(storage, name, free=True)
    assert get(storage.url(name)).body == DATA


def test_an_unreachable_remote(
    s3_proxy_options: dict[str, Any], s3_proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    storage, name = stable(url_mode="proxied", remote=S3Storage(**s3_proxy_options))
    deliver(storage, name, free=True)
    s3_proxy.mode = Mode.REFUSE
    assert get(storage.url(name)).status == 502
    assert "cannot be read from the remote" in caplog.text
    assert "Signature" not in caplog.text


def test_an_interrupted_remote_ends_the_response(
    s3_proxy_options: dict[str, Any], s3_proxy: FaultProxy
) -> None:
    storage, name = stable(
        bytes(3_000_000), url_mode="proxied", remote=S3Storage(**s3_proxy_options)
    )
    deliver(storage, name, free=True)
    s3_proxy.stops_after = 2_000_000
    s3_proxy.mode = Mode.HANG_MID_BODY
    answer = Client().get(storage.url(name))
    assert answer.status_code == 200
    s3_proxy.mode = Mode.REFUSE
    with pytest.raises(Exception, match=r"[Rr]eset|[Bb]roken"):
        answer.getvalue()
    answer.close()


def test_an_object_of_another_size_ends_the_response() -> None:
    storage, name = stable(url_mode="proxied")
    deliver(storage, name, free=True)
    Path(storage.remote.path(name)).write_bytes(DATA[:-1])
    answer = Client().get(storage.url(name))
    with pytest.raises(OSError, match="differs from its size"):
        answer.getvalue()
    answer.close()
    Path(storage.remote.path(name)).unlink()
    assert get(storage.url(name)).status == 404


def test_large_files_are_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, name = stable(bytes(5_000_000), url_mode="proxied")
    url = storage.url(name)
    for _place in range(2):
        answer = Client().get(url)
        sizes = [len(piece) for piece in answer.streaming_content]
        answer.close()
        assert sum(sizes) == 5_000_000
        assert max(sizes) <= 1024 * 1024
        deliver(storage, name, free=True)


def test_files_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, name = stable()
    opened: list[Any] = []
    plain = storage.local.open

    def note(*args: Any) -> Any:
        opened.append(plain(*args))
        return opened[-1]

    monkeypatch.setattr(storage.local, "open", note)
    url = storage.url(name)
    etag = get(url).headers["ETag"]
    get(url, "head")
    get(url, If_None_Match=etag)
    get(url, Range="bytes=99999-")
    get(url, Range="bytes=0-5")
    abandoned = Client().get(url)
    abandoned.close()
    with with_sendfile(HEADER="X-Sendfile"):
        get(url)
    assert len(opened) == 7
    assert all(found.closed for found in opened)


# ASGI


def test_asgi_reads_a_piece_at_a_time() -> None:
    storage, name = stable(bytes(1_000_000))
    url = storage.url(name)

    async def ask() -> list[int]:
        answer = await AsyncClient().get(url)
        sizes = [len(piece) async for piece in answer]
        answer.close()
        await sync_to_async(connections.close_all)()  # in the thread of the view
        return sizes

    sizes = asyncio.run(ask())
    assert sum(sizes) == 1_000_000
    assert max(sizes) == responses.PIECE


# With a real S3


@pytest.fixture
def live_server(django_db_setup: None, live_server: Any) -> Any:
    """A live server, started after SQLite's test database has its file."""
    return live_server


def test_a_link_works_before_and_after_eviction(
    live_server: Any, s3_options: dict[str, Any]
) -> None:
    """The redirect leads to a signed URL of S3."""
    storage, name = stable(remote=S3Storage(**s3_options))
    link = live_server.url + storage.url(name)
    for step in (lambda: None, lambda: deliver(storage, name),
                 lambda: deliver(storage, name, free=True)):  # fmt: skip
        step()
        with urlopen(link) as answer:
            assert answer.read() == DATA
    assert "X-Amz-Signature=" in answer.url
    assert urlsplit(answer.url).port == urlsplit(s3_options["endpoint_url"]).port


@pytest.mark.parametrize("url_mode", ["proxied", "stable"])
def test_a_file_at_another_place(url_mode: str, tmp_path: Path) -> None:
    storage, name = stable(url_mode=url_mode)
    deliver(storage, name, free=True)
    new = FileSystemStorage(tmp_path, "https://new.example/")
    new.save(name, file(b"of another project"))
    storage.sides.remote.given = new
    found = get(storage.url(name))
    if url_mode == "proxied":
        assert found.status == 502
    else:
        assert found.headers["Location"] == f"https://new.example/{name}"


# A volume that is not mounted


@pytest.mark.parametrize("method", ["get", "head"])
def test_missing_volume_is_no_missing_file(method: str) -> None:
    storage, name = stable()
    url = storage.url(name)
    volume = unmount()
    answer = get(url, method)
    assert (answer.status, answer.body) == (503, b"")
    assert int(answer.headers["Retry-After"]) > 0
    assert not {"ETag", "Last-Modified", "Cache-Control"} & set(answer.headers)
    mount(volume)
    assert get(url, method).status == 200


def test_missing_volume_under_asgi() -> None:
    storage, name = stable()
    url = storage.url(name)
    unmount()
    answer = asyncio.run(AsyncClient().get(url))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_signed_url_without_the_volume() -> None:
    storage, name = stable(url_mode="signed")
    url = storage.url(name)
    unmount()
    assert get(url).status == 503


@pytest.mark.parametrize(("url_mode", "status"), [("stable", 302), ("proxied", 200)])
def test_transferred_files_need_no_volume(url_mode: str, status: int) -> None:
    storage, name = stable(url_mode=url_mode)
    deliver(storage, name)
    unmount()
    answer = get(storage.url(name))
    assert answer.status == status
    assert status == 302 or answer.body == DATA


def test_deleted_file_stays_missing_without_the_volume() -> None:
    storage, name = stable()
    url = storage.url(name)
    unmount()
    storage.delete(name)
    assert get(url).status == 404


def test_lost_file_on_a_mounted_volume_is_missing() -> None:
    storage, name = stable()
    stable(name="docs/b.png")
    FileSystemStorage.delete(storage.local, name)
    assert get(storage.url(name)).status == 404
