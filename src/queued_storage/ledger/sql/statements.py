"""Cache the compiled SQL of the few statements that a worker executes for every file.

Django takes about ten times as long to compile such a statement as SQLite takes to execute it.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from django.conf import settings as django_settings
from django.db import connections, models, transaction
from django.db.models.sql import Query
from django.db.models.sql.subqueries import DeleteQuery, UpdateQuery

from ...conf import settings
from .outages import outlast

AnyModel = TypeVar("AnyModel", bound=models.Model)

CACHE_SIZE = 500  # texts; far fewer are in use at a time


class Parameter(models.Value):
    """An expression whose value, a number or a text, is known only when it is executed."""

    def __init__(self, name: str, field: models.Field) -> None:
        super().__init__(name, output_field=field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        """Leave the parameter itself among the query's parameters, for ``Text`` to find."""
        return "%s", [self]


class Statement(NamedTuple):
    """An SQL statement with its parameters.

    Each method executes it. Unless the method says otherwise, that outlasts a short outage.
    """

    database: str
    sql: str
    parameters: Sequence[Any]

    def execute(self) -> int:
        """Return the number of rows that the statement changed."""
        return outlast(self._count, self.database)

    def first_column(self) -> list[Any]:
        """Return the first column of the rows that the statement selects or returns."""
        return [row[0] for row in outlast(self._fetch, self.database)]

    def instances(self, model: type[AnyModel]) -> list[AnyModel]:
        """Return the rows as instances of the model, all of whose columns they must have."""
        rows = outlast(self._fetch, self.database)
        form = self._form(model)
        return [model.from_db(self.database, form.names, form.values(row)) for row in rows]

    def first_values(
        self, model: type[models.Model], names: tuple[str, ...] = ()
    ) -> list[Any] | None:
        """Return the first row, with these fields or all of them. No outage is outlasted."""
        rows = self._fetch()
        return self._form(model, names).values(rows[0]) if rows else None

    def first_instance(self, model: type[AnyModel]) -> AnyModel | None:
        """Like ``instances()``, but only the first one, and no outage is outlasted."""
        values = self.first_values(model)
        if values is None:
            return None
        return model.from_db(self.database, self._form(model).names, values)

    def _form(self, model: type[models.Model], names: tuple[str, ...] = ()) -> "_Form":
        zone = connections[self.database].timezone_name
        return _form_of(model, self.database, names, django_settings.USE_TZ, zone)

    def _count(self) -> int:
        with connections[self.database].cursor() as cursor:
            cursor.execute(self.sql, self.parameters)
            return int(cursor.rowcount)

    def _fetch(self) -> list[Any]:
        with connections[self.database].cursor() as cursor:
            cursor.execute(self.sql, self.parameters)
            return list(cursor.fetchall())


class _Form:
    """How fields of a model are read, which takes longer to find out than to do."""

    def __init__(self, model: type[models.Model], database: str, names: tuple[str, ...]) -> None:
        known = {field.name: field for field in model._meta.concrete_fields}
        if model._meta.pk is not None:
            known["pk"] = model._meta.pk
        fields = [known[name] for name in names] or model._meta.concrete_fields
        columns = [field.get_col(model._meta.db_table) for field in fields]
        # That of a thread would stay open after its end, since converters refer to theirs.
        self._connection = connections.create_connection(database)
        compiler = Query(model).get_compiler(connection=self._connection)
        self._converters = compiler.get_converters(columns).items()
        self.names = [field.attname for field in fields]

    def values(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for place, (converters, column) in self._converters:
            for convert in converters:
                values[place] = convert(values[place], column, self._connection)
        return values


@cache
def _form_of(
    model: type[models.Model], database: str, names: tuple[str, ...], *_circumstances: Hashable
) -> _Form:
    """Return how these fields, or all, are read in the circumstances of the call."""
    return _Form(model, database, names)


class Text:
    """A compiled statement without the values of its ``Parameter`` expressions."""

    def __init__(self, sql: str, parameters: Iterable[Any]) -> None:
        self._sql = sql
        self._parameters = list(parameters)
        self._places = [
            (place, each)
            for place, each in enumerate(self._parameters)
            if isinstance(each, Parameter)
        ]
        self._names = {parameter.name for _place, parameter in self._places}

    def with_values(self, database: str, values: Mapping[str, int | str | None]) -> Statement:
        """``ValueError`` is raised unless there is exactly one value for each parameter."""
        if values.keys() != self._names:
            raise ValueError(f"{self._sql!r} takes {self._names}, not {set(values)}.")
        connection = connections[database]
        has_sizes = connection.vendor == "postgresql"  # a class for each size of integers
        parameters = self._parameters.copy()
        for place, parameter in self._places:
            value = values[parameter.name]
            if has_sizes and isinstance(value, int):
                value = parameter.output_field.get_db_prep_value(value, connection)
            parameters[place] = value
        return Statement(database, self._sql, parameters)


def select_text(rows: models.QuerySet[Any, Any]) -> Text:
    """Compile the SELECT of all columns, or of the chosen ones."""
    return Text(*rows.query.get_compiler(rows.db).as_sql())


def delete_text(rows: models.QuerySet[Any]) -> Text:
    """Compile the DELETE of rows of a model that no other one refers to."""
    return Text(*rows.query.chain(DeleteQuery).get_compiler(rows.db).as_sql())


def first_text(
    parts: Sequence[models.QuerySet[Any, Any]], order: Sequence[str], limit: int
) -> Text:
    """Compile the SELECT of the first rows of several querysets together, in the order of columns.

    Each part may have an order, a limit and locks of its own. Django's ``union()`` refuses them.
    """
    if len(parts) == 1:
        return select_text(parts[0])
    compiled = [part.query.get_compiler(part.db).as_sql() for part in parts]
    quote = connections[parts[0].db].ops.quote_name
    union = " UNION ALL ".join(
        f"SELECT * FROM ({sql}) part_{number}" for number, (sql, _values) in enumerate(compiled)
    )
    sql = f"SELECT * FROM ({union}) parts ORDER BY {', '.join(map(quote, order))} LIMIT {limit}"
    return Text(sql, [value for _sql, values in compiled for value in values])


def update_text(
    rows: models.QuerySet[Any],
    columns: Mapping[str, Any],
    returning: Sequence[models.Field] = (),
    *,
    skips_locked: bool = False,
) -> Text:
    """Compile what ``rows.update(**columns)`` would execute.

    With ``skips_locked``, it leaves out rows that somebody has locked, on PostgreSQL. Others cannot
    do that in an UPDATE.

    Where the database ``returns_rows()``, the statement can return columns of the rows that it
    changes. Django 5.2 has no method for that.
    """
    if skips_locked and connections[rows.db].vendor == "postgresql":
        keys = rows.select_for_update(skip_locked=True).values("pk")
        unlocked = rows.model._base_manager.using(rows.db).filter(pk__in=keys)
        with transaction.atomic(using=rows.db):  # Django refuses it elsewhere
            return update_text(unlocked, columns, returning)
    query: Any = rows.query.chain(UpdateQuery)
    query.add_update_values(columns)
    query.clear_select_clause()
    sql, parameters = query.get_compiler(rows.db).as_sql()
    if returning:
        quote = connections[rows.db].ops.quote_name
        table = quote(rows.model._meta.db_table)  # SQLite takes "x" for a text if no column is x
        names = (f"{table}.{quote(str(field.column))}" for field in returning)
        sql += f" RETURNING {', '.join(names)}"
    return Text(sql, parameters)


def returns_rows(database: str) -> bool:
    """Whether an UPDATE can return the rows that it changed."""
    connection = connections[database]
    # Django 5.2 knows this of INSERT only. SQLite and PostgreSQL support both, MariaDB does not.
    return connection.vendor != "mysql" and connection.features.can_return_columns_from_insert


def statement(
    rows: models.QuerySet[Any], build: Callable[..., Text], *form: Hashable, **values: Any
) -> Statement:
    """The statement of the text ``build(rows, *form)``, which is called once per form.

    ``build`` must depend on nothing but its arguments and ``_circumstances()``. Everything that
    differs from one execution to the next must be a ``Parameter``.
    """
    if rows.query.where:
        raise ValueError("Cached statements are for the whole table; this queryset is filtered.")
    circumstances = _circumstances()
    key = (rows.db, build, form, circumstances)
    text = _texts.get(key)
    if text is None:
        text = build(rows, *form)
        if circumstances == _circumstances():  # no setting changed in the meantime
            if len(_texts) >= CACHE_SIZE:
                _texts.clear()
            _texts[key] = text
    return text.with_values(rows.db, values)


_texts: dict[Hashable, Text] = {}


def _circumstances() -> tuple[str | None, float, float]:
    """What the text of any statement of the ledger can depend on: host, lease, longest wait."""
    values = settings.values
    host = settings.host if values["LOCAL_PER_HOST"] else None
    return host, values["LEASE"], settings.max_wait
