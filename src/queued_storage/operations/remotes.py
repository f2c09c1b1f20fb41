"""Pause, resume or probe the remote of a storage."""

from enum import Enum
from typing import Any

from ..exceptions import UnknownAlias
from ..ledger.aliases import AliasedStorage, storage_for
from ..ledger.availability import availability_of, place_of
from ..ledger.database import on_commit
from ..ledger.remotes import Remote, Remotes, remotes
from ..queues.sweep import sweep
from ..transfers import probing, watching
from ..transfers.announcing import announce


class Probed(Enum):
    """What became of the request to probe a remote."""

    WAS_OPEN = "nothing was to be done"
    IS_PAUSED = "only resume() opens it"
    PROBED = "it was probed"


def pause(alias: str) -> int:
    """Upload, delete and evict nothing until ``resume()``; return 0 if it is paused already.

    A remote that nothing was uploaded to yet is recorded. ``UnknownAlias`` is raised if neither the
    ledger nor this process knows the alias.
    """
    return _steer(alias, rows(alias, registers=True), Remotes.pause)


def resume(alias: str) -> int:
    """Open a paused remote, and enqueue what waits for it; return 0 if it is not paused."""
    found = rows(alias)
    count = _steer(alias, found, lambda row: row.resume(probing.HOLD))
    if count:
        on_commit(lambda: _enqueue(alias, found))
    return count


def _enqueue(alias: str, opened: Remotes) -> None:
    try:
        sweep(alias)
    finally:
        opened.all().finish_opening()


def probe(alias: str) -> Probed:
    """Find out now whether a closed remote works, and open it if it does.

    This calls the remote, and takes as long as that does. Raises ``UnknownAlias`` if this process
    has no such storage.
    """
    storage_for(alias)  # raises
    before = availability_of(alias)
    if before is None or before.is_open:
        return Probed.WAS_OPEN
    if before.is_paused:
        return Probed.IS_PAUSED
    probing.probe_now(alias)
    return Probed.PROBED


def request_probe(alias: str) -> int:
    """Let a thread probe a closed remote at once; return 0 if it is open or paused.

    No request may wait for a remote.
    """
    count = rows(alias).request_probe()
    if count:
        on_commit(watching.probe_soon)
    return count


def _steer(alias: str, found: Remotes, verb: Any) -> int:
    """Change the rows one by one, and tell of each that has changed."""
    count = 0
    for before in found:
        row = remotes().filter(pk=before.pk)
        if verb(row):
            count += 1
            _tell(row.get(), before)
    return count


def _tell(remote: Remote, before: Remote) -> None:
    try:
        storage: AliasedStorage | None = storage_for(remote.alias)
    except UnknownAlias:
        storage = None
    on_commit(lambda: announce(storage, remote, before))


def rows(alias: str, *, registers: bool = False) -> Remotes:
    """The remote at the place that is configured here; all of an alias that is not known here.

    ``UnknownAlias`` is raised if the ledger does not know it either.
    """
    try:
        place = place_of(storage_for(alias))
    except UnknownAlias:
        found = remotes().filter(alias=alias)
        if "\0" in alias or not found.exists():  # PostgreSQL takes no NUL character
            raise
        return found
    if registers:
        remotes().register(alias, place)
    return remotes().at(alias, place.digest)
