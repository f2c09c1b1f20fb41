"""Arguments that name nothing."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from pytest_django import Settings

from queued_storage.ledger.database import ledger
from tests.support.command import run, save, states, transferred
from tests.support.scripted import file, make

pytestmark = pytest.mark.django_db(transaction=True)

WITH_STORAGE = [
    ["sweep"],
    ["sweep", "--dry-run"],
    ["transfer", "a.txt"],
    ["retry"],
    ["cancel"],
    ["evict"],
    ["evict", "--until-free", "1%"],
    ["restore"],
    ["verify"],
    ["reconcile", "--repair", "missing-remote"],
    ["orphans", "local"],
    ["orphans", "remote"],
    ["adopt"],
    ["backfill"],
    ["flush", "--wait"],
    ["flush"],
    ["prune", "--yes"],
]
WITH_NAMES = [
    ["transfer"],
    ["retry"],
    ["cancel"],
    ["evict"],
    ["restore"],
    ["verify"],
    ["reconcile", "--repair", "missing-remote"],
    ["prune", "--yes"],
    ["adopt", "--storage", "default"],
    ["backfill", "--storage", "default"],
]


def error_of(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    return str(caught.value)


@pytest.mark.parametrize("alias", ["defualt", "", "Default"])
@pytest.mark.parametrize("verb", WITH_STORAGE, ids=" ".join)
def test_wrong_storage(storage: Any, verb: list[str], alias: str) -> None:
    save(storage, "a.txt")
    before = states()
    error = error_of(*verb, "--storage", alias)
    assert repr(alias) in error
    assert "'default'" in error
    assert states() == before


def test_alias_that_only_the_ledger_has(storage: Any) -> None:
    save(storage, "a.txt")
    ledger().update(alias="gone")
    assert run("cancel", "--storage", "gone").startswith("1 file is held.")
    assert "'gone'" in error_of("cancel", "--storage", "gnoe")


@pytest.mark.parametrize("verb", WITH_NAMES, ids=" ".join)
def test_wrong_name(storage: Any, verb: list[str]) -> None:
    transferred(storage, "docs/report-2024.txt", "docs/other.txt", "photo.png")
    before = states()
    error = error_of(*verb, "docs/reprot-2024.txt")
    assert "'docs/reprot-2024.txt'" in error
    assert "'docs/report-2024.txt'" in error
    assert "photo.png" not in error
    assert states() == before


@pytest.mark.parametrize("verb", WITH_NAMES, ids=" ".join)
def test_one_wrong_name_of_several_changes_nothing(storage: Any, verb: list[str]) -> None:
    save(storage, "a.txt")
    if verb[0] != "transfer":
        before = states()
        error_of(*verb, "a.txt", "zzz.txt")
        assert states() == before


def test_names_are_tidied(storage: Any) -> None:
    save(storage, "d/a.txt")
    assert run("cancel", "./d//a.txt").startswith("1 file is held.")
    assert run("transfer", "d\\a.txt", "--storage", "default").endswith("is transferred.\n")


def test_name_of_another_storage(storage: Any) -> None:
    other = make()
    other.save("b.txt", file())
    save(storage, "a.txt")
    assert "'a.txt'" in error_of("cancel", "b.txt", "--storage", "default")


def test_wrong_host(storage: Any, settings: Settings) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True, "HOST": "web-1"}
    save(storage, "a.txt")
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"HOST": "me"}
    assert "'web-1'" in error_of("give-up", "web-2")
    assert run("give-up", "web-1") == "1 file was given up.\n"


def test_wrong_storage_of_check_remote() -> None:
    assert "'far'" in error_of("check-remote", "fra")


@pytest.mark.parametrize(
    "verb", [["orphans", "local"], ["orphans", "remote"], ["adopt"], ["backfill"]]
)
def test_wrong_directory(storage: Any, verb: list[str]) -> None:
    transferred(storage, "photos/2024/a.png")
    error = error_of(*verb, "--storage", "default", "--under", "photos/2042")
    assert "'photos/2024'" in error
    Path(storage.local.path("empty")).mkdir()
    Path(storage.remote.path("empty")).mkdir()
    assert run(*verb, "--storage", "default", "--under", "empty").startswith("0 ")


def test_nothing_to_list(storage: Any) -> None:
    assert error_of("evict", "a.txt").endswith("There is none.")
