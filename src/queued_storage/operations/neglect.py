"""Storages whose files nobody processes, or of which no file succeeds any more."""

import shlex
from datetime import datetime, timedelta

from ..ledger import measures
from ..ledger.aliases import known_storages
from ..ledger.availability import in_use, reachable
from ..ledger.database import ledger
from ..ledger.measures import aliases
from ..ledger.sql.clock import DatabaseNow, seconds_from_now
from ..ledger.states import State
from ..reporting.counts import about, counted

MAX_IDLE = timedelta(minutes=5)  # for which files may be due while no worker does anything
MAX_FAILING = 2  # files that may fail while none succeeds
TRIED = (State.PENDING, State.TRANSFERRING, State.FAILED)


def idle(longest: timedelta = MAX_IDLE) -> list[str]:
    """The storages of which files have been due for longer than that, while no worker has one in
    hand, and none was transferred; and what to do.

    Files that wait for a closed remote don't count, and after an outage workers have that time.
    """
    limit = longest.total_seconds()
    known = {storage.alias for storage in known_storages()}
    return [
        counted(files, "{} file of", "{} files of")
        + f" {alias!r} {counted(files, 'has', 'have')} been due for more than {about(limit)}, and "
        f"no worker has processed any of the storage since. Run a worker: "
        f"'manage.py queued_storage worker'."
        for alias in reachable(aliases(), in_use(), limit)
        if alias in known
        and (files := _unclaimed(alias, limit))
        and not _is_worked_on(alias, limit)
    ]


def _unclaimed(alias: str, limit: float) -> int:
    late = ledger().filter(lease_token="", due_at__lte=seconds_from_now(-limit))
    return sum(rows.count() for rows in late.ranges([alias]))


def _is_worked_on(alias: str, limit: float) -> bool:
    claimed = ledger().filter(due_at__gt=DatabaseNow()).exclude(lease_token="")
    if any(rows.exists() for rows in claimed.ranges([alias])):
        return True
    lately = ledger().filter(alias=alias, state=State.TRANSFERRED)
    return lately.filter(transferred_at__gt=seconds_from_now(-limit)).exists()


def failing(tolerated: int = MAX_FAILING) -> list[str]:
    """The storages of which more files than ``tolerated`` were saved and have failed since the last
    transfer, so that every attempt of these has failed; and what to do.

    Files that wait for a closed remote don't count.
    """
    found = []
    for alias in reachable(aliases(), in_use()):
        last = measures.last_transfer(alias)
        count = _failed_since(alias, last, tolerated + 1)
        if count > tolerated:
            since = f"the last transfer at {last:%Y-%m-%d %H:%M:%S}" if last else "the beginning"
            files = counted(count, "{} file", "{} files")
            found.append(
                f"No attempt to transfer a file of {alias!r} has succeeded since {since}, and at "
                f"least {files} failed. Run 'manage.py queued_storage status' to see the errors, "
                f"and 'manage.py queued_storage check-remote {shlex.quote(alias)}' to test the "
                f"remote."
            )
    return found


def _failed_since(alias: str, last: datetime | None, most: int) -> int:
    """Count files, up to ``most``. With one query for each state, SQLite doesn't read all rows."""
    count = 0
    for state in TRIED:
        rows = ledger().filter(alias=alias).in_state(state).exclude(last_error="").order_by()
        if last is not None:
            rows = rows.filter(saved_at__gt=last)
        count += rows.values("pk")[: most - count].count() if count < most else 0
    return count
