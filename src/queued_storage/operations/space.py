"""How full the local storages with limits are, for operators."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast

from ..files.limits import Limits
from ..ledger.aliases import known_storages
from ..ledger.localsides import LocalSide, are_available, full_for, local_sides
from .storages import OperableStorage

WORDS = {
    "young": "read or saved within min_age",
    "uncopied": "not on all mirrors",
    "open": "open",
    "failed": "cannot be evicted; 'status' and the log show why",
}


@dataclass(frozen=True)
class Space:
    """The local storage of one storage, on one host if hosts don't share it, in bytes."""

    alias: str
    host: str
    local: int
    pending: int
    evictable: int
    kept: dict[str, int]  # of files that are on the remote: why they could not be evicted
    max_bytes: int | None
    max_pending_bytes: int | None
    disk: int | None
    free: int | None
    full_since: datetime | None
    full_for: float  # seconds; 0 if it is not full
    reason: str  # why it is full; "" if it is not
    refused: int  # saves
    written_through: int  # files that were saved to the remote instead
    measured_at: datetime | None

    @property
    def sentence(self) -> str:
        """Say that it is full, and what to do; "" if it is not."""
        if self.full_since is None:
            return ""
        host = f" on the host {self.host!r}" if self.host else ""
        return (
            f"The local storage of {self.alias!r}{host} has been full since "
            f"{self.full_since:%Y-%m-%d %H:%M:%S}: {self.reason} Let workers transfer what is "
            f"pending, free space on the disk, or raise the limit."
        )


def spaces() -> list[Space]:
    """The local storages that workers have measured, of the storages that have limits."""
    limits = _limits()
    if not limits or not are_available():
        return []
    sides = local_sides().filter(alias__in=limits).order_by("alias", "host")
    return [_space(side, limits[side.alias]) for side in sides]


def troubles() -> list[str]:
    """The local storages that are full, and what to do."""
    return [space.sentence for space in spaces() if space.sentence]


def _limits() -> dict[str, Limits]:
    found = {}
    for storage in known_storages():
        limits = cast(OperableStorage, storage).limits
        if limits.are_given:
            found[storage.alias] = limits
    return found


def _space(side: LocalSide, limits: Limits) -> Space:
    return Space(
        alias=side.alias,
        host=side.host,
        local=side.local_bytes,
        pending=side.pending_bytes,
        evictable=side.evictable_bytes,
        kept=side.kept,
        max_bytes=limits.max_bytes,
        max_pending_bytes=limits.max_pending_bytes,
        disk=side.disk_bytes,
        free=side.free_bytes,
        full_since=side.full_since,
        full_for=full_for(side),
        reason=side.reason,
        refused=side.refused,
        written_through=side.written_through,
        measured_at=side.measured_at,
    )
