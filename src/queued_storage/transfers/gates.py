"""Knows which storages have a closed remote, asking the ledger at most once a second."""

import time
from collections.abc import Iterable

from django.db.models.signals import post_migrate

from ..files import volumes
from ..ledger.remotes import remotes
from ..runtime.forks import after_fork
from .parts import storage_of

READ_EVERY = 1.0  # seconds: for so long, a remote may be taken for open after it was closed


class Gates:
    """Which remotes are closed, as this process knows."""

    def __init__(self) -> None:
        self._closed: frozenset[str] = frozenset()
        self._read_again_at = 0.0
        after_fork(self.forget)
        post_migrate.connect(self._on_flush)

    def closed(self) -> frozenset[str]:
        """Return the aliases of the storages whose remote is closed, or whose local volume is not
        mounted."""
        now = time.monotonic()
        if now >= self._read_again_at:
            self._closed = (
                frozenset(
                    alias
                    for alias, digest in remotes().closed().values_list("alias", "digest")
                    if _is_configured(alias, digest)
                )
                | volumes.missing_aliases()
            )
            self._read_again_at = now + READ_EVERY
        return self._closed

    def is_closed(self, alias: str) -> bool:
        return alias in self.closed()

    def open_of(self, aliases: Iterable[str]) -> list[str]:
        """Return those of these aliases whose remote is open."""
        closed = self.closed()
        return [alias for alias in aliases if alias not in closed]

    @property
    def are_closed(self) -> bool:
        """Whether a remote was closed when the ledger was last asked."""
        return bool(self._closed)

    def forget(self) -> None:
        """Ask the ledger at the next question."""
        self._closed = frozenset()
        self._read_again_at = 0.0

    def _on_flush(self, **kwargs: object) -> None:
        self.forget()


def _is_configured(alias: str, digest: int) -> bool:
    """Whether the storage uploads to this place; not if it was moved, or is of another process."""
    try:
        return storage_of(alias, "").remote_place.digest == digest
    except Exception:  # it cannot be made; an attempt reports it
        return False


gates = Gates()
