"""Files that are looked up before their URLs are asked for one by one."""

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.files.storage import default_storage
from django.db import DatabaseError, connection, transaction
from pytest_django import Settings

from queued_storage.prefetch import prefetch_urls
from tests.support.scripted import disk, file, make
from tests.support.testapp.models import Document, Paper, Photo

pytestmark = pytest.mark.django_db(transaction=True)

Queries = Callable[..., Any]


@pytest.fixture(autouse=True)
def without_cache(settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"CACHE": None}


def saved(storage: Any) -> list[str]:
    """Names of a file that is transferred, one that waits, and one without a row."""
    first = storage.save("transferred.txt", file())
    storage.queue.deliver()
    second = storage.save("waiting.txt", file())
    return [first, second, "unknown.txt"]


@pytest.mark.parametrize("url_mode", ["direct", "signed", "stable"])
def test_urls_of_a_block_take_one_query(django_assert_num_queries: Queries, url_mode: str) -> None:
    storage = make(url_mode=url_mode)
    names = saved(storage)
    expected = [storage.url(name) for name in names]
    with django_assert_num_queries(1), storage.prefetched(names):
        assert [storage.url(name) for name in names] == expected
        assert [storage.url(name) for name in names] == expected


def test_expiring_stable_urls_are_for_the_row(django_assert_num_queries: Queries) -> None:
    storage = make()
    names = saved(storage)
    expected = [storage.stable_url(name, 60) for name in names]
    with storage.prefetched(names), django_assert_num_queries(0):
        assert [storage.stable_url(name, 60) for name in names] == expected


def test_cached_routes_are_signed_for_the_row(settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"CACHE": "default"}
    storage = make()
    name = saved(storage)[0]
    storage.url(name)  # now the cache knows it, but not its row
    expected = storage.stable_url(name, 60)
    with storage.prefetched([name]):
        assert storage.stable_url(name, 60) == expected


def test_changes_of_the_block_are_seen(storage: Any) -> None:
    name = saved(storage)[0]
    with storage.prefetched([name]):
        assert storage.url(name) == storage.remote.url(name)
        with storage.open(name, "wb") as opened:
            opened.write(b"new content")
        assert storage.url(name) == disk().url(name)


def test_changes_of_an_inner_block_are_seen_after_it(storage: Any) -> None:
    names = saved(storage)
    with storage.prefetched(names[:1]):
        with storage.prefetched(names[1:]), storage.open(names[0], "wb") as opened:
            opened.write(b"new content")
        assert storage.url(names[0]) == disk().url(names[0])


def test_names_are_forgotten_after_the_block(
    storage: Any, django_assert_num_queries: Queries
) -> None:
    names = saved(storage)
    with storage.prefetched(names[:1]):
        with storage.prefetched(names[1:]), django_assert_num_queries(0):
            urls = [storage.url(name) for name in names]
        with django_assert_num_queries(1):
            storage.url(names[0])
            storage.url(names[1])
    with django_assert_num_queries(3):
        assert [storage.url(name) for name in names] == urls


def test_errors_of_the_block_are_raised(storage: Any) -> None:
    with pytest.raises(DatabaseError, match="of the block"), storage.prefetched(["a.txt"]):
        raise DatabaseError("of the block")


def test_a_broken_transaction_leaves_urls_as_they_are(storage: Any) -> None:
    names = saved(storage)
    with transaction.atomic():
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")
        expected = [storage.url(name) for name in names]
        with storage.prefetched(names):
            assert [storage.url(name) for name in names] == expected
        transaction.set_rollback(True)


def test_other_storages_are_not_meant(django_assert_num_queries: Queries) -> None:
    one, other = make(), make()
    name = saved(one)[1]
    with one.prefetched([name]), django_assert_num_queries(1):
        other.url(name)


def test_sync_code_of_a_coroutine_is_in_the_block(storage: Any) -> None:
    names = saved(storage)
    asked = []

    async def view() -> list[str]:
        return [await sync_to_async(storage.url)(name) for name in names]

    expected = [storage.url(name) for name in names]
    with (
        storage.prefetched(names),
        connection.execute_wrapper(
            lambda execute, sql, *args: asked.append(sql) or execute(sql, *args)
        ),
    ):
        assert async_to_sync(view)() == expected
    assert asked == []


# Instances of models


def instances() -> tuple[Document, Photo, Paper]:
    document = Document.objects.create(file=file(name="document.txt"))
    photo = Photo.objects.create(image=file(name="photo.png"))
    paper = Paper.objects.create(file=file(name="paper.txt"))
    return document, photo, paper


def test_files_of_instances_take_one_query(django_assert_num_queries: Queries) -> None:
    document, photo, paper = instances()
    with django_assert_num_queries(1), prefetch_urls([document, photo, paper, Document()]):
        assert document.file.url == default_storage.url(document.file.name)
        assert photo.image.url == default_storage.url(photo.image.name)
        assert paper.file.url == default_storage.url(paper.file.name)


def test_fields_may_be_named(django_assert_num_queries: Queries) -> None:
    document, _photo, paper = instances()
    document.paper = paper  # type: ignore[attr-defined]  # like a foreign key
    other = Document(file="")
    other.paper = None  # type: ignore[attr-defined]  # like one that is not set
    with prefetch_urls([document, other], "paper__file"), django_assert_num_queries(0):
        assert paper.file.url
    with prefetch_urls([document, other], "paper__file"), django_assert_num_queries(1):
        assert document.file.url


def test_what_is_no_file_is_refused() -> None:
    document = instances()[0]
    with pytest.raises(TypeError, match=r"'pk' of .* is \d+, which is not a file"):
        prefetch_urls([document], "pk").__enter__()
    with pytest.raises(AttributeError, match="'Document' object has no attribute 'fiel'"):
        prefetch_urls([document], "fiel").__enter__()


def test_files_of_other_storages_are_left_out(settings: Settings) -> None:
    document = instances()[0]
    settings.STORAGES = settings.STORAGES | {
        "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    }
    with prefetch_urls([document]):
        assert document.file.url == f"/media/{document.file.name}"
