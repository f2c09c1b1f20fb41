"""The texts of the statements that a worker executes for every file with steps."""

from typing import Any

from django.db.models import Case, F, PositiveIntegerField, Q, When

from ..conf import settings
from .preparations import Preparation, Preparations, living
from .sql.clock import seconds_from_now
from .sql.statements import (
    Parameter,
    Text,
    delete_text,
    returns_rows,
    select_text,
    update_text,
)
from .supervision import ALONE
from .texts import Moment, expressions


def _parameter(column: str, name: str = "") -> Any:
    field: Any = Preparation._meta.get_field(column)
    return Parameter(name or column, field)


def claim_text(rows: Preparations, is_suspect: bool) -> Text:
    """The last attempt of a suspect counts only if its worker had claimed it alone."""
    due = rows.filter(pk=_parameter("id")).due()
    is_innocent = When(~Q(lease_token__startswith=ALONE), then=F("attempts"))
    count = F("attempts") + 1
    counted = Case(is_innocent, default=count, output_field=PositiveIntegerField())
    columns = {
        "attempts": counted if is_suspect else count,
        "due_at": seconds_from_now(settings.lease),
        "lease_token": _parameter("lease_token"),
    }
    fields = Preparation._meta.concrete_fields if returns_rows(rows.db) else ()
    return update_text(due.suspects() if is_suspect else due.new(), columns, fields)


def claimed_text(rows: Preparations) -> Text:
    return select_text(rows.filter(pk=_parameter("id"), lease_token=_parameter("lease_token")))


def _of_claim(rows: Preparations) -> Preparations:
    return rows.filter(
        file=_parameter("file", "claimed file"),
        lease_token=_parameter("lease_token", "claimed token"),
    )


def current_text(rows: Preparations, *form: tuple[str, Moment | None]) -> Text:
    """Change a preparation if the claim is valid, and its file has no other content by now."""
    generation = _parameter("generation", "claimed generation")
    file = living(_parameter("file", "claimed file"), generation).using(rows.db)
    current = _of_claim(rows).filter(generation=generation, file__in=file.values("pk"))
    return update_text(current, expressions(form, _parameter))


def drop_text(rows: Preparations) -> Text:
    return delete_text(_of_claim(rows))
