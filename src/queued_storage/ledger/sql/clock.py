"""The database's clock, which is used for all times that hosts compare."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models import (
    DateTimeField,
    DurationField,
    Expression,
    ExpressionWrapper,
    Value,
)
from django.db.models.functions import Now
from django.db.models.sql import Query
from django.utils import timezone


class UTCDateTimeField(DateTimeField):
    """A DateTimeField whose values are in UTC in every database.

    Databases other than PostgreSQL store the time that a clock on the wall shows: Django's without
    ``USE_TZ``, and that of the database's ``TIME_ZONE`` otherwise. If that clock is set back in
    autumn, leases would end an hour later, and due files would wait for an hour.
    """

    def deconstruct(self) -> Any:
        """Be a DateTimeField to migrations, because the column is the same."""
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, kwargs

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        if not prepared:
            value = self.get_prep_value(value)
        if isinstance(value, datetime) and not _is_absolute(connection):
            value = in_utc(value).replace(tzinfo=None)
        return connection.ops.adapt_datetimefield_value(value)

    def get_db_converters(self, connection: Any) -> list[Callable[..., Any]]:
        """Convert what the database's own converters have made of the value."""
        if _is_absolute(connection) or (settings.USE_TZ and connection.timezone is UTC):
            return []
        return [_from_utc]


def _is_absolute(connection: Any) -> bool:
    """Whether the database stores moments instead of the time on a wall."""
    return bool(connection.features.supports_timezones)


def _from_utc(value: datetime | None, expression: Any, connection: Any) -> datetime | None:
    if value is None:
        return None
    moment = value.replace(tzinfo=UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def in_utc(time: datetime) -> datetime:
    """Return a time of the ledger, which is naive without ``USE_TZ``, as an aware one in UTC.

    Differences of naive times are wrong by an hour if the clock was changed in between.
    """
    if timezone.is_naive(time):
        time = time.replace(tzinfo=timezone.get_default_timezone())
    return time.astimezone(UTC)


def seconds_between(earlier: datetime, later: datetime) -> float:
    """Return the seconds from one time of the ledger to another one."""
    return (in_utc(later) - in_utc(earlier)).total_seconds()


class DatabaseNow(Now):
    """``Now()`` in UTC on every database. Django's is the server's local time on MySQL."""

    output_field = UTCDateTimeField()

    def as_mysql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **context)


class _Duration(Value):
    """A duration that PostgreSQL takes for seconds only.

    It would take others for days, which may have 23 or 25 hours, and seconds.
    """

    def as_postgresql(self, compiler: Any, connection: Any) -> Any:
        return "%s * INTERVAL '1 second'", [self.value.total_seconds()]


def seconds_from_now(seconds: float) -> Expression:
    """The time in ``seconds`` from now."""
    if not seconds:  # SQLite writes a sum with more digits, so that it would be in the future
        return DatabaseNow()
    later = DatabaseNow() + _Duration(timedelta(seconds=seconds), output_field=DurationField())
    return ExpressionWrapper(later, output_field=UTCDateTimeField())


def now_in_sql(connection: Any) -> str:
    """The SQL of ``DatabaseNow`` in a statement with parameters."""
    if connection.vendor not in _in_sql:
        compiler = Query(None).get_compiler(connection=connection)
        _in_sql[connection.vendor] = str(compiler.compile(DatabaseNow())[0])
    return _in_sql[connection.vendor]


_in_sql: dict[str, str] = {}  # compiling takes as long as a query


def database_time(database: str) -> datetime:
    """Ask the database for its time, in UTC."""
    connection = connections[database]
    now = now_in_sql(connection)
    if _is_absolute(connection):
        now = f"{now} AT TIME ZONE 'UTC'"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {now}", [])
        [found] = cursor.fetchone()
    time: datetime = datetime.fromisoformat(found) if isinstance(found, str) else found
    return time.replace(tzinfo=UTC)


def host_time() -> datetime:
    """This host's time, which is only shown and never compared."""
    return timezone.now()
