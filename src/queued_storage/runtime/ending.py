"""Tell whether the process is ending, when libraries cannot start threads any more."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

PATIENCE = 5.0  # seconds that the interpreter may take to end

_has_begun = False


def has_begun() -> bool:
    """Return whether the interpreter is shutting down.

    The first thing that it does is to close all pools of threads, so one is tried. This takes as
    long as starting a thread.
    """
    global _has_begun
    if not _has_begun:
        try:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(int)
        except RuntimeError as error:  # or the system has no more threads
            _has_begun = "shutdown" in str(error)
    return _has_begun


def was_noticed() -> bool:
    """Return whether ``has_begun()`` has returned True before."""
    return _has_begun


def require_end() -> None:
    """Make sure that the process ends within ``PATIENCE`` once its end has begun.

    The interpreter waits for the threads of pools, even if they hang.
    """
    threading.Thread(target=_end, name="queued-storage-end", daemon=True).start()


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End the process, with exit code 1, if the block takes longer."""
    is_over = threading.Event()

    def watch() -> None:
        if not is_over.wait(seconds):
            _exit()

    watcher = threading.Thread(target=watch, name="queued-storage-end", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _end() -> None:
    while not has_begun():
        time.sleep(1)
    time.sleep(PATIENCE)
    _exit()


def _exit() -> None:
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(1)
