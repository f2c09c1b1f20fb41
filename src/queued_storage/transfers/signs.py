"""Takes reads that fail by a remote's fault for signs that it is away.

A request must not wait for a trial, so a thread makes it. The thread has a connection of its own,
so what it writes does not depend on the transaction of the request.
"""

from contextlib import suppress
from functools import partial

from django.db import connections

from ..ledger.database import is_in_memory, ledger_database
from ..ledger.identity import is_in_test_case
from ..remotes.fault_kinds import Fault
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime.aside import Aside
from .circuit import circuit_of
from .parts import TransferringStorage

_aside = Aside("queued-storage-sign")
wait = _aside.wait


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


def _start(storage: TransferringStorage) -> None:
    # Otherwise the thread would not see the data of this connection.
    if is_in_memory(connections[ledger_database()]) or is_in_test_case():
        return
    _aside.start(partial(_try_out, storage))


def _try_out(storage: TransferringStorage) -> None:
    try:
        circuit_of(storage.alias, storage.other_place).try_for_reads(storage)
    except Exception as error:  # the ledger is away, or the remote cannot be made
        with suppress(Exception):
            text = reason(error, storage.local, storage.remote)
            logger.warning("The remote of %r could not be tried out: %s", storage.alias, text)
