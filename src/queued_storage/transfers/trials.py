"""Finds out whether a remote works by a small write of our own, in bounded time."""

import threading
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

from django.db import connections

from ..runtime.forks import ForkSafeLock, after_fork
from ..uploaders import Uploader
from .parts import TransferringStorage

SECONDS = 15.0  # for which a trial may take; a remote that takes longer is away
MOST_HANGING = 3  # trials of one storage that hang, at most: no thread can be ended


class Result(Enum):
    WORKS = "the remote stored what was written"
    FAILS = "the remote refused it, or did not answer"
    IMPOSSIBLE = "this remote takes no small write, so it says nothing"


class Trial(NamedTuple):
    """What a trial found, with the error of one that failed."""

    result: Result
    error: Exception | None = None


def try_out(storage: TransferringStorage) -> Trial:
    """Write something small to the remote, and remove it.

    ``ImproperlyConfigured`` is raised if this process cannot make the remote.
    """
    uploader = storage.uploader
    running = _Running(uploader)
    if not _count(storage.alias, running):
        return Trial(Result.FAILS, TimeoutError("The remote did not answer earlier requests."))
    running.start()
    running.join(SECONDS)
    if running.is_alive():
        text = f"The remote did not answer within {SECONDS:g} seconds."
        return Trial(Result.FAILS, TimeoutError(text))
    if isinstance(running.error, NotImplementedError):
        return Trial(Result.IMPOSSIBLE)
    return Trial(Result.FAILS if running.error else Result.WORKS, running.error)


class _Running(threading.Thread):
    def __init__(self, uploader: Uploader) -> None:
        super().__init__(name="queued-storage-trial", daemon=True)
        self._uploader = uploader
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._uploader.write_probe()
        except Exception as error:
            self.error = error
        finally:
            with suppress(Exception):
                connections.close_all()  # of a remote that is a database


_lock = ForkSafeLock()
_running: dict[str, list[_Running]] = {}
after_fork(_running.clear)


def _count(alias: str, new: _Running) -> bool:
    """Count a trial that is about to start; return False if too many of this storage hang."""
    with _lock:
        hanging = [each for each in _running.get(alias, ()) if each.is_alive()]
        is_allowed = len(hanging) < MOST_HANGING
        _running[alias] = [*hanging, new] if is_allowed else hanging
        return is_allowed
