"""No way leads to the bytes of a file that is not published."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from queued_storage.exceptions import NotPublished
from queued_storage.ledger.database import ledger
from queued_storage.ledger.preparations import preparations
from queued_storage.operations.errands import evict
from queued_storage.serving import links
from queued_storage.serving.peers import ticket_for
from queued_storage.steps import LATER, PASS, REJECT
from queued_storage.testing import drain
from tests.support.scripted import file, on_disk, row
from tests.support.stepping import EICAR, Scripted, at_once, gated, run

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = b"not published " + EICAR
PLACEHOLDER = "/static/wait.svg"

Door = Callable[[Any, str], bytes]


def by_open(storage: Any, name: str) -> bytes:
    with storage.open(name) as opened:
        return bytes(opened.read())


def by_text(storage: Any, name: str) -> bytes:
    with storage.open(name, "r") as opened:
        return str(opened.read()).encode()


def by_path(storage: Any, name: str) -> bytes:
    return Path(storage.path(name)).read_bytes()


def by_absolute_path(storage: Any, name: str) -> bytes:
    return by_open(storage, os.path.join(storage.location, name))


def by_local_path(storage: Any, name: str) -> bytes:
    with storage.local_path(name) as path:
        return Path(path).read_bytes()


def by_appending(storage: Any, name: str) -> bytes:
    with storage.open(name, "ab+") as opened:
        opened.seek(0)
        found = bytes(opened.read())
        raise AssertionError(found)


def by_size(storage: Any, name: str) -> bytes:
    return b"x" * int(storage.size(name))


def by_time(storage: Any, name: str) -> bytes:
    return str(storage.get_modified_time(name)).encode()


def fetched(url: str) -> bytes:
    response = Client().get(url)
    body = b"".join(response) if response.streaming else response.content
    accelerated = response.headers.get("X-Accel-Redirect", "")
    assert not accelerated, accelerated
    if response.status_code == 302:
        assert response.headers["Location"] == PLACEHOLDER
        assert response.headers["Cache-Control"] == "no-store"
    else:
        assert response.status_code in (403, 404), response.status_code
    return bytes(body)


def by_url(storage: Any, name: str) -> bytes:
    return fetched(storage.url(name))


def by_urls(storage: Any, name: str) -> bytes:
    return fetched(storage.urls([name])[name])


def by_stable_url(storage: Any, name: str) -> bytes:
    return fetched(storage.stable_url(name)) + fetched(storage.stable_url(name, expire=60))


def by_signature(storage: Any, name: str) -> bytes:
    """Whatever content a signed URL may be for."""
    pk = row(storage, name).pk
    versions = [None, *(links.Version(pk, generation) for generation in range(1, 5))]
    return b"".join(fetched(links.signed(storage.alias, name, 60, each)) for each in versions)


def by_hidden_name(storage: Any, name: str) -> bytes:
    found = b""
    for hidden in on_disk():
        assert not storage.exists(hidden)
        storage.delete(hidden)
        found += fetched(links.signed(storage.alias, hidden, 60, None))
        with pytest.raises(FileNotFoundError):
            storage.path(hidden)
        with pytest.raises(FileNotFoundError):
            by_open(storage, hidden)
    return found


def by_ticket(storage: Any, name: str) -> bytes:
    return fetched(f"/queued/local-copy/{ticket_for(row(storage, name))}")


def by_listing(storage: Any, name: str) -> bytes:
    _directories, files = storage.listdir("")
    assert set(files) <= {name}
    return b""


def by_worker(storage: Any, name: str) -> bytes:
    storage.transfer(name)
    drain(storage)
    assert on_disk("far") == []
    return b""


def by_verbs(storage: Any, name: str) -> bytes:
    for verb, *arguments in [
        ["backfill", "--storage", storage.alias],
        ["adopt", "--storage", storage.alias],
        ["transfer", name],
        ["retry", "--all"],
        ["evict", "--storage", storage.alias],
        ["restore", "--storage", storage.alias],
        ["accept-local", name],
        ["reconcile", "--storage", storage.alias],
        ["verify", "--storage", storage.alias],
        ["orphans", "--storage", storage.alias, "--delete", "--older-than", "0s", "--yes"],
        ["flush"],
    ]:
        with contextlib.suppress(CommandError):  # that there is nothing to do
            call_command("queued_storage", verb, *arguments)
    return by_worker(storage, name)


REFUSED = [
    *(by_open, by_text, by_path, by_absolute_path, by_local_path, by_size, by_time, by_appending)
]
MODES = ["direct", "signed", "stable", "proxied"]
SILENT = [(door, mode) for door in (by_url, by_urls, by_stable_url) for mode in MODES]
SILENT += [
    (door, "stable")
    for door in (by_signature, by_hidden_name, by_ticket, by_listing, by_worker, by_verbs)
]


def waiting(mode: str) -> Any:
    return gated(Scripted(*[LATER(3600)] * 9), url_mode=mode)


def held(mode: str) -> Any:
    return gated(Scripted(*[OSError("no scanner")] * 9), url_mode=mode)


def rejected(mode: str) -> Any:
    return gated(Scripted(REJECT("bad")), url_mode=mode)


def withdrawn(mode: str) -> Any:
    return at_once(Scripted(REJECT("bad")), url_mode=mode)


KINDS = [waiting, held, rejected, withdrawn]


@pytest.fixture
def served() -> Iterator[None]:
    with override_settings(
        QUEUED_STORAGE={
            "RETRIES": 0,
            "UNPUBLISHED_URL": PLACEHOLDER,
            "QUEUE": "queued_storage.queues.dummy.DummyQueue",
            "SENDFILE": {"HEADER": "X-Accel-Redirect", "ROOT": "/protected/"},
            "READ_CACHE": {"LOCATION": f"{django_settings.DIRECTORY}/cache", "MAX_BYTES": 10**6},
        }
    ):
        yield


def saved(make: Callable[[str], Any], mode: str) -> tuple[Any, str]:
    storage = make(mode)
    name = storage.save("secret.txt", file(SECRET))
    run(storage)
    assert storage.exists(name)
    assert not storage.is_published(name)
    return storage, name


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("door", REFUSED, ids=lambda door: door.__name__)
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_door_that_refuses(make: Callable[[str], Any], door: Door) -> None:
    storage, name = saved(make, "signed")
    with pytest.raises(NotPublished):
        door(storage, name)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("door", "mode"), SILENT)
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_door_that_leads_nowhere(make: Callable[[str], Any], door: Door, mode: str) -> None:
    storage, name = saved(make, mode)
    before = on_disk()
    assert b"not published" not in door(storage, name)
    assert on_disk() == before
    assert not storage.is_published(name)


def test_a_placeholder_is_not_required() -> None:
    storage, name = saved(waiting, "stable")
    assert Client().get(storage.url(name)).status_code == 404


@pytest.mark.parametrize("mode", MODES)
def test_a_signed_url_ends_with_a_rejection(mode: str) -> None:
    storage = withdrawn(mode)
    name = storage.save("secret.txt", file(SECRET))
    url = storage.stable_url(name, expire=600)
    assert b"".join(Client().get(url)) == SECRET
    run(storage)
    assert Client().get(url).status_code == 404
    preparations().release()
    drain(storage)
    assert storage.is_published(name)
    assert Client().get(url).status_code == 404  # it was for the content that was rejected


@pytest.mark.parametrize("mode", MODES)
def test_an_early_url_works_once_the_file_is_published(mode: str) -> None:
    storage = gated(url_mode=mode)
    name = storage.save("later.txt", file(b"now public"))
    url = storage.url(name)
    assert Client().get(url).status_code == 404
    run(storage)
    assert b"".join(Client().get(url)) == b"now public"


@pytest.mark.usefixtures("served")
def test_the_read_cache_is_closed_by_a_rejection() -> None:
    storage = at_once(Scripted(PASS, REJECT("bad")), url_mode="proxied")
    name = storage.save("secret.txt", file(b"not published either"))
    drain(storage)
    assert evict(ledger().filter(name=name)) == 1
    assert by_open(storage, name) == b"not published either"
    assert storage.remote.calls["_open"] == 1
    assert by_open(storage, name) == b"not published either"
    assert storage.remote.calls["_open"] == 1  # it is in the cache
    with storage.open(name, "wb") as opened:
        opened.write(SECRET)
    run(storage)
    assert not storage.is_published(name)
    for door in REFUSED:
        with pytest.raises(NotPublished):
            door(storage, name)
    for door in (by_url, by_stable_url, by_signature):
        assert b"not published" not in door(storage, name)


def test_files_may_be_left_out_of_listings() -> None:
    storage = gated(Scripted(LATER(3600)), list_unpublished=False)
    storage.save("a/b.txt", file(SECRET))
    run(storage)
    assert storage.listdir("a") == ([], [])


def test_another_host_gets_nothing() -> None:
    def on(host: str) -> Any:
        options = {"LOCAL_PER_HOST": True, "HOST": host, "OTHER_HOST": "fetch"}
        return override_settings(
            QUEUED_STORAGE={"QUEUE": "queued_storage.queues.dummy.DummyQueue", **options}
        )

    with on("a"):
        storage = gated(url_mode="stable")
        name = storage.save("secret.txt", file(SECRET))
    with on("b"):
        assert run(storage) == {}
        assert storage.exists(name)
        for door in (by_open, by_path, by_local_path):
            with pytest.raises(NotPublished):
                door(storage, name)
        assert Client().get(storage.url(name)).status_code == 404
        with pytest.raises(FileNotFoundError, match="on the host 'a'"):
            storage.unpublished(name)
        drain(storage)
        assert not storage.is_published(name)
        storage.delete(name)
        assert len(drain(storage)) == 1  # its bytes are on the other host
        assert storage.queued_file(name)
    with on("a"):
        run(storage)
        preparations().hurry()
        run(storage)
        drain(storage)
        assert storage.queued_file(name) is None
        assert on_disk() == []
