"""Enqueues the files of a storage whose local volume is mounted again."""

from functools import partial
from typing import Any

from django.db import connections
from django.utils.module_loading import import_string

from ..ledger.database import in_transaction, ledger_database, on_commit
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime.aside import Aside

# The queues are above the transfers, so this function is reached by its name.
SWEEP = "queued_storage.queues.sweep.sweep"

_aside = Aside("queued-storage-mounted")
wait = _aside.wait


def enqueue_waiting(alias: str) -> None:
    """Let workers hear of the files that waited for a volume, without waiting for a broker.

    The process may be one that responds to a request, so a thread does that. Others that missed the
    volume do the same: a message that comes twice does nothing twice.
    """
    on_commit(lambda: _start(alias))


def _start(alias: str) -> None:
    connection: Any = connections[ledger_database()]
    in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    if in_memory or in_transaction():  # which another connection does not see
        _enqueue(alias)
        return
    _aside.start(partial(_enqueue, alias))


def _enqueue(alias: str) -> None:
    try:
        import_string(SWEEP)(alias)
    except Exception as error:  # the next sweep does it
        logger.warning(
            "The files of %r could not be enqueued after its volume was back: %s",
            alias,
            reason(error),
            extra={"queued_storage": alias},
        )
