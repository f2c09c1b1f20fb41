"""Which remotes are open or closed, since when, and how many files wait for them."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, cast

from ..reporting.counts import about, counted
from . import measures
from .aliases import AliasedStorage, known_storages
from .database import ledger
from .measures import Overdue
from .remotes import KnownPlace, RemoteState, remotes
from .sql.clock import DatabaseNow, seconds_between
from .states import State

WAITING = (State.PENDING, State.TRANSFERRING, State.DELETING)


class PlacedStorage(Protocol):
    """A storage that knows where its remote keeps the files."""

    @property
    def alias(self) -> str: ...

    @property
    def remote_alias(self) -> str: ...

    @property
    def remote_place(self) -> KnownPlace: ...

    @property
    def with_each_remote(self) -> "Sequence[PlacedStorage]": ...

    @property
    def with_each_mirror(self) -> "Sequence[PlacedStorage]": ...


@dataclass(frozen=True)
class Availability:
    """A remote at one moment. All times are in seconds."""

    alias: str
    place: str  # without secrets
    state: str  # a ``RemoteState``, or one that a newer version wrote
    since: datetime | None = None  # when it got into the state; None if nothing was uploaded yet
    age: float = 0.0  # since then
    next_probe_in: float | None = None  # None unless it is away or refused
    probes: int = 0  # that failed since it was closed
    last_error: str = ""
    is_configured: bool = True  # whether this process's storage uploads there
    digest: int = 0  # of the place
    is_mirror: bool = False  # whether this process's storage copies its files there
    is_previous: bool = False  # whether this process's storage moves its files from there
    name: str = ""  # the key in STORAGES of the remote there; "" if it has none, or is unknown

    @property
    def is_open(self) -> bool:
        return self.state == RemoteState.OPEN

    @property
    def is_paused(self) -> bool:
        return self.state == RemoteState.PAUSED

    @property
    def description(self) -> str:
        """That of the place, as ``KnownPlace`` calls it."""
        return self.place

    @property
    def is_known(self) -> bool:
        """Whether this process's storage has a remote there."""
        return self.is_configured or self.is_mirror or self.is_previous

    @property
    def steered_by(self) -> str:
        """The arguments of the command ``remotes`` that name it."""
        if self.is_configured:
            return shlex.quote(self.alias)
        return shlex.join([self.alias, self.name or self.place])

    @property
    def tested_by(self) -> str:
        """The argument of the command ``check-remote`` that names it; "" if none does."""
        name = self.alias if self.is_configured else self.name
        return shlex.quote(name) if name else ""

    @property
    def title(self) -> str:
        """What it is, for the beginning of a sentence."""
        kind = "remote" if self.is_configured else "previous remote"
        kind = "mirror" if self.is_mirror else kind
        return f"The {kind} of {self.alias!r} ({self.place})"


@dataclass(frozen=True)
class _Known:
    """One of the remotes of a storage of this process."""

    name: str
    place: KnownPlace
    is_configured: bool = False
    is_mirror: bool = False
    is_previous: bool = False


def availabilities() -> list[Availability]:
    """Every remote that the ledger or a storage of this process knows, by alias.

    If a storage was moved, its old remotes are included, with ``is_configured`` false. So are its
    mirrors.
    """
    known = _known()
    missing = dict(known)
    aliases = {alias for alias, _digest in known}
    found: list[Availability] = []
    rows: Any = remotes().annotate(now=DatabaseNow()).order_by("-since", "-pk")
    for row in rows:
        its = known.get((row.alias, row.digest))
        if its is None and row.alias not in aliases:
            # Of an alias that this process does not know, the remote that changed last is in use.
            aliases.add(row.alias)
            its = _Known("", row, is_configured=True)
        missing.pop((row.alias, row.digest), None)
        found.append(_of_row(row, its))
    found += [_unused(alias, its) for (alias, _digest), its in missing.items()]
    return sorted(found, key=lambda each: (each.alias, not each.is_configured))


def _unused(alias: str, its: _Known) -> Availability:
    """A remote that nothing was uploaded to yet."""
    return Availability(
        alias,
        its.place.description,
        RemoteState.OPEN,
        is_configured=its.is_configured,
        digest=its.place.digest,
        is_mirror=its.is_mirror,
        is_previous=its.is_previous,
        name=its.name,
    )


def in_use() -> list[Availability]:
    """The remote of each alias that its files are uploaded to now."""
    return [each for each in availabilities() if each.is_configured]


def beside_them(found: Iterable[Availability]) -> list[Availability]:
    """Those of the remotes that are mirrors, or previous remotes."""
    return [each for each in found if each.is_known and not each.is_configured]


def availability_of(alias: str, digest: int | None = None) -> Availability | None:
    """The remote of an alias at a place, or the one that its files are uploaded to now; None if it
    is unknown."""
    of_alias = (each for each in availabilities() if each.alias == alias)
    if digest is None:
        return next((each for each in of_alias if each.is_configured), None)
    return next((each for each in of_alias if each.digest == digest), None)


def waiting(alias: str, limit: int | None = None) -> int:
    """Count the files that are to be uploaded or deleted; stop at ``limit`` if given."""
    # By state, since the index of these has few rows. That of due rows begins with the alias, too,
    # but has those that are not due.
    rows = ledger().filter(alias=alias, state__in=WAITING).order_by()
    return rows.count() if limit is None else rows.values("pk")[:limit].count()


def left(remote: Availability) -> int:
    """Count the files that are still at a place which their storage uploads to no more; this reads
    all rows of the storage."""
    return ledger().filter(alias=remote.alias, place=remote.digest).order_by().count()


def _of_row(row: Any, its: _Known | None) -> Availability:
    next_probe = None
    if row.next_probe_at and not row.is_open:
        next_probe = max(seconds_between(row.now, row.next_probe_at), 0.0)
    return Availability(
        row.alias,
        row.place,
        row.state,
        row.since,
        max(seconds_between(row.since, row.now), 0.0),
        next_probe,
        row.probes,
        row.last_error,
        is_configured=bool(its and its.is_configured),
        digest=row.digest,
        is_mirror=bool(its and its.is_mirror),
        is_previous=bool(its and its.is_previous),
        name=its.name if its else "",
    )


def place_of(storage: AliasedStorage) -> KnownPlace:
    """Where a queued storage uploads to, as this thread sees it now."""
    return cast(PlacedStorage, storage).remote_place


def places_of(storage: AliasedStorage) -> list[KnownPlace]:
    """Where a queued storage has files: where it uploads to, its previous remotes and mirrors."""
    placed = cast(PlacedStorage, storage)
    return [each.remote_place for each in (*placed.with_each_remote, *placed.with_each_mirror)]


def _known() -> dict[tuple[str, int], _Known]:
    """The remotes of this process by alias and digest."""
    found: dict[tuple[str, int], _Known] = {}
    for storage in known_storages():
        with suppress(Exception):  # a remote cannot be made; a system check reports it
            for its in _of_storage(cast(PlacedStorage, storage)):
                found.setdefault((storage.alias, its.place.digest), its)
    return found


def _of_storage(storage: PlacedStorage) -> Iterator[_Known]:
    yield _Known(storage.remote_alias, storage.remote_place, is_configured=True)
    for mirror in storage.with_each_mirror:
        yield _Known(mirror.remote_alias, mirror.remote_place, is_mirror=True)
    for previous in storage.with_each_remote[1:]:
        yield _Known(previous.remote_alias, previous.remote_place, is_previous=True)


# Sentences


def sentence(remote: Availability, files: int) -> str:
    """Say what is the matter with a closed remote, and what ends it. ``files`` wait for it."""
    head = remote.title
    wait = what_waits(remote, files) or "nothing is moved or removed there"
    if remote.is_paused:
        return (
            f"{head} has been paused for {about(remote.age)}; {wait} until an operator runs "
            f"'manage.py queued_storage remotes resume {remote.steered_by}'."
        )
    error = f": {remote.last_error.rstrip('.')}" if remote.last_error else ""
    return (
        f"{head} {_HAS_BEEN.get(remote.state, _UNKNOWN)} for {about(remote.age)}{error}; {wait}; "
        f"{_next_probe(remote)}. {what_to_do(remote)}"
    )


def what_to_do(remote: Availability) -> str:
    """Say what an operator can do about a remote that opens when a probe succeeds."""
    command = f"'manage.py queued_storage remotes probe {remote.steered_by}'"
    if remote.state == RemoteState.REFUSED:
        return f"Fix the cause, then run {command}."
    return f"To probe it at once, run {command}."


def what_waits(remote: Availability, count: int) -> str:
    """Say how many files or copies wait for a remote; "" for a previous one."""
    if remote.is_mirror:
        return counted(count, "{} copy waits", "{} copies wait")
    return counted(count, "{} file waits", "{} files wait") if remote.is_configured else ""


_HAS_BEEN: dict[str, str] = {
    RemoteState.AWAY: "has been away",
    RemoteState.REFUSED: "has refused files",
}
_UNKNOWN = "has been closed by a newer version of queued_storage"


def closed_sentence(alias: str) -> str:
    """What is the matter with the remote of this alias; "" if it is open, or cannot be told."""
    remote = availability_of(alias)
    return "" if remote is None or remote.is_open else sentence(remote, waiting(alias))


def _next_probe(remote: Availability) -> str:
    if not remote.next_probe_in or remote.next_probe_in < 1:
        return "a probe is due"
    return f"next probe in {about(remote.next_probe_in)}"


# Files that wait for workers, not for a remote


def reachable(
    aliases: Iterable[str], known: Iterable[Availability], seconds: float = 0.0
) -> list[str]:
    """Those of the storages whose remote has been open for at least so many seconds.

    While a remote is closed, and until its files have had that time, nobody neglects them.
    """
    waits = {
        each.alias
        for each in known
        if not each.is_open or (each.since is not None and each.age < seconds)
    }
    return [alias for alias in aliases if alias not in waits]


def unclaimed(known: Iterable[Availability]) -> list[Overdue]:
    """The due files that a worker could process, whose age begins when their remote opened."""
    opened = {each.alias: each.age for each in known if each.is_open and each.since}
    shut = {each.alias for each in known if not each.is_open}
    return [
        replace(row, age=min(row.age, opened.get(row.alias, row.age)))
        for row in measures.overdue()
        if row.alias not in shut
    ]
