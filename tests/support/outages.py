"""Remotes in a given state, without a request to one."""

from typing import Any

from queued_storage.ledger.remotes import Remote, RemoteState, remotes
from queued_storage.ledger.sql.clock import seconds_from_now

ERROR = "ConnectionError: The remote is down."


def registered(storage: Any) -> Any:
    """Return the query of the storage's remote, which is open if it was not known."""
    remote = remotes().register(storage.alias, storage.remote_place)
    return remotes().filter(pk=remote.pk)


def close(
    storage: Any, state: str = RemoteState.AWAY, *, ago: float = 0.0, probe_in: float = 20.0
) -> Remote:
    """Close the storage's remote, ``ago`` seconds ago."""
    rows = registered(storage)
    if state == RemoteState.PAUSED:
        rows.pause()
    else:
        rows.close(state, ERROR, probe_in)
    if ago:
        rows.update(since=seconds_from_now(-ago))
    found: Remote = rows.get()
    return found
