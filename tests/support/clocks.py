"""Clocks and time zones of the host and of the database."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from unittest import mock

from django.db import connection, connections
from django.test import override_settings
from django.utils import timezone

from queued_storage.ledger.sql import clock, statements
from queued_storage.ledger.sql.clock import DatabaseNow

_LITERALS = {
    "sqlite": "'{:%Y-%m-%d %H:%M:%S.%f}'",
    "mysql": "CAST('{:%Y-%m-%d %H:%M:%S.%f}' AS DATETIME(6))",
    "postgresql": "TIMESTAMPTZ '{:%Y-%m-%d %H:%M:%S.%f}+00'",
}


@contextlib.contextmanager
def host_ahead(**ahead: float) -> Iterator[None]:
    """Let the clock of this host differ from the database's."""
    real = timezone.now

    def shifted() -> datetime:
        return real() + timedelta(**ahead)

    with mock.patch.object(timezone, "now", shifted):
        yield


@contextlib.contextmanager
def database_at(moment: datetime) -> Iterator[None]:
    """Let the clock of the database stand still at a moment."""
    literal = _LITERALS[connection.vendor].format(moment.astimezone(UTC)).replace("%", "%%")

    def as_literal(self: DatabaseNow, compiler: object, connection: object, **context: object):
        return literal, []

    method = f"as_{connection.vendor}"
    with mock.patch.object(DatabaseNow, method, as_literal, create=True):
        _forget_texts()
        yield
    _forget_texts()


def _forget_texts() -> None:
    clock._in_sql.clear()
    statements._texts.clear()


@contextlib.contextmanager
def zones(*, django: str = "UTC", use_tz: bool = True, database: str | None = None):
    """Let Django and the connection of this thread have these time zones."""
    connection.close()
    with (
        override_settings(TIME_ZONE=django, USE_TZ=use_tz),
        mock.patch.dict(connections["default"].settings_dict, TIME_ZONE=database),
    ):
        _forget_zones()
        yield
        connection.close()
    _forget_zones()


def _forget_zones() -> None:
    for name in ("timezone", "timezone_name"):
        connection.__dict__.pop(name, None)
