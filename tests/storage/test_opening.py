"""Reads of files at another place than the one that their storage is configured for."""

import logging
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.files.storage import FileSystemStorage
from pytest_django import DjangoAssertNumQueries, Settings

from queued_storage.exceptions import RemoteChanged
from queued_storage.ledger import bindings
from queued_storage.ledger.database import ledger
from queued_storage.tasks import TransferAndDelete
from tests.support.scripted import ScriptedStorage, file, make, read

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def moved(tmp_path: Path) -> Any:
    """A storage with an evicted file, which is configured for another directory now."""
    bindings.forget()
    storage = make(
        remote=FileSystemStorage(tmp_path / "old", "https://old.example/"),
        task=TransferAndDelete,
    )
    storage.save("a.txt", file())
    assert storage.queue.deliver() == {}
    assert storage.url("a.txt") == "https://old.example/a.txt"
    new = FileSystemStorage(tmp_path / "new", "https://new.example/")
    new.save("a.txt", file(b"of another project"))
    storage.sides.remote.given = new
    return storage


def test_a_file_elsewhere_cannot_be_opened(moved: Any, tmp_path: Path) -> None:
    with pytest.raises(RemoteChanged) as raised:
        moved.open("a.txt")
    with pytest.raises(RemoteChanged), moved.local_path("a.txt"):
        pass
    for text in (str(tmp_path / "old"), str(tmp_path / "new"), f"remotes accept {moved.alias}"):
        assert text in str(raised.value)


def test_a_read_cache_does_not_take_it_from_there(
    moved: Any, tmp_path: Path, settings: Settings
) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {
        "READ_CACHE": {"LOCATION": str(tmp_path / "cache"), "MAX_BYTES": 10**6}
    }
    with pytest.raises(RemoteChanged):
        moved.open("a.txt")


def test_the_ledger_answers_other_questions(moved: Any) -> None:
    assert moved.size("a.txt") == 5
    assert moved.exists("a.txt")
    assert moved.get_modified_time("a.txt")
    with pytest.raises(RemoteChanged):
        moved.get_accessed_time("a.txt")  # only the remote knows it


def test_a_local_copy_is_read(tmp_path: Path) -> None:
    storage = make(remote=FileSystemStorage(tmp_path / "old"))
    storage.save("a.txt", file())
    storage.queue.deliver()
    ledger().update(state="pending")
    storage.sides.remote.given = FileSystemStorage(tmp_path / "new")
    assert read(storage, "a.txt") == b"bytes"


def test_urls_are_those_of_the_configured_place(
    moved: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "queued_storage"):
        for _call in range(3):
            assert moved.url("a.txt") == "https://new.example/a.txt"
            assert moved.urls(["a.txt"]) == {"a.txt": "https://new.example/a.txt"}
    [record] = caplog.records
    assert "remotes accept" in record.getMessage()


def test_the_cache_is_not_used_for_another_place(moved: Any) -> None:
    assert moved._routes.find("a.txt", [moved.remote_place.digest]) is None
    cache.clear()
    moved.url("a.txt")
    assert moved._routes.find("a.txt", [moved.remote_place.digest]) is None


def test_a_good_read_costs_no_query_more(
    tmp_path: Path, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    storage = make(remote=ScriptedStorage(), task=TransferAndDelete)
    storage.save("a.txt", file())
    storage.queue.deliver()
    with django_assert_num_queries(1):
        storage.url("a.txt")
    with django_assert_num_queries(0):
        storage.url("a.txt")
    with django_assert_num_queries(2):
        assert read(storage, "a.txt") == b"bytes"


def test_old_rows_cost_one_query(
    moved: Any, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    ledger().update(place=None)
    with pytest.raises(RemoteChanged):
        moved.open("a.txt")
    moved.url("a.txt")  # is logged, with a name for the place
    cache.clear()
    with django_assert_num_queries(1):
        moved.url("a.txt")
