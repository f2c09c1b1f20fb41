"""The database's clock, which is used for all times that hosts compare."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import DateTimeField, ExpressionWrapper
from django.db.models.functions import Now
from django.db.models.sql import Query
from django.utils import timezone


class DatabaseNow(Now):
    """``Now()`` in the time zone in which Django stores times, on every database.

    Django's ``Now()`` is the server's local time on MySQL, and UTC on SQLite even without
    ``USE_TZ``.
    """

    def as_mysql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "UTC_TIMESTAMP(6)"
        if not settings.USE_TZ:  # the server's time zone may differ from Django's
            offset = f"{datetime.now(timezone.get_default_timezone()):%z}"
            zone = f"{offset[:3]}:{offset[3:5]}"
            template = f"CONVERT_TZ({template}, '+00:00', '{zone}')"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        zone = "" if settings.USE_TZ else ", 'localtime'"
        template = f"STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'NOW'{zone})"
        return self.as_sql(compiler, connection, template=template, **context)


def now_in_sql(connection: Any) -> str:
    """The SQL of ``DatabaseNow`` in a statement with parameters."""
    key = (connection.vendor, settings.USE_TZ)
    if key not in _in_sql:
        compiler = Query(None).get_compiler(connection=connection)
        sql = str(compiler.compile(DatabaseNow())[0])
        if connection.vendor == "mysql" and not settings.USE_TZ:
            return sql  # not cached, because the offset changes with daylight saving time
        _in_sql[key] = sql
    return _in_sql[key]


_in_sql: dict[tuple[str, bool], str] = {}  # compiling takes as long as a query


def host_time() -> datetime:
    """This host's time, which is only shown and never compared."""
    return timezone.now()


def seconds_from_now(seconds: float) -> ExpressionWrapper:
    """The time in ``seconds`` from now."""
    later = DatabaseNow() + timedelta(seconds=seconds)
    return ExpressionWrapper(later, output_field=DateTimeField())
