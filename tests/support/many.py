"""Thousands of rows at once."""

from django.db import connection

from queued_storage.models import QueuedFile

_DIGIT = "(SELECT 0 AS d " + " ".join(f"UNION ALL SELECT {number}" for number in range(1, 10)) + ")"
_NAME = {"mysql": "CONCAT(%s, {n})"}


def repeat(row: QueuedFile, count: int, prefix: str = "") -> None:
    """Add `count` rows like this saved one, at most 100,000, whose names are numbers."""
    table, quote = QueuedFile._meta.db_table, connection.ops.quote_name
    fields = [field for field in QueuedFile._meta.concrete_fields if not field.primary_key]
    columns = [quote(field.column) for field in fields]
    number = " + ".join(f"{10**power} * t{power}.d" for power in range(5))
    name = _NAME.get(connection.vendor, "%s || {n}").format(n=f"({number})")
    values = [name if field.name == "name" else f"r.{quote(field.column)}" for field in fields]
    digits = " CROSS JOIN ".join(f"{_DIGIT} AS t{power}" for power in range(5))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {quote(table)} ({', '.join(columns)}) SELECT {', '.join(values)} "
            f"FROM {quote(table)} AS r CROSS JOIN {digits} WHERE r.id = %s AND {number} < %s",
            [prefix, row.pk, count],
        )
