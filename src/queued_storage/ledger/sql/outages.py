"""Gets a statement past those faults of a database that pass by themselves."""

import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ...reporting.logs import logger

Answer = TypeVar("Answer")

PAUSES = (0.1, 0.5)  # seconds before the second and the third try


def outlast(statement: Callable[[], Answer], database: str) -> Answer:
    """Do a statement; again, on a new connection if need be, after a connection that was lost, a
    deadlock, a lock that was waited for too long, or a serialization failure.

    It may have taken place although its answer was lost, so it must bear to be repeated. Inside a
    transaction the error is the transaction's, which only its owner can repeat.
    """
    for pause in PAUSES:
        try:
            return statement()
        except (OperationalError, InterfaceError) as error:
            connection = connections[database]
            if connection.in_atomic_block or not _is_autocommit(connection):
                raise
            logger.info("The ledger is asked again after %s.", type(error).__name__)
            connection.close_if_unusable_or_obsolete()
            time.sleep(pause)
    return statement()


def _is_autocommit(connection: BaseDatabaseWrapper) -> bool:
    return connection.connection is None or connection.autocommit
