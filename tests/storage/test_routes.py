"""The cache: it saves queries, and no answer depends on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.core.cache.backends.base import memcache_key_warnings
from django.core.cache.backends.locmem import LocMemCache
from django.db import transaction
from pytest_django import Settings

from queued_storage.storage.routes import Route, Routes
from queued_storage.tasks import TransferAndDelete
from tests.support.scripted import file, make, read, row
from tests.support.steps import functions_called

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

Queries = Callable[[int], Any]


class BrokenCache(LocMemCache):
    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("the cache is away")

    get = set = add = get_many = _refuse


@pytest.fixture
def storage() -> Any:
    return make(task=TransferAndDelete)


@pytest.fixture
def transferred(storage: Any) -> str:
    name: str = storage.save("a.txt", file())
    storage.queue.deliver()
    return name


def use(settings: Settings, backend: str, **options: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": backend, **options}}


LOCAL = "django.core.cache.backends.locmem.LocMemCache"
SHARED = "django.core.cache.backends.filebased.FileBasedCache"
both_caches = pytest.mark.parametrize("backend", [LOCAL, SHARED], ids=["local", "shared"])


STEPS = 14  # functions of the package: each is a hundredth of the time of a cached URL


def test_a_settled_url_takes_few_steps(storage: Any, transferred: str) -> None:
    storage.url(transferred)
    called = functions_called(lambda: storage.url(transferred))
    assert len(called) <= STEPS, called


def test_an_unsettled_url_asks_the_cache_once(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = storage.save("a.txt", file())
    asked: list[str] = []
    get = LocMemCache.get
    monkeypatch.setattr(
        LocMemCache, "get", lambda cache, key, *args: asked.append(key) or get(cache, key, *args)
    )
    assert storage.url(name) == "/media/a.txt"
    assert asked == [storage.get_cache_key(name)]


def test_a_settled_url_costs_no_query(
    storage: Any, transferred: str, django_assert_num_queries: Queries
) -> None:
    url = storage.url(transferred)
    with django_assert_num_queries(0):
        assert storage.url(transferred) == url
        assert storage.using_remote(transferred)
        assert storage.urls([transferred]) == {transferred: url}


def in_a_block(storage: Any, names: list[str]) -> dict[str, str]:
    with storage.prefetched(names):
        return {name: storage.url(name) for name in names}


@pytest.mark.parametrize("look", [lambda storage, names: storage.urls(names), in_a_block])
@pytest.mark.parametrize(("backend", "queries"), [(LOCAL, 0), (SHARED, 1)], ids=["local", "shared"])
def test_a_page_is_remembered_if_that_takes_no_request(
    storage: Any,
    transferred: str,
    settings: Settings,
    look: Callable[[Any, list[str]], dict[str, str]],
    backend: str,
    queries: int,
    tmp_path: Path,
    django_assert_num_queries: Queries,
) -> None:
    use(settings, backend, LOCATION=str(tmp_path))
    with django_assert_num_queries(1):
        found = look(storage, [transferred])
    assert found == {transferred: storage.remote.url(transferred)}
    with django_assert_num_queries(queries):
        assert look(storage, [transferred]) == found


def test_a_page_does_not_restore_old_answers(
    storage: Any, transferred: str, django_assert_num_queries: Queries
) -> None:
    storage.forget_route(transferred)  # as a change does
    for _page in range(2):
        with django_assert_num_queries(1):
            storage.urls([transferred])


def test_a_page_of_pending_files_is_not_remembered(
    storage: Any, django_assert_num_queries: Queries
) -> None:
    name = storage.save("a.txt", file())
    for _page in range(2):
        with django_assert_num_queries(1):
            assert storage.urls([name]) == {name: "/media/a.txt"}


def test_unsettled_files_are_queried_each_time(
    storage: Any, django_assert_num_queries: Queries
) -> None:
    name = storage.save("a.txt", file())
    for _time in range(3):
        with django_assert_num_queries(1):
            assert storage.url(name) == "/media/a.txt"
    storage.queue.deliver()
    assert storage.url(name) == "https://far.example/a.txt"


def answers(storage: Any, names: list[str]) -> list[Any]:
    return [
        [storage.url(name), storage.using_remote(name), storage.exists(name), storage.urls(names)]
        for name in names
    ]


@pytest.mark.parametrize("backend", ["off", "dummy.DummyCache", "locmem.LocMemCache", "broken"])
def test_no_answer_depends_on_the_cache(storage: Any, settings: Settings, backend: str) -> None:
    """Ancestor 8: with the cache lost while pending, a half-written object was served."""
    names = [storage.save(f"{state}.txt", file()) for state in ("moved", "gone", "new")]
    storage.remote.save("waiting.txt", file(b"half"))
    storage.queue.deliver()
    names.append(storage.save("waiting.txt", file(b"whole")))
    storage.delete(names[1])
    with storage.open(names[2], "wb") as opened:
        opened.write(b"newer")
    expected = answers(storage, names)
    assert answers(storage, names) == expected
    if backend == "off":
        settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "CACHE": None}
    elif backend == "broken":
        use(settings, "tests.storage.test_routes.BrokenCache")
    else:
        use(settings, f"django.core.cache.backends.{backend}")
    for _time in range(2):
        assert answers(storage, names) == expected
    assert read(storage, "waiting.txt") == b"whole"


def test_ancestor_11_a_lost_entry_is_queried_again(storage: Any, transferred: str) -> None:
    url = storage.url(transferred)
    storage.remote.calls.clear()
    cache.clear()
    assert storage.url(transferred) == url
    assert storage.remote.calls == {}


@both_caches
def test_new_content_is_served_at_once(
    storage: Any, transferred: str, settings: Settings, backend: str, tmp_path: Path
) -> None:
    use(settings, backend, LOCATION=str(tmp_path))
    assert storage.url(transferred).startswith("https://far")
    with storage.open(transferred, "wb") as opened:
        opened.write(b"newer")
    assert storage.url(transferred) == "/media/a.txt"
    assert storage.urls([transferred]) == {transferred: "/media/a.txt"}


def test_a_deleted_file_is_forgotten(storage: Any, transferred: str) -> None:
    storage.url(transferred)
    storage.delete(transferred)
    assert storage.using_local(transferred)
    storage.queue.deliver()
    name = storage.save("a.txt", file(b"another"))
    assert name == transferred
    assert storage.url(name) == "/media/a.txt"


def test_a_late_reader_does_not_restore_old_answers(storage: Any, transferred: str) -> None:
    late = storage._routes
    with transaction.atomic():
        storage.delete(transferred)
        late.remember(transferred, Route("a.txt", 1))  # it queried the ledger before the delete
        assert late.find(transferred, [1]) is None
    late.remember(transferred, Route("a.txt", 1))
    assert late.find(transferred, [1]) is None
    assert storage.using_local(transferred)


def test_a_reader_during_a_long_delete(storage: Any, transferred: str) -> None:
    with transaction.atomic():
        storage.delete(transferred)
        cache.clear()  # the mark has expired
        storage._routes.remember(transferred, Route("a.txt", 1))  # by a reader before the commit
    assert storage._routes.find(transferred, [1]) is None


def test_a_delete_that_is_rolled_back(storage: Any, transferred: str) -> None:
    url = storage.url(transferred)
    with transaction.atomic():
        storage.delete(transferred)
        transaction.set_rollback(True)
    assert storage.url(transferred) == url


@pytest.mark.parametrize("prefix", ["queued", "with blank", "ümläut", "p" * 300, "tab\t", "\x7f"])
@pytest.mark.parametrize("name", ["a.txt", "with blank", "ü\n😀", "x" * 700, "\udcff", "\0"])
def test_keys_are_safe_for_memcached(prefix: str, name: str) -> None:
    key = Routes("an alias with blanks", prefix).key(name)
    assert list(memcache_key_warnings(key)) == []
    assert key.isascii()
    assert len(key) <= 200  # Django adds a prefix


def test_keys_of_all_files_differ() -> None:
    pairs = [("a", "b"), ("a", "B"), ("b", "a"), ("ab", ""), ("", "ab"), ("a\0b", ""), ("a", "b ")]
    keys = {Routes(alias, prefix).key(name) for alias, name in pairs for prefix in ("x", "y")}
    assert len(keys) == 2 * len(pairs)


def test_the_option_cache_prefix() -> None:
    storage = make(cache_prefix="mine")
    assert storage.get_cache_key("a.txt").startswith("mine")
    assert make(cache_prefix="mine").get_cache_key("a.txt") != storage.get_cache_key("a.txt")
    assert storage.get_cache_key("a.txt") == storage.get_cache_key("./a.txt")


@pytest.mark.parametrize("garbage", [True, 5, b"x", ["a"], {"a": 1}])
def test_values_of_others_are_ignored(storage: Any, transferred: str, garbage: Any) -> None:
    cache.set(storage.get_cache_key(transferred), garbage)
    assert storage.url(transferred) == "https://far.example/a.txt"


@both_caches
def test_a_per_process_cache_expires_soon(
    storage: Any, transferred: str, settings: Settings, backend: str, tmp_path: Path
) -> None:
    """It does not see the changes of other processes."""
    use(settings, backend, LOCATION=str(tmp_path))
    seen: list[float] = []
    found = caches["default"]
    add = found.add

    def spy(key: str, value: Any, timeout: float, **kwargs: Any) -> bool:
        seen.append(timeout)
        return bool(add(key, value, timeout, **kwargs))

    found.add = spy  # type: ignore[method-assign]
    storage.url(transferred)
    assert seen == [3600 if backend == SHARED else 5]


def test_an_unknown_cache_alias_raises(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = {**settings.QUEUED_STORAGE, "CACHE": "nowhere"}
    name = row(storage, storage.save("a.txt", file())).name
    with pytest.raises(Exception, match="nowhere"):
        storage.url(name)
