"""Leases: how claims are renewed, and what happens to those that are lost."""

from typing import Any

import pytest
from django.db import connections

from queued_storage.ledger.database import ledger
from queued_storage.ledger.models import QueuedFile
from queued_storage.ledger.sql import statements
from queued_storage.ledger.states import State
from tests.support.scripted import file, make, row

pytestmark = pytest.mark.django_db(transaction=True)


def claim(storage: Any, name: str) -> QueuedFile:
    claimed = ledger().claim(row(storage, storage.save(name, file())).pk)
    assert claimed
    return claimed


def test_promotion_during_renewal_spoils_no_other_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection takes long enough for another thread to promote the row."""
    storage = make()
    promoted, other = claim(storage, "a.txt"), claim(storage, "b.txt")
    connection = connections[ledger().db]
    connect = connection.ensure_connection

    def connect_slowly() -> None:
        connect()
        promoted.state = State.TRANSFERRED

    monkeypatch.setattr(statements, "_kept", {})
    with monkeypatch.context() as patches:
        patches.setattr(connection, "ensure_connection", connect_slowly)
        ledger().renew(promoted, 0)
    assert ledger().renew(other, 0) == 1
