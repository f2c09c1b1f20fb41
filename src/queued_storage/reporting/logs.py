"""Log records of one line, with fields that tell which file they are about."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from .reasons import one_line

# The fields of every record, None if they don't apply. The prefix avoids conflicts with fields
# of a project's own record factory.
KEYS = (
    "queued_file",  # id of the row
    "queued_storage",  # alias
    "queued_name",
    "queued_state",  # when the worker began
    "queued_attempt",
    "queued_host",  # that saved the file
    "queued_error",  # name of the class
)

_fields: ContextVar[dict[str, Any] | None] = ContextVar("queued_storage_log_fields", default=None)


class Row(Protocol):
    """What a log record needs to know of a row of the ledger."""

    pk: Any
    alias: Any
    name: Any
    state: Any
    attempts: Any
    host: Any


def fields_of(row: Row) -> dict[str, Any]:
    """Return the fields of a record about this file, for ``extra``."""
    return {
        "queued_file": row.pk,
        "queued_storage": row.alias,
        "queued_name": row.name,
        "queued_state": str(row.state),
        "queued_attempt": row.attempts,
        "queued_host": row.host,
    }


@contextmanager
def about(row: Row) -> Iterator[None]:
    """Add the fields of this file to all records that this thread logs in the block."""
    token = _fields.set(fields_of(row))
    try:
        yield
    finally:
        _fields.reset(token)


class _Fields(logging.Filter):
    """Add the fields, and escape control characters in them and in the message's arguments."""

    def filter(self, record: logging.LogRecord) -> bool:
        known = _fields.get() or {}
        for key in KEYS:
            value = getattr(record, key, known.get(key))
            setattr(record, key, one_line(value) if isinstance(value, str) else value)
        if isinstance(record.args, tuple):
            error = next((arg for arg in record.args if isinstance(arg, BaseException)), None)
            if record.exc_info and record.exc_info[1]:
                error = record.exc_info[1]
            if error is not None and record.__dict__["queued_error"] is None:
                record.__dict__["queued_error"] = type(error).__name__
            record.args = tuple(map(_safe, record.args))
        if record.exc_info and record.exc_info[1] and not record.exc_text:
            record.exc_text = _safe_traceback(record.exc_info[1])
        return True


def _safe_traceback(error: BaseException) -> str | None:
    """Return the traceback for a formatter; None if it is safe to format in the usual way."""
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    if text.replace("\n", "").isprintable():
        return None
    return "\n".join(map(one_line, text.split("\n")))


def _safe(argument: object) -> object:
    return argument if isinstance(argument, int | float) else one_line(str(argument))


logger = logging.getLogger("queued_storage")
if not any(isinstance(each, _Fields) for each in logger.filters):
    logger.addFilter(_Fields())
