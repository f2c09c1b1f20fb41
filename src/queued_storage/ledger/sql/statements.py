"""Keeps the text of a statement that the ORM wrote, to have it executed with other values.

To write one takes the ORM some ten times as long as SQLite takes to execute it.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from django.db import connections, models

AnyModel = TypeVar("AnyModel", bound=models.Model)
Value = int | str

KEPT_MAX = 500  # texts; so many forms are never in use at a time
FIRST_NUMBER = 1_999_990_000  # that stands in for one; it and those after it fit into 32 bits


class Statement(NamedTuple):
    """An SQL statement for one of the databases, and its parameters."""

    database: str
    sql: str
    parameters: list[Any]

    def execute(self) -> int:
        """Returns how many rows it has changed."""
        with connections[self.database].cursor() as cursor:
            cursor.execute(self.sql, self.parameters)
            return int(cursor.rowcount)

    def values(self) -> list[Any]:
        """Those of the first column."""
        with connections[self.database].cursor() as cursor:
            cursor.execute(self.sql, self.parameters)
            return [row[0] for row in cursor.fetchall()]

    def returning(self, *columns: str) -> "Statement":
        """The same UPDATE, with these columns of the rows that it changes for an answer, on a
        database that ``returns_rows()``."""
        quoted = map(connections[self.database].ops.quote_name, columns)
        return self._replace(sql=f"{self.sql} RETURNING {', '.join(quoted)}")

    def changed(self, model: type[AnyModel]) -> list[AnyModel]:
        """The rows that this UPDATE changes, on such a database."""
        connection = connections[self.database]
        fields = model._meta.concrete_fields
        returning = self.returning(*(str(field.column) for field in fields))
        with connection.cursor() as cursor:
            cursor.execute(returning.sql, returning.parameters)
            rows: Iterable[Sequence[Any]] = cursor.fetchall()
        compiler = model._base_manager.using(self.database).query.get_compiler(self.database)
        columns = [field.get_col(model._meta.db_table) for field in fields]
        if converters := compiler.get_converters(columns):
            rows = compiler.apply_converters(rows, converters)
        names = [field.attname for field in fields]
        return [model.from_db(self.database, names, row) for row in rows]


def returns_rows(database: str) -> bool:
    """Whether an UPDATE can return the rows that it changed."""
    connection = connections[database]
    # Django asks about INSERT only. SQLite and PostgreSQL make no difference, but MariaDB does.
    return connection.vendor != "mysql" and connection.features.can_return_columns_from_insert


def statement(
    database: str, key: Callable[[], Hashable], write: Callable[..., object], *values: Value
) -> Statement:
    """What ``write(*values)`` would send to the database; it is not sent.

    ``write`` is called once for a ``key()``, with other values, so that must hold all that the
    text depends on, and each value must be a parameter of the text, as it is.
    """
    known_by = (database, key(), len(values))
    if (text := _kept.get(known_by)) is None:
        text = _Text(database, write, values)
        if len(_kept) >= KEPT_MAX:
            _kept.clear()
        if known_by[1] == key():  # else it may be that of the old one, or that of the new
            _kept[known_by] = text
    return text.with_values(values)


class _Text:
    """A statement, and which of its parameters are values that change."""

    def __init__(
        self, database: str, write: Callable[..., object], values: Sequence[Value]
    ) -> None:
        self._database = database
        stand_ins = [_stand_in(number, value) for number, value in enumerate(values)]
        self._sql, self._parameters = _noted(database, write, stand_ins)
        self._places = [
            (place, stand_ins.index(parameter))
            for place, parameter in enumerate(self._parameters)
            if parameter in stand_ins
        ]
        found = {number for _place, number in self._places}
        derived = (str(each) for each in self._parameters if each not in stand_ins)
        if len(found) < len(values) or any(_STAND_IN in each for each in derived):
            raise ValueError(f"{self._sql!r} has not exactly {values!r} for parameters.")

    def with_values(self, values: Sequence[Value]) -> Statement:
        parameters = self._parameters.copy()
        for place, number in self._places:
            # PostgreSQL's numbers are of classes of their own.
            parameters[place] = type(parameters[place])(values[number])
        return Statement(self._database, self._sql, parameters)


_kept: dict[Hashable, _Text] = {}
_STAND_IN = "the text of no value"


def _stand_in(number: int, value: Value) -> Value:
    return f"{_STAND_IN} {number}" if isinstance(value, str) else FIRST_NUMBER + number


class _Noted(BaseException):
    """No error, so that nothing is done about it: a transaction would have to be rolled back."""


def _noted(
    database: str, write: Callable[..., object], values: Sequence[Value]
) -> tuple[str, list[Any]]:
    found: list[tuple[str, list[Any]]] = []

    def note(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        if params is None:  # a question that Django asks the server meanwhile, such as its version
            return execute(sql, params, many, context)
        found.append((sql, list(params)))
        raise _Noted

    connection = connections[database]
    connection.ensure_connection()  # some execute statements when there is a new one
    connection.execute_wrappers.insert(0, note)  # before others, who would take it for sent
    try:
        write(*values)
    except _Noted:
        if connection.queries_logged:
            connection.queries_log.pop()
        return found[0]
    finally:
        connection.execute_wrappers.remove(note)
    raise ValueError(f"{write!r} sends no statement.")
