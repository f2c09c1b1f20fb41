"""What a worker does with files that it has in hand."""

import threading
import time
from typing import Any

import pytest
from django.db import connection, connections, transaction

from queued_storage.ledger.database import ledger
from queued_storage.ledger.states import State
from queued_storage.transfers import lanes
from tests.support.scripted import file, make, row

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_row_that_is_locked_for_a_moment_is_given_back(monkeypatch: Any) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("it locks no rows")
    storage = make()
    name = storage.save("a.txt", file())
    claimed = ledger().claim(row(storage, name).pk)
    assert claimed
    is_locked, may_end = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            ledger().select_for_update().get(pk=claimed.pk)
            is_locked.set()
            may_end.wait(20)
        connections.close_all()

    locker = threading.Thread(target=lock)
    locker.start()
    assert is_locked.wait(20)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if seconds:
            assert row(storage, name).state == State.TRANSFERRING
            may_end.set()
            locker.join(20)

    monkeypatch.setattr(time, "sleep", pause)
    lanes.give_back([claimed])
    found = row(storage, name)
    assert (found.state, found.attempts, found.lease_token) == (State.PENDING, 0, "")
    assert pauses == [0.0, 0.05]
