"""URLs of files."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from pytest_django import Settings

from queued_storage.transfers import work
from tests.support.scripted import ScriptedStorage, disk, file, make

pytestmark = pytest.mark.django_db(transaction=True)


def test_urls_takes_one_query_for_many_names(
    storage: Any, settings: Settings, django_assert_num_queries: Callable[..., Any]
) -> None:
    with transaction.atomic():
        names = [storage.save(f"{number}.txt", file(b"")) for number in range(30)]
    for pk in storage.queue.messages.pop()[:10]:
        work.run(pk)
    with django_assert_num_queries(1):
        urls = storage.urls([*names, "\0", "unknown.txt"])
    expected = [*(f"https://far.example/{name}" for name in names[:10])]
    expected += [f"/media/{name}" for name in names[10:]]
    expected += [storage.local.url("\0"), "https://far.example/unknown.txt"]
    assert list(urls.values()) == expected
    assert list(urls) == [*names, "\0", "unknown.txt"]


def test_urls_of_more_names_than_a_query_takes(storage: Any) -> None:
    names = [f"{number}.txt" for number in range(1201)]
    assert len(storage.urls(names)) == 1201
    assert storage.urls([]) == {}


def test_url_passes_arguments_to_the_remote() -> None:
    class Expiring(ScriptedStorage):
        def url(self, name: str, expire: int = 0) -> str:
            return f"https://signed.example/{name}?{expire}"

    storage = make(remote=Expiring())
    name = storage.save("a.txt", file())
    assert storage.url(name, expire=5) == "/media/a.txt"
    storage.queue.deliver()
    assert storage.url(name, expire=5) == "https://signed.example/a.txt?5"


def test_urls_of_awkward_names(storage: Any) -> None:
    name = storage.save("a b#?%ü.txt", file())
    assert storage.url(name) == disk().url(name)
    storage.queue.deliver()
    assert storage.url(name) == storage.remote.url(name)


def test_the_url_of_an_empty_name(storage: Any) -> None:
    assert storage.url("") == disk().url("")
    assert storage.url(None) == disk().url(None)
