"""The look-ups of files, which requests make.

Those of a single file have cached texts, since Django takes several times as long to compile such a
statement as the database takes to execute it. None is repeated after an outage of the database: a
request must not wait for that.
"""

from collections.abc import Iterable
from typing import Any

from django.db import connections, models

from .models import QueuedFile
from .rows import Rows
from .sql.statements import Parameter, Text, select_text, statement
from .states import ENTRY_FIELDS, Entry, State


class Lookups(Rows):
    """What is known of files."""

    def lookup(self, alias: str, name: str) -> QueuedFile | None:
        """Return the row of a file."""
        return statement(self, _row_text, alias=alias, name=name).first_instance(QueuedFile)

    def entry(self, alias: str, name: str) -> Entry | None:
        text = _locked_entry_text if self.query.select_for_update else _entry_text
        found = statement(self, text, alias=alias, name=name)
        values = found.first_values(QueuedFile, ENTRY_FIELDS)
        return None if values is None else Entry(*values)

    def latest_entry(self, alias: str, name: str) -> Entry | None:
        """The current entry, even in a transaction that reads from an older snapshot.

        On MySQL, transactions do so unless the isolation level is "read committed", Django's
        default. Only a locking read returns the current row then; workers wait for the lock.
        """
        connection: Any = connections[self.db]
        has_snapshots = connection.vendor == "mysql" and connection.in_atomic_block
        if has_snapshots and connection.isolation_level != "read committed":
            return self.select_for_update().entry(alias, name)
        return self.entry(alias, name)

    def entries(self, alias: str, names: Iterable[str]) -> dict[str, Entry]:
        rows = self.filter(alias=alias, name__in=names).values_list("name", *ENTRY_FIELDS)
        return {name: Entry(*values) for name, *values in rows}

    def is_still_local(self, row: QueuedFile) -> bool:
        """Whether this content of the file has a local copy, and is not being deleted."""
        found = statement(self, _still_local_text, id=row.pk, generation=row.generation)
        return found.first_values(QueuedFile, ("pk",)) is not None


def _parameter(column: str) -> Any:
    field: Any = QueuedFile._meta.get_field(column)
    return Parameter(column, field)


def _named(rows: Rows) -> models.QuerySet[Any]:
    return rows.named(_parameter("alias"), _parameter("name"))


def _row_text(rows: Rows) -> Text:
    return select_text(_named(rows))


def _entry_text(rows: Rows) -> Text:
    return select_text(_named(rows).values_list(*ENTRY_FIELDS))


def _locked_entry_text(rows: Rows) -> Text:
    """The rows are a queryset with ``select_for_update()``."""
    return _entry_text(rows)


def _still_local_text(rows: Rows) -> Text:
    found = rows.filter(pk=_parameter("id"), generation=_parameter("generation"), is_local=True)
    return select_text(found.exclude(state=State.DELETING).values_list("pk"))
