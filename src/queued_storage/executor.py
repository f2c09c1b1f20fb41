"""Works on files in a few threads of this process."""

import queue
import threading
import time
from collections.abc import Callable, Collection
from functools import partial

from django.db import close_old_connections, connections

from . import transfers
from .logs import logger
from .models import ledger


class Executor:
    """Some threads that run what they are told of, and what they find due in the ledger.

    ``aliases`` says whose files are looked for, every ``poll`` seconds and whenever one was found.
    """

    def __init__(self, threads: int, poll: float, aliases: Callable[[], Collection[str]]) -> None:
        self._poll = poll
        self._aliases = aliases
        self._told: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._next_look = 0.0
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        self._busy: set[int] = set()  # idents of threads that work on a file
        self._threads = [
            threading.Thread(target=self._work, name=f"queued-storage-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def tell(self, pks: list[int]) -> None:
        for pk in pks:
            self._told.put(pk)

    def is_idle(self) -> bool:
        """Whether no file is being worked on at the moment. To look for one is no work: on a slow
        machine somebody always does."""
        return not self._busy and self._told.empty()

    def stop(self, timeout: float | None = None) -> bool:
        """End after what was told; whether all threads ended within ``timeout`` seconds."""
        self._stopping.set()
        for _thread in self._threads:
            self._told.put(None)
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while True:
            found = self._look()
            try:
                pk = self._told.get(block=not found, timeout=self._pause())
            except queue.Empty:
                if not found:
                    connections.close_all()
                continue
            if pk is None:
                break
            self._work_on(pk, partial(transfers.run, pk))
        connections.close_all()

    def _pause(self) -> float:
        return max(self._next_look - time.monotonic(), 0.001)

    def _look(self) -> bool:
        """Work on one due row, if it is time to look and there is one."""
        if self._stopping.is_set() or time.monotonic() < self._next_look:
            return False
        with self._looking:  # the others need not ask the same
            if time.monotonic() < self._next_look:
                return False
            self._next_look = time.monotonic() + self._poll
        found = self._guarded(self._run_one_due)
        if found:
            self._next_look = 0.0
        return bool(found)

    def _run_one_due(self) -> bool:
        aliases = self._aliases()
        rows = ledger().claim_due(1, aliases) if aliases else []
        if not rows:
            return False
        self._next_look = 0.0  # there may be more, for the other threads
        self._work_on(rows[0].pk, partial(transfers.run_claimed, rows[0]))
        return True

    def _work_on(self, pk: int, work: Callable[[], object]) -> None:
        ident = threading.get_ident()
        self._busy.add(ident)
        try:
            self._guarded(work, pk)
        finally:
            self._busy.discard(ident)

    @staticmethod
    def _guarded(work: Callable[[], object], pk: int | None = None) -> object:
        try:
            return work()
        except Exception:  # the ledger is out of reach: rows stay due, leases end
            logger.exception("A file could not be worked on.", extra={"queued_file": pk})
            close_old_connections()
            return None
