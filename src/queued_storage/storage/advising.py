"""Says what to do where the ledger cannot be asked: in async code, in a broken transaction, or
before the migrations were run."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.core.exceptions import SynchronousOnlyOperation
from django.db import OperationalError, ProgrammingError, connections
from django.db.transaction import TransactionManagementError

from ..ledger import schema
from ..ledger.database import ledger_database
from ..runtime.documentation import see

P = ParamSpec("P")
R = TypeVar("R")

OF_STORAGE = "of a queued storage"
MIGRATE = see("quickstart#check-the-configuration")
# The methods that have a coroutine, whose name is that of Django's own async methods
COROUTINES = {
    "delete": "adelete()",
    "exists": "aexists()",
    "open": "aopen()",
    "save": "asave()",
    "size": "asize()",
    "transfer": "atransfer()",
    "wait": "await_transferred()",
}


def advised(method: Callable[P, R]) -> Callable[P, R]:
    """Have a method, which queries the ledger, raise errors that say how to call it."""
    name = method.__name__

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except (SynchronousOnlyOperation, TransactionManagementError) as error:
            advice = _advice(error, name)
            if advice is None:
                raise
            raise type(error)(advice) from error
        except (OperationalError, ProgrammingError) as error:
            if OF_STORAGE in str(error):  # of a method that this one called
                raise
            problem = schema.explanation(error)
            if not problem:
                raise
            raise type(error)(f"{name}() {OF_STORAGE}: {problem} {MIGRATE}") from error

    return call


def _advice(error: Exception, name: str) -> str | None:
    if OF_STORAGE in str(error):  # of a method that this one called
        return None
    if isinstance(error, SynchronousOnlyOperation):
        coroutine = f"await {COROUTINES[name]} of the storage, or " if name in COROUTINES else ""
        return (
            f"{name}() {OF_STORAGE} queries the database, which is not possible in async "
            f"code: {coroutine}call it with asgiref.sync.sync_to_async()."
        )
    connection: Any = connections[ledger_database()]
    if not (connection.in_atomic_block and connection.needs_rollback):
        return None
    return (
        f"{name}() {OF_STORAGE} queries the database, which is not possible in a "
        f"transaction after an error: call it after the rollback, at the end of the atomic() "
        f"block, or give the code that failed an atomic() block of its own."
    )
