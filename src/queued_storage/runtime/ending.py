"""Tell whether the process is ending, when libraries cannot start threads any more."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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


def _end() -> None:
    while not has_begun():
        time.sleep(1)
    time.sleep(PATIENCE)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)
