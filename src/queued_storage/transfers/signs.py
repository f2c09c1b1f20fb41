"""Takes reads that fail by a remote's fault for signs that it is away.

A request must not wait for a trial, so a thread makes it. The thread has a connection of its own,
so what it writes does not depend on the transaction of the request.
"""

import threading
import time
from contextlib import suppress

from django.db import connections

from ..ledger.database import is_in_memory, ledger_database
from ..ledger.identity import is_in_test_case
from ..remotes.fault_kinds import Fault
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime.forks import after_fork
from .circuit import circuit_of
from .parts import TransferringStorage

_threads: set[threading.Thread] = set()
after_fork(_threads.clear)


def note_read(storage: TransferringStorage) -> None:
    """Note that a file could be read from the remote."""
    circuit_of(storage.alias, storage.other_place).note_read()


def note_failure(storage: TransferringStorage, pk: int, error: Exception) -> None:
    """Note that a file could not be read; let a thread try the remote out if it may be away.

    Errors of the file count for nothing, and neither do unclear ones.
    """
    if storage.uploader.diagnose(error, 0).fault not in (Fault.AWAY, Fault.REFUSED):
        return
    if circuit_of(storage.alias, storage.other_place).note_unread(pk):
        _start(storage)


def wait(timeout: float) -> None:
    """Wait for the threads, for the end of a test database."""
    deadline = time.monotonic() + timeout
    for thread in list(_threads):
        thread.join(max(deadline - time.monotonic(), 0))


def _start(storage: TransferringStorage) -> None:
    # Otherwise the thread would not see the data of this connection.
    if is_in_memory(connections[ledger_database()]) or is_in_test_case():
        return
    name = "queued-storage-sign"
    thread = threading.Thread(target=_try_out, args=[storage], name=name, daemon=True)
    _threads.add(thread)
    try:
        thread.start()
    except RuntimeError:  # the interpreter ends, or there are no more threads
        _threads.discard(thread)


def _try_out(storage: TransferringStorage) -> None:
    try:
        circuit_of(storage.alias, storage.other_place).try_for_reads(storage)
    except Exception as error:  # the ledger is away, or the remote cannot be made
        with suppress(Exception):
            text = reason(error, storage.local, storage.remote)
            logger.warning("The remote of %r could not be tried out: %s", storage.alias, text)
    finally:
        connections.close_all()
        _threads.discard(threading.current_thread())
