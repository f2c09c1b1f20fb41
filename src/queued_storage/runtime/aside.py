"""Threads that do what a request must not wait for."""

import threading
import time
from collections.abc import Callable

from django.db import connections

from .forks import after_fork


class Aside:
    """The threads of one kind, which are few and short."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()  # a thread that is not started yet cannot be waited for

    def start(self, action: Callable[[], object]) -> None:
        """Call ``action``, which raises no error, in a thread with connections of its own."""
        thread = threading.Thread(target=self._run, args=[action], name=self._name, daemon=True)
        with self._lock:
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends, or there are no more threads
                self._threads.discard(thread)

    def wait(self, timeout: float) -> None:
        """Wait for the threads, for the end of a test database."""
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _run(self, action: Callable[[], object]) -> None:
        try:
            action()
        finally:
            connections.close_all()
            self._threads.discard(threading.current_thread())
