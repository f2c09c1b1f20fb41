"""The gauges that a scrape reads from the ledger."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ..ledger import measures
from ..ledger.aliases import known_storages
from ..ledger.availability import Availability, availabilities, beside_them, unclaimed
from ..ledger.copy_counts import Lack, lacks
from ..ledger.measures import Overdue, Settled, Unsettled
from ..ledger.preparations import Counted, PreparationState, counts
from ..ledger.remotes import RemoteState
from ..ledger.states import State
from .space import Space, spaces

GAUGES = {
    "files": ("Number of files in the ledger", ("storage", "state", "host")),
    "bytes": ("Size of these files", ("storage", "state", "host")),
    "local_bytes": ("Size of the transferred files that still have a local copy", ("storage",)),
    "oldest_pending_age_seconds": (
        "Time since the oldest pending or transferring file was saved",
        ("storage", "host"),
    ),
    "oldest_due_age_seconds": (
        "Age of the oldest due file that no worker has claimed",
        ("storage", "host"),
    ),
    "stuck_deletes": (
        "Number of deletes that failed more often than RETRIES allows for a transfer",
        ("storage",),
    ),
    "unpublished_files": (
        "Number of files whose steps have not all passed: waiting, held, rejected",
        ("storage", "state"),
    ),
    "oldest_step_age_seconds": (
        "Time since the oldest file that waits for its steps was saved",
        ("storage",),
    ),
    "remote_up": ("Whether files are uploaded to the remote; 0 while it is closed", ("storage",)),
    "remote_state": (
        "1 for the state that the remote is in, 0 for the others",
        ("storage", "state"),
    ),
    "other_remote_up": (
        "Whether a mirror or previous remote can be used; 0 while it is closed",
        ("storage", "place", "role"),
    ),
    "copies": ("Number of copies that mirrors lack", ("storage", "place", "state")),
    "local_side_bytes": (
        "Size of the local copies of a storage with limits: all, pending, evictable, and why "
        "others were not evicted",
        ("storage", "host", "kind"),
    ),
    "local_limit_bytes": ("max_bytes and max_pending_bytes", ("storage", "limit")),
    "local_disk_bytes": ("Size of the disk of a storage with limits", ("storage", "host")),
    "local_disk_free_bytes": ("Free space of that disk", ("storage", "host")),
    "local_full_seconds": ("Time since the local storage became full", ("storage", "host")),
    "refused_saves": ("Saves that were refused for lack of room", ("storage", "host")),
    "remote_saves": ("Files that were saved to the remote for lack of room", ("storage", "host")),
    "ledger_up": ("Whether the ledger responded to this scrape", ()),
    "ledger_query_seconds": ("Time that the ledger took to respond", ()),
}

Samples = Iterator[tuple[str, tuple[str, ...], float]]  # key of GAUGES, labels, value
Lacking = list[tuple[Availability, Lack]]


class Answers(NamedTuple):
    """What the ledger says for a scrape."""

    unsettled: list[Unsettled]
    overdue: list[Overdue]
    remotes: list[Availability]
    lacking: Lacking
    spaces: list[Space]
    unpublished: list[Counted]


def ask() -> Answers:
    """Ask the ledger, in a few queries that read indexes."""
    remotes = availabilities()
    in_use = [each for each in remotes if each.is_configured]
    return Answers(
        measures.unsettled(), unclaimed(in_use), remotes, lacks(remotes), spaces(), counts()
    )


def samples(found: Answers, known: list[str]) -> Samples:
    """The samples of the answers, with zeros for the known aliases."""
    yield from _unsettled(found.unsettled, known)
    yield from _overdue(found.overdue, known)
    yield from _remotes(found.remotes)
    yield from _copies(found.lacking)
    yield from _spaces(found.spaces)
    yield from _unpublished(found.unpublished, known)


def known_aliases() -> list[str]:
    """Return the aliases that have samples of zero, so that alerts notice the first file."""
    with suppress(Exception):
        return [storage.alias for storage in known_storages()]
    return []


def _unsettled(rows: list[Unsettled], known: list[str]) -> Samples:
    ages: dict[tuple[str, str], float] = dict.fromkeys(((alias, "") for alias in known), 0.0)
    stuck = dict.fromkeys(known, 0)
    counts = {(alias, state, ""): (0, 0) for alias in known for state in measures.UNSETTLED}
    for row in rows:
        counts[row.alias, row.state, row.host] = (row.files, row.bytes)
        stuck[row.alias] = stuck.get(row.alias, 0) + row.stuck
        if row.state in (State.PENDING, State.TRANSFERRING):
            place = (row.alias, row.host)
            ages[place] = max(ages.get(place, 0.0), row.age)
    for labels, (files, size) in counts.items():
        yield "files", labels, files
        yield "bytes", labels, size
    for place, age in ages.items():
        yield "oldest_pending_age_seconds", place, age
    for alias, count in stuck.items():
        yield "stuck_deletes", (alias,), count


def _overdue(rows: list[Overdue], known: list[str]) -> Samples:
    ages = dict.fromkeys(((alias, "") for alias in known), 0.0)
    ages |= {(row.alias, row.host): row.age for row in rows}
    for place, age in ages.items():
        yield "oldest_due_age_seconds", place, age


def _remotes(remotes: list[Availability]) -> Samples:
    for remote in beside_them(remotes):
        role = "mirror" if remote.is_mirror else "previous"
        labels = (remote.alias, remote.place, role)
        yield "other_remote_up", labels, int(remote.is_open)
    for remote in remotes:
        if not remote.is_configured:
            continue
        yield "remote_up", (remote.alias,), int(remote.is_open)
        for state in {*RemoteState.values, remote.state}:
            yield "remote_state", (remote.alias, state), int(state == remote.state)


def _unpublished(rows: list[Counted], known: list[str]) -> Samples:
    files = dict.fromkeys(((alias, state) for alias in known for state in PreparationState), 0)
    ages = dict.fromkeys(known, 0.0)
    for row in rows:
        files[row.alias, PreparationState(row.state)] = row.files
        if row.state == PreparationState.WAITING:
            ages[row.alias] = row.age
    for (alias, state), count in files.items():
        yield "unpublished_files", (alias, str(state)), count
    for alias, age in ages.items():
        yield "oldest_step_age_seconds", (alias,), age


def _copies(lacking: Lacking) -> Samples:
    for mirror, lack in lacking:
        counts = {"due": lack.due, "waiting": lack.waiting, "failed": lack.failed}
        for state, count in counts.items():
            yield "copies", (mirror.alias, mirror.place, state), count


def _spaces(found: list[Space]) -> Samples:
    for space in found:
        labels = (space.alias, space.host)
        kinds = {"local": space.local, "pending": space.pending, "evictable": space.evictable}
        for kind, size in {**kinds, **space.kept}.items():
            yield "local_side_bytes", (*labels, kind), size
        for limit in ("max_bytes", "max_pending_bytes"):
            if (most := getattr(space, limit)) is not None:
                yield "local_limit_bytes", (space.alias, limit), most
        if space.disk is not None and space.free is not None:
            yield "local_disk_bytes", labels, space.disk
            yield "local_disk_free_bytes", labels, space.free
        yield "local_full_seconds", labels, space.full_for
        yield "refused_saves", labels, space.refused
        yield "remote_saves", labels, space.written_through


def settled(rows: list[Settled]) -> Samples:
    """The samples of the transferred files."""
    for row in rows:
        labels = (row.alias, str(State.TRANSFERRED), "")
        yield "files", labels, row.files
        yield "bytes", labels, row.bytes
        yield "local_bytes", (row.alias,), row.local_bytes
