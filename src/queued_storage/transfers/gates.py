"""Knows which storages have a closed remote, asking the ledger at most once a second."""

import time
from collections.abc import Iterable

from django.db.models.signals import post_migrate

from ..files import volumes
from ..ledger.remotes import Remote, remotes
from ..runtime.forks import after_fork
from .parts import storage_of

READ_EVERY = 1.0  # seconds: for so long, a remote may be taken for open after it was closed


class Gates:
    """Which remotes are closed, as this process knows."""

    def __init__(self) -> None:
        self._closed: frozenset[str] = frozenset()
        self._has_opening = False
        self._read_again_at = 0.0
        after_fork(self.forget)
        post_migrate.connect(self._on_flush)

    def closed(self) -> frozenset[str]:
        """Return the aliases of the storages whose remote is closed, or whose local volume is not
        mounted."""
        self._read()
        return self._closed

    @property
    def are_settled(self) -> bool:
        """Whether no remote is closed, and none was opened by a process that may have died before
        it enqueued the files."""
        self._read()
        return not self._closed and not self._has_opening

    def _read(self) -> None:
        now = time.monotonic()
        if now < self._read_again_at:
            return
        # Whole rows, so that no file is claimed while the table lacks a column.
        found = [*filter(is_configured, remotes().closed() | remotes().opening())]
        closed = frozenset(remote.alias for remote in found if not remote.is_open)
        self._closed = closed | volumes.missing_aliases()
        self._has_opening = any(remote.is_open for remote in found)
        self._read_again_at = now + READ_EVERY

    def is_closed(self, alias: str) -> bool:
        return alias in self.closed()

    def open_of(self, aliases: Iterable[str]) -> list[str]:
        """Return those of these aliases whose remote is open."""
        closed = self.closed()
        return [alias for alias in aliases if alias not in closed]

    def forget(self) -> None:
        """Ask the ledger at the next question."""
        self._read_again_at = 0.0

    def _on_flush(self, **kwargs: object) -> None:
        self.forget()


def is_configured(remote: Remote) -> bool:
    """Whether the storage uploads to this place; not if it was moved, or is of another process."""
    try:
        return storage_of(remote.alias, "").remote_place.digest == remote.digest
    except Exception:  # it cannot be made; an attempt reports it
        return False


gates = Gates()
