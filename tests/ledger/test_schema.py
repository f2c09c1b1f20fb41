"""What is said of errors that a missing table or column may be the reason of."""

from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, ProgrammingError, connection, transaction
from django.db.backends.signals import connection_created

from queued_storage.ledger import schema

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("kind", [InterfaceError, OperationalError])
def test_a_database_that_is_away_explains_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """Drivers tell of a closed connection in several ways."""

    def away(*args: Any) -> None:
        raise kind("connection already closed")

    monkeypatch.setattr(schema, "_missing", away)
    for error in (OperationalError("server has gone away"), ProgrammingError("no such table")):
        assert schema.explanation(error) == ""
        with transaction.atomic():
            assert schema.explanation(error) == ""


@pytest.mark.skipif(connection.vendor != "postgresql", reason="other databases go on after errors")
def test_after_a_lock_timeout_no_second_connection_is_made() -> None:
    made: list[object] = []

    def note(**kwargs: Any) -> None:
        made.append(kwargs["connection"])

    with transaction.atomic():
        with pytest.raises(ProgrammingError), connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")
        connection_created.connect(note)
        try:
            assert schema.explanation(OperationalError("canceling statement")) == ""
        finally:
            connection_created.disconnect(note)
        transaction.set_rollback(True)
    assert made == []
