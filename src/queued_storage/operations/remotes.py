"""Pause, resume or probe the remotes of a storage."""

from collections.abc import Callable
from enum import Enum

from ..exceptions import UnknownAlias
from ..ledger.aliases import AliasedStorage, storage_for
from ..ledger.availability import Availability, availabilities, availability_of, place_of
from ..ledger.database import on_commit
from ..ledger.remotes import Remote, Remotes, remotes
from ..queues.sweep import sweep
from ..transfers import probing, watching
from ..transfers.announcing import announce
from ..transfers.gates import gates


class Probed(Enum):
    """What became of the request to probe a remote."""

    WAS_OPEN = "nothing was to be done"
    IS_PAUSED = "only resume() opens it"
    PROBED = "it was probed"


class UnknownRemote(LookupError):
    """A storage has no remote of this name."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names  # of those that it has


# In what follows, ``place`` is the digest of the place of a remote: a mirror, a previous one or the
# present one, which is meant by None.


def named(alias: str, name: str) -> Availability:
    """Return the remote of a storage with this key in ``STORAGES``, or at the place with this
    description.

    ``UnknownAlias`` or ``UnknownRemote`` is raised if there is none.
    """
    its = [each for each in availabilities() if each.alias == alias]
    if not its:
        storage_for(alias)  # raises
    for each in its:
        if name and name in (each.name, each.place):
            return each
    raise UnknownRemote([each.name or each.place for each in its])


def pause(alias: str, place: int | None = None) -> int:
    """Upload, copy, move, delete and evict nothing until ``resume()``, and read from mirrors where
    there are some; return 0 if it is paused already.

    A remote that nothing was uploaded to yet is recorded. ``UnknownAlias`` is raised if neither the
    ledger nor this process knows the alias.
    """
    return _steer(rows(alias, place, registers=True), Remotes.pause)


def resume(alias: str, place: int | None = None) -> int:
    """Open a paused remote, and enqueue what waits for it; return 0 if it is not paused."""
    found = rows(alias, place)
    count = _steer(found, lambda row: row.resume(probing.HOLD))
    if count:
        on_commit(lambda: _enqueue(alias, found))
    return count


def _enqueue(alias: str, opened: Remotes) -> None:
    try:
        sweep(alias)
    finally:
        opened.all().finish_opening()


def probe(alias: str, place: int | None = None) -> Probed:
    """Find out now whether a closed remote works, and open it if it does.

    This calls the remote, and takes as long as that does. Raises ``UnknownAlias`` if this process
    has no such storage.
    """
    storage_for(alias)  # raises
    before = availability_of(alias, place)
    if before is None or before.is_open:
        return Probed.WAS_OPEN
    if before.is_paused:
        return Probed.IS_PAUSED
    probing.probe_now(alias, place)
    return Probed.PROBED


def request_probe(alias: str, place: int | None = None) -> int:
    """Let a thread probe a closed remote at once; return 0 if it is open or paused.

    No request may wait for a remote.
    """
    count = rows(alias, place).request_probe()
    if count:
        on_commit(watching.probe_soon)
    return count


def _steer(found: Remotes, verb: Callable[[Remotes], int]) -> int:
    """Change the rows one by one, and tell of each that has changed."""
    count = 0
    for before in found:
        row = remotes().filter(pk=before.pk)
        if verb(row):
            count += 1
            _tell(row.get(), before)
    gates.forget()
    return count


def _tell(remote: Remote, before: Remote) -> None:
    try:
        storage: AliasedStorage | None = storage_for(remote.alias)
    except UnknownAlias:
        storage = None
    on_commit(lambda: announce(storage, remote, before))


def rows(alias: str, place: int | None = None, *, registers: bool = False) -> Remotes:
    """The remote at the place that is configured here; all of an alias that is not known here.

    ``UnknownAlias`` is raised if the ledger does not know it either.
    """
    try:
        configured = place_of(storage_for(alias))
    except UnknownAlias:
        found = remotes().filter(alias=alias)
        if "\0" in alias or not found.exists():  # PostgreSQL takes no NUL character
            raise
        return found if place is None else found.filter(digest=place)
    if place is None:
        place = configured.digest
    if registers and (its := availability_of(alias, place)):
        remotes().register(alias, its)
    return remotes().at(alias, place)
