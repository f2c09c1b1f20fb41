from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from django.core.management import call_command
from pytest_django import DjangoAssertNumQueries

from queued_storage.exceptions import RemoteChanged
from queued_storage.ledger import bindings
from queued_storage.ledger.bindings import changed, is_elsewhere, require_same
from queued_storage.ledger.remotes import remotes
from queued_storage.remotes.places import MEMORY, Place, place_of

pytestmark = pytest.mark.django_db

OLD, NEW = (place_of(FileSystemStorage(path)) for path in ("/srv/old", "/srv/new"))
UNKNOWN = Place(MEMORY, "memory", only=5)


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    bindings.forget()


def bound(place: int | None) -> Any:
    return SimpleNamespace(place=place)


def test_places_that_are_compared() -> None:
    assert not is_elsewhere("one", bound(OLD.digest), OLD)
    assert is_elsewhere("one", bound(OLD.digest), NEW)


def test_unknown_places_are_not_compared() -> None:
    assert UNKNOWN.digest == 0
    assert not is_elsewhere("one", bound(0), NEW)
    assert not is_elsewhere("one", bound(OLD.digest), UNKNOWN)


def test_old_rows_are_at_the_first_place() -> None:
    remotes().register("other", NEW)
    assert not is_elsewhere("one", bound(None), NEW)  # without any, at the configured one
    bindings.forget()
    remotes().register("one", OLD)
    remotes().register("one", NEW)
    assert is_elsewhere("one", bound(None), NEW)
    assert not is_elsewhere("one", bound(None), OLD)


def test_old_rows_of_an_unknown_first_place() -> None:
    remotes().register("one", UNKNOWN)
    assert not is_elsewhere("one", bound(None), NEW)


def test_the_first_place_is_queried_once(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    remotes().register("one", OLD)
    with django_assert_num_queries(1):
        for _row in range(3):
            assert is_elsewhere("one", bound(None), NEW)
            assert is_elsewhere("one", bound(OLD.digest), NEW)


@pytest.mark.django_db(transaction=True)
def test_a_flush_makes_the_first_place_unknown() -> None:
    remotes().register("one", OLD)
    assert is_elsewhere("one", bound(None), NEW)
    call_command("flush", interactive=False, verbosity=0)
    assert not is_elsewhere("one", bound(None), NEW)


def test_the_error_names_both_places_and_what_to_do() -> None:
    remotes().register("one", OLD)
    with pytest.raises(RemoteChanged) as raised:
        require_same("one", "a.txt", bound(OLD.digest), NEW)
    for text in ("'a.txt'", "'/srv/old'", "'/srv/new'", "remotes accept one", "old configuration"):
        assert text in str(raised.value)


def test_the_error_about_a_place_without_uploads() -> None:
    assert "nothing was uploaded" in str(changed("one", "a.txt", bound(OLD.digest), NEW))
