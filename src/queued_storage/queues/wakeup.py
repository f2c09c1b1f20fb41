"""Tells a queue of new work, once per transaction and storage."""

from collections.abc import Callable, Mapping
from typing import Any

from django.db import transaction

from ..ledger.database import ledger_database
from ..reporting.logs import logger
from ..reporting.reasons import reason
from .base import BaseQueue


class WakeUp:
    """Runs on commit. Ids that were rolled back in a savepoint are harmless: they find no row."""

    def __init__(self, alias: str, queue: BaseQueue, transaction_id: str | None) -> None:
        self.alias = alias
        self.queue = queue
        self.transaction_id = transaction_id
        self.is_over = False
        self.pks: list[int] = []
        self.listeners: list[Any] = []
        self.first: list[Callable[[], None]] = []

    def takes(self, alias: str, queue: BaseQueue, transaction_id: str) -> bool:
        is_meant = self.alias == alias and self.queue is queue
        return is_meant and self.transaction_id == transaction_id and not self.is_over

    def add(self, pk: int, listener: Any, first: Callable[[], None] | None) -> None:
        self.pks.append(pk)
        if listener is not None:
            self.listeners.append(listener)
        if first is not None:
            self.first.append(first)

    def __call__(self) -> None:
        self.is_over = True  # a TestCase that runs it does not take it out of the transaction
        for first in self.first:
            try:
                first()
            except Exception:
                logger.exception(
                    "A file of %r stays where it is for now.",
                    self.alias,
                    extra={"queued_storage": self.alias},
                )
        errors: dict[int, Exception] = {}
        pks = list(dict.fromkeys(self.pks))
        for start in range(0, len(pks), self.queue.batch_size):
            try:
                batch = pks[start : start + self.queue.batch_size]
                answer: object = self.queue.enqueue(batch)
                if isinstance(answer, Mapping):  # some return what their engine does
                    errors.update(answer)
            except Exception as error:  # the rows stay due: the next sweep finds them
                logger.warning(
                    "%s could not be told of %s files of %r, which stay due: %s",
                    type(self.queue).__name__,
                    len(pks) - start,
                    self.alias,
                    reason(error),
                    extra={
                        "queued_storage": self.alias,
                        "queued_error": type(error).__name__,
                    },
                )
                break
        for listener in self.listeners:
            listener.told(errors.get(listener.pk))


def require_commits(database: str | None = None) -> None:
    """Raise ``TransactionManagementError`` where Django tells nobody of a commit, before anything
    is done that cannot be taken back."""
    connection = transaction.get_connection(database or ledger_database())
    if not (connection.in_atomic_block or connection.get_autocommit()):
        raise transaction.TransactionManagementError(
            "A queued storage acts when a transaction is committed, which nobody is told of with "
            "autocommit turned off; use transaction.atomic()."
        )


def wake(
    alias: str,
    queue: BaseQueue,
    pk: int,
    listener: Any = None,
    *,
    first: Callable[[], None] | None = None,
    database: str | None = None,
) -> None:
    """Have ``pk`` worked on when the transaction is committed.

    ``first`` is called before the queue is told, ``listener.told(error)`` after it, with what an
    attempt failed with if it ran inline.
    """
    connection = transaction.get_connection(database or ledger_database())
    pending = _pending(connection, alias, queue)
    if pending is not None:
        pending.add(pk, listener, first)
        return
    wake_up = WakeUp(alias, queue, _transaction_id(connection))
    wake_up.add(pk, listener, first)
    connection.on_commit(wake_up, robust=True)


def _transaction_id(connection: Any) -> str | None:
    """Which one it is among those that a ``TestCase`` makes savepoints of, None outside of them; ""
    where there is no such test.

    What a test saves outside of them has a callback of its own, as it has outside of a transaction,
    or ``captureOnCommitCallbacks()`` would miss what goes with an older one. So has what follows
    in a block that is no savepoint.
    """
    blocks = connection.atomic_blocks
    count = sum(getattr(block, "_from_testcase", False) for block in blocks)
    if not count:
        return ""
    # The first block has no savepoint.
    found: str | None = connection.savepoint_ids[count - 1] if count < len(blocks) else None
    return found


def _pending(connection: Any, alias: str, queue: BaseQueue) -> WakeUp | None:
    """The one of this transaction.

    It may have been registered in a savepoint; if that is over and it is still here, it goes
    only with a savepoint that we are in, too.
    """
    if (transaction_id := _transaction_id(connection)) is None:
        return None
    for _savepoints, callback, _robust in connection.run_on_commit:
        if isinstance(callback, WakeUp) and callback.takes(alias, queue, transaction_id):
            return callback
    return None
