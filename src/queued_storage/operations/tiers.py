"""How far the files of storages have got whose remote is a queued storage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count

from ..ledger.aliases import known_storages, storage_for
from ..ledger.availability import Availability
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..reporting.counts import counted
from ..storage.composition import ComposedStorage
from ..storage.tiers import Tier, all_behind, followed

UNDER_WAY = (State.PENDING, State.TRANSFERRING)


@dataclass(frozen=True)
class Chain:
    """What a storage hands its files on to, and how many have not reached the last place yet.

    They are counted where they wait, so files that others save to these storages count, too.
    """

    alias: str
    through: tuple[str, ...]  # the aliases of the queued storages, the nearest first
    place: str  # the last one, without secrets
    pending: int
    held: int
    failed: int

    @property
    def sentence(self) -> str:
        """How many are missing at the last place."""
        parts = [counted(self.pending, "{} file is", "{} files are") + " not there yet"]
        parts += [f"{self.held:,} held"] if self.held else []
        parts += [f"{self.failed:,} failed"] if self.failed else []
        return ", ".join(parts)


def chains() -> list[Chain]:
    """Those of all storages of this process; without one, no query is made."""
    return [each for storage in known_storages() if (each := _chain_of(storage))]


def _chain_of(storage: object) -> Chain | None:
    if not isinstance(storage, ComposedStorage):
        return None
    try:
        inner = all_behind(storage)
        place = inner[-1].remote_place.description if inner else ""
    except Exception:  # a remote cannot be made; a system check reports it
        return None
    if not inner:
        return None
    through = tuple(each.alias for each in inner)
    states = [*UNDER_WAY, State.HELD, State.FAILED]
    waiting: Any = ledger().filter(alias__in=through, state__in=states)
    found = dict(waiting.values_list("state").order_by("state").annotate(files=Count("*")))
    pending = sum(found.get(state, 0) for state in UNDER_WAY)
    held, failed = found.get(State.HELD, 0), found.get(State.FAILED, 0)
    return Chain(storage.alias, through, place, pending, held, failed)


def ways(rows: Sequence[QueuedFile]) -> dict[int, list[Tier]]:
    """Return how far files have got that are transferred to a queued storage, by their keys.

    Without such storages, no query is made.
    """
    found: dict[int, list[Tier]] = {}
    for alias in {row.alias for row in rows}:
        try:
            storage = storage_for(alias)
            if isinstance(storage, ComposedStorage):
                found |= followed(storage, [row for row in rows if row.alias == alias])
        except Exception:  # it is unknown, or a side cannot be made
            continue
    return found


def handed_on(remote: Availability, known: Sequence[Chain]) -> Chain | None:
    """Return the chain that begins with a remote, if it is a queued storage."""
    its = (each for each in known if each.alias == remote.alias)
    return next(its, None) if remote.is_configured else None
