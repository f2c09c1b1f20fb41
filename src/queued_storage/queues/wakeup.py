"""Tells a queue of new work, once per transaction and storage."""

from collections.abc import Callable
from typing import Any

from django.db import transaction

from ..logs import logger
from ..models import ledger_database
from ..reasons import reason
from .base import BaseQueue


class WakeUp:
    """Runs on commit. Ids that were rolled back in a savepoint are harmless: they find no row."""

    def __init__(self, alias: str, queue: BaseQueue) -> None:
        self.alias = alias
        self.queue = queue
        self.pks: list[int] = []
        self.listeners: list[Any] = []
        self.first: list[Callable[[], None]] = []

    def add(self, pk: int, listener: Any, first: Callable[[], None] | None) -> None:
        self.pks.append(pk)
        if listener is not None:
            self.listeners.append(listener)
        if first is not None:
            self.first.append(first)

    def __call__(self) -> None:
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
                errors.update(self.queue.enqueue(batch) or {})
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


def wake(
    alias: str,
    queue: BaseQueue,
    pk: int,
    listener: Any = None,
    *,
    first: Callable[[], None] | None = None,
) -> None:
    """Have ``pk`` worked on when the transaction is committed.

    ``first`` is called before the queue is told, ``listener.told(error)`` after it, with what an
    attempt failed with if it ran inline.
    """
    connection = transaction.get_connection(ledger_database())
    pending = _pending(connection, alias, queue)
    if pending is not None:
        pending.add(pk, listener, first)
        return
    wake_up = WakeUp(alias, queue)
    wake_up.add(pk, listener, first)
    connection.on_commit(wake_up, robust=True)


def _pending(connection: Any, alias: str, queue: BaseQueue) -> WakeUp | None:
    """The one of this transaction.

    It may have been registered in a savepoint; if that is over and it is still here, it goes
    only with a savepoint that we are in, too.
    """
    for _savepoints, callback, _robust in connection.run_on_commit:
        if isinstance(callback, WakeUp) and callback.alias == alias and callback.queue is queue:
            return callback
    return None
