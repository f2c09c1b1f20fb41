"""Knows which remotes are closed, asking the ledger at most once a second."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from django.db.models.signals import post_migrate

from ..conf import settings
from ..files import volumes
from ..ledger.remotes import Remote, remotes
from ..ledger.rows import EVER
from ..runtime.forks import after_fork
from .parts import TransferringStorage, storage_of

READ_EVERY = 1.0  # seconds: for so long, a remote may be taken for open after it was closed


class Gates:
    """Which remotes are closed, as this process knows."""

    def __init__(self) -> None:
        self._closed: frozenset[str] = frozenset()
        self._closed_places: frozenset[tuple[str, int]] = frozenset()
        self._opened_lately: frozenset[str] = frozenset()
        self._has_opening = False
        self._read_again_at = 0.0
        after_fork(self.forget)
        post_migrate.connect(self._on_flush)

    def closed(self) -> frozenset[str]:
        """Return the aliases of the storages whose present remote is closed, or whose local volume
        is not mounted."""
        self._read()
        return self._closed

    def closed_places(self) -> frozenset[tuple[str, int]]:
        """Return the closed places of this process's storages: aliases and digests. They include
        those of previous remotes."""
        self._read()
        return self._closed_places

    def opened_lately(self) -> frozenset[str]:
        """Return the aliases of the storages whose present remote was closed within the last
        ``MAX_WAIT`` seconds."""
        self._read()
        return self._opened_lately

    @property
    def are_settled(self) -> bool:
        """Whether no remote is closed, and none was opened by a process that may have died before
        it enqueued the files."""
        self._read()
        return not (self._closed or self._closed_places or self._has_opening)

    def _read(self) -> None:
        now = time.monotonic()
        if now < self._read_again_at:
            return
        # Whole rows, so that no file is claimed while the table lacks a column.
        lately = remotes().opened_lately(min(settings.max_wait, EVER))
        found = [*filter(is_known, remotes().closed() | remotes().opening() | lately)]
        closed = [remote for remote in found if not remote.is_open]
        present = frozenset(remote.alias for remote in closed if is_present(remote))
        self._closed = present | volumes.missing_aliases()
        self._closed_places = frozenset((remote.alias, remote.digest) for remote in closed)
        opened = [remote for remote in found if remote.is_open]
        self._opened_lately = frozenset(remote.alias for remote in opened if is_present(remote))
        self._has_opening = any(remote.next_probe_at for remote in opened)
        self._read_again_at = now + READ_EVERY

    def is_closed(self, alias: str, place: int | None = None) -> bool:
        """Return whether the present remote of a storage is closed, or the one at a place."""
        if place is None:
            return alias in self.closed()
        return (alias, place) in self.closed_places()

    def open_of(self, aliases: Iterable[str]) -> list[str]:
        """Return those of these aliases whose remote is open."""
        closed = self.closed()
        return [alias for alias in aliases if alias not in closed]

    def forget(self) -> None:
        """Ask the ledger at the next question."""
        self._read_again_at = 0.0

    def _on_flush(self, **kwargs: object) -> None:
        self.forget()


def is_present(remote: Remote) -> bool:
    """Whether the storage uploads to this place; not if it was moved, or is of another process."""
    try:
        return storage_of(remote.alias, "").remote_place.digest == remote.digest
    except Exception:  # it cannot be made; an attempt reports it
        return False


def is_known(remote: Remote) -> bool:
    """Whether the storage has files at this place, as it is configured in this process."""
    try:
        return storage_with(remote).remote_place.digest == remote.digest
    except Exception:
        return False


def storage_with(remote: Remote) -> TransferringStorage:
    """Return the storage of an alias with the remote at a place, if it has that one."""
    return storage_of(remote.alias, "").with_remote_of(_At(remote.digest))


class _At(NamedTuple):
    place: int


gates = Gates()
