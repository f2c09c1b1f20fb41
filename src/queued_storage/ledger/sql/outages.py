"""Repeat a statement after a fault of the database that passes by itself."""

import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ...reporting.logs import logger

Answer = TypeVar("Answer")

PAUSES = (0.1, 0.5)  # seconds before the second and the third attempt


def outlast(statement: Callable[[], Answer], database: str) -> Answer:
    """Execute a statement up to three times, on a new connection where the old one was lost.

    It is repeated after a lost connection, a deadlock, a lock timeout or a serialization failure.
    A lost connection does not tell whether the statement took effect, so executing it twice must
    do no harm. Inside a transaction nothing is repeated: only the whole transaction could be.
    """
    for pause in PAUSES:
        try:
            return statement()
        except (OperationalError, InterfaceError) as error:
            connection = connections[database]
            if connection.in_atomic_block or not _is_autocommit(connection):
                raise
            logger.info("Repeating a query of the ledger after %s.", type(error).__name__)
            connection.close_if_unusable_or_obsolete()
            time.sleep(pause)
    return statement()


def _is_autocommit(connection: BaseDatabaseWrapper) -> bool:
    return connection.connection is None or connection.autocommit
