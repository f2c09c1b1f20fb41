"""Which remotes are open, and what waits for them."""

from typing import Any

import pytest
from django.db import connection

from queued_storage.ledger.availability import (
    availabilities,
    availability_of,
    in_use,
    unclaimed,
    waiting,
)
from queued_storage.ledger.database import ledger
from queued_storage.ledger.remotes import RemoteState, remotes
from queued_storage.ledger.sql.clock import seconds_from_now
from queued_storage.ledger.states import State
from tests.support.outages import close, registered
from tests.support.scripted import file, make

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def storage() -> Any:
    return make()


def test_storage_that_has_uploaded_nothing_is_open(storage: Any) -> None:
    found = availability_of(storage.alias)
    assert found is not None
    assert (found.state, found.since, found.place) == (
        RemoteState.OPEN,
        None,
        storage.remote_place.description,
    )


def test_remote_at_an_earlier_place_is_not_in_use(storage: Any) -> None:
    close(storage)
    remotes().update(digest=5, place="s3://old")
    now, before = (each for each in availabilities() if each.alias == storage.alias)
    assert (now.is_open, now.is_configured) == (True, True)
    assert (before.state, before.place, before.is_configured) == ("away", "s3://old", False)
    assert before not in in_use()


def test_last_place_of_an_unknown_alias_is_in_use(storage: Any) -> None:
    close(storage, ago=1000)
    remotes().update(alias="gone", digest=5)
    registered(storage).update(alias="gone")
    [found] = [each for each in in_use() if each.alias == "gone"]
    assert found.is_open
    remotes().filter(digest=5).update(since=seconds_from_now(0))
    [found] = [each for each in in_use() if each.alias == "gone"]
    assert found.state == RemoteState.AWAY


@pytest.mark.parametrize(
    ("state", "count"),
    [(state, state in {"pending", "transferring", "deleting"}) for state in State.values],
)
def test_files_that_wait(storage: Any, state: str, count: bool) -> None:
    make().save("other.txt", file())
    storage.save("a.txt", file())
    storage.save("b.txt", file())
    ledger().filter(alias=storage.alias).update(state=state)
    assert waiting(storage.alias) == 2 * count
    assert waiting(storage.alias, 1) == count


def test_waiting_files_are_counted_in_an_index(storage: Any) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("the plan is that of SQLite")
    rows = ledger().filter(alias=storage.alias, state__in=[State.PENDING, State.DELETING])
    plan = rows.values("pk").explain()
    assert "COVERING INDEX queued_storage_state" in plan


def test_age_of_due_files_begins_when_the_remote_opened(storage: Any) -> None:
    storage.save("a.txt", file())
    ledger().update(due_at=seconds_from_now(-1000))

    def ages() -> list[float]:
        return [row.age for row in unclaimed(in_use()) if row.alias == storage.alias]

    assert ages()[0] > 990
    close(storage)
    assert ages() == []
    registered(storage).reopen()
    assert ages()[0] < 500
