"""Remotes that go away, for tests that run step by step (see stepped.py).

Time passes only if a test says so. Each process knows for itself what it has seen of a remote.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from queued_storage.ledger.database import ledger_database
from queued_storage.transfers import circuit, mounting, trials, watching
from queued_storage.transfers.gates import READ_EVERY, gates
from queued_storage.transfers.trials import Result, Trial

NEVER = 1e6  # seconds of real time, which must not decide when a probe is due


class Clock:
    """Replaces the module ``time`` where remotes are closed and opened."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Process:
    """What one process has seen of the remotes."""

    def __init__(self) -> None:
        self._seen: tuple[dict[str, Any], dict[str, Any]] = {}, {"_read_again_at": 0.0}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the code in the block run in this process."""
        before = _seen()
        _see(*self._seen)
        try:
            yield
        finally:
            self._seen = _seen()
            _see(*before)


def _seen() -> tuple[dict[str, Any], dict[str, Any]]:
    return circuit._circuits.copy(), vars(gates).copy()


def _see(circuits: dict[str, Any], known: dict[str, Any]) -> None:
    circuit._circuits.clear()
    circuit._circuits.update(circuits)
    vars(gates).update(known)


def step_remotes(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let remotes be tried out and probed, and volumes be swept, only as steps of actors; return
    their clock."""
    clock = Clock()
    monkeypatch.setattr(circuit, "time", clock)
    monkeypatch.setattr(sys.modules[type(gates).__module__], "time", clock)
    monkeypatch.setattr(circuit, "FIRST_PROBE", NEVER)
    monkeypatch.setattr(trials, "try_out", _try_out)
    monkeypatch.setattr(watching, "watch", lambda: None)
    monkeypatch.setattr(mounting, "_start", mounting._enqueue)  # at once, in the same thread
    return clock


def _try_out(storage: Any) -> Trial:
    """Do the same in the actor's own thread."""
    try:
        storage.uploader.write_probe()
    except Exception as error:
        return Trial(Result.FAILS, error)
    return Trial(Result.WORKS)


def look() -> None:
    """Do what the thread of a process does that watches its closed remotes."""
    watching.Watch(ledger_database())._look()


__all__ = ["NEVER", "READ_EVERY", "Clock", "Process", "look", "step_remotes"]
