"""How much is done, counted where a clock would depend on the machine."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.db import connection

PACKAGE = "queued_storage"


def functions_called(work: Callable[[], object]) -> list[str]:
    """Return the functions of the package that the call of this one calls, in their order."""
    found: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and str(frame.f_globals.get("__name__")).startswith(f"{PACKAGE}."):
            found.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found


@contextmanager
def steps_of_sqlite(every: int = 100) -> Iterator[list[None]]:
    """Have a list that grows by an entry for so many instructions that SQLite executes."""
    found: list[None] = []
    connection.ensure_connection()
    raw: Any = connection.connection
    raw.set_progress_handler(lambda: found.append(None), every)
    try:
        yield found
    finally:
        raw.set_progress_handler(None, 0)
