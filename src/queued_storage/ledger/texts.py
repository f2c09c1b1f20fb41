"""The texts of the statements that a worker executes for every file."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Cast, Concat

from ..conf import settings
from .models import QueuedFile
from .priorities import OVERDUE, PRIORITIES
from .rows import Rows, is_overdue, when_unclaimed
from .sql.clock import DatabaseNow, seconds_from_now
from .sql.statements import (
    Parameter,
    Text,
    first_text,
    returns_rows,
    select_text,
    update_text,
)
from .states import CLAIM_COLUMNS, CLAIMABLE, Claim, State


class Moment(Enum):
    """A time of the database's clock, in place of a value."""

    NOW = auto()
    LEASE_END = auto()  # of a lease that begins or is renewed now

    def expression(self) -> models.Expression:
        return DatabaseNow() if self is Moment.NOW else seconds_from_now(settings.lease)


def form_and_values(
    columns: Mapping[str, Any],
) -> tuple[list[tuple[str, Moment | None]], dict[str, Any]]:
    """Split the columns that a statement sets into what its text depends on, and its values."""
    moments = {name: value for name, value in columns.items() if isinstance(value, Moment)}
    form = [(name, moments.get(name)) for name in columns]
    return form, {name: columns[name] for name in columns if name not in moments}


def expressions(
    form: Iterable[tuple[str, Moment | None]], parameter: Callable[[str], Any]
) -> dict[str, Any]:
    """What the columns of such a form are set to."""
    return {column: moment.expression() if moment else parameter(column) for column, moment in form}


def _parameter(column: str, name: str = "") -> Any:
    field: Any = QueuedFile._meta.get_field(column)
    return Parameter(name or column, field)


def rounded(count: int) -> int:
    """Round up to a number of rows that texts exist for: 1, 2, 3, 4, 6, 8, 12, 16, 24, ...

    Compiling a text takes as long as processing several files, and a busy worker would need one for
    almost every number.
    """
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= count else power


def padded(pks: Sequence[int]) -> list[int]:
    """Repeat the last key until there are as many as in a text. ``IN`` ignores duplicates."""
    return [*pks, *[pks[-1]] * (rounded(len(pks)) - len(pks))]


def numbered(keys: Iterable[int]) -> dict[str, int]:
    """The values of ``_numbered_keys()``."""
    return {f"id {number}": key for number, key in enumerate(keys)}


def _numbered_keys(count: int) -> list[Any]:
    return [_parameter("id", f"id {number}") for number in range(count)]


CLAIMED = [f"claimed {column}" for column in CLAIM_COLUMNS]


def claimed_text(rows: Rows, *form: tuple[str, Moment | None]) -> Text:
    claim = Claim(*map(_parameter, CLAIM_COLUMNS, CLAIMED))
    return update_text(rows.under_claim(claim), expressions(form, _parameter))


def numbered_aliases(aliases: Iterable[str]) -> dict[str, str]:
    """The values of ``due_text()``."""
    return {f"alias {number}": alias for number, alias in enumerate(aliases)}


def due_text(rows: Rows, limit: int, aliases: int, opened_lately: int) -> Text:
    """The first due rows of a number of aliases, the last ones of which were ``opened_lately``.

    The index has a range for each alias and priority, whose first ``limit`` rows are read and
    locked. So rows of other aliases are not read, however many are due. The rows of a range that
    have waited for too long are its first ones, so they need no search of their own.
    """
    due = rows.due().claimable().exclude(state=State.TRANSFERRING).workable_here()
    parts = [
        due.filter(alias=_parameter("alias", f"alias {number}"), priority=priority)
        .annotate(turn=_turn(priority, was_opened_lately=number >= aliases - opened_lately))
        .order_by("due_at")
        .unlocked("id", "turn", "due_at")[:limit]
        for number in range(aliases)
        for priority in PRIORITIES
    ]
    return first_text(parts, ["turn", "due_at"], limit)


def _turn(priority: int, *, was_opened_lately: bool) -> Case:
    overdue = When(is_overdue(was_opened_lately=was_opened_lately), then=Value(OVERDUE))
    return Case(overdue, default=Value(priority), output_field=models.SmallIntegerField())


def take_text(
    rows: Rows,
    count: int,
    trying: Collection[str],
    chosen: Callable[[Any], Any] = lambda due: due,
    attempts: Any = None,
    skips_locked: bool = False,
) -> Text:
    """No index helps with the condition. MariaDB would sometimes use that of ``due_at`` instead of
    the primary key, lock every due row, and end the transactions of others by a deadlock."""
    is_work = Q(due_at__lte=DatabaseNow(), state__in=CLAIMABLE)
    is_due = Case(When(is_work, then=Value(True)), default=Value(False))
    rows = rows.filter(pk__in=_numbered_keys(count)).workable_here()
    starts = When(state=State.PENDING, then=Value(State.TRANSFERRING))
    token = _parameter("lease_token", "token")
    columns = {
        "unconfirmed": _tried_in(trying, token),
        "attempts": attempts or F("attempts") + 1,
        "state": Case(starts, default=F("state")),
        "due_at": seconds_from_now(settings.lease),
        "lease_token": token,
        "sent": 0,
    }
    fields = QueuedFile._meta.concrete_fields if returns_rows(rows.db) else ()
    due = chosen(rows.alias(is_due=is_due).filter(is_due=True))
    return update_text(due, columns, fields, skips_locked=skips_locked)


def _tried_in(aliases: Collection[str], token: Parameter) -> Case:
    """What ``mark_tried()`` records, for the new files of these aliases: see ``Sending``."""
    is_new = Q(state=State.PENDING, remote_name="", unconfirmed="")
    is_known = Q(alias__in=aliases, checksum__startswith="crc32:")
    size = Cast("size", models.CharField())
    tried = Concat(size, Value(" "), "checksum", Value(" "), token)
    return Case(When(is_new & is_known, then=tried), default=F("unconfirmed"))


def promote_text(rows: Rows, count: int) -> Text:
    claimed = rows.filter(
        pk__in=_numbered_keys(count),
        state=State.TRANSFERRING,
        generation=_parameter("generation"),
        lease_token=_parameter("lease_token", "token"),
    )
    columns = {
        "state": State.TRANSFERRED,
        "remote_name": F("name"),
        "unconfirmed": "",
        "verified": _parameter("verified"),
        "last_error": "",
        "transferred_at": DatabaseNow(),
        "due_at": None,
        "lease_token": "",
    }
    return update_text(claimed, columns, [QueuedFile._meta.get_field("id")], skips_locked=True)


def exchange_text(rows: Rows, count: int) -> Text:
    """Let files that are under one claim be at another place, under their own names."""
    claimed = rows.filter(
        pk__in=_numbered_keys(count),
        state=State.TRANSFERRED,
        generation=_parameter("generation"),
        lease_token=_parameter("lease_token", "token"),
    )
    columns = {
        "place": _parameter("place"),
        "remote_name": F("name"),
        "unconfirmed": "",
        "verified": _parameter("verified"),
        "last_error": "",
        "due_at": None,
        "lease_token": "",
    }
    returned = [QueuedFile._meta.get_field("id")] if returns_rows(rows.db) else []
    return update_text(claimed, columns, returned, skips_locked=True)


def row_text(rows: Rows) -> Text:
    return select_text(rows.filter(pk=_parameter("id")))


# New content of a file, with the columns that differ from file to file
CONTENT_COLUMNS = ("task", "place", "priority", "size", "checksum", "content_type", "host")


def new_content(state: State, values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that gets new content, by the values of ``CONTENT_COLUMNS``."""
    # What lies at the old place must be found there, to be overwritten or removed.
    was_never_sent = When(remote_name="", unconfirmed="", then=values["place"])
    return {
        **values,
        "place": Case(was_never_sent, default=F("place")),
        "state": state,
        "verified": "",
        "attempts": 0,
        "last_error": "",
        "saved_at": DatabaseNow(),
        "transferred_at": None,
        "evicted_at": None,
        "failures": [],
    }


def overwrite_text(
    rows: Rows, state: State, was_deleted: bool, was_local: bool, is_local: bool
) -> Text:
    same = rows.filter(pk=_parameter("id"), generation=_parameter("generation"), is_local=was_local)
    deleted = Q(state=State.DELETING)
    columns = {
        "due_at": when_unclaimed() if state is State.PENDING else None,
        **new_content(state, {name: _parameter(name) for name in CONTENT_COLUMNS}),
        "is_local": is_local,
        "generation": F("generation") + 1,
    }
    return update_text(same.filter(deleted if was_deleted else ~deleted), columns)


def lock_text(rows: Rows) -> Text:
    same = rows.filter(pk=_parameter("id"), generation=_parameter("generation"))
    return update_text(same.exclude(state=State.DELETING), {"generation": F("generation")})


def passed_text(rows: Rows, held: bool) -> Text:
    """Let a file be transferred whose steps have all passed, and that was published before."""
    passed = rows.filter(
        pk=_parameter("id"), generation=_parameter("generation"), state=State.PREPARING
    )
    state = State.HELD if held else State.PENDING
    return update_text(passed, {"due_at": None if held else DatabaseNow(), "state": state})
