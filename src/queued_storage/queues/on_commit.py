"""Notification of queues when a transaction is committed."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol
from weakref import WeakSet

from django.db import connections, transaction

from ..ledger.database import ledger_database
from ..ledger.priorities import NORMAL
from ..reporting.counts import counted
from ..reporting.logs import logger
from ..reporting.reasons import reason
from .base import BaseQueue


class Listener(Protocol):
    """The result of a transfer, which is informed after the queue was notified."""

    pk: int

    def enqueued(self, error: Exception | None) -> None:
        """``error`` is the exception of an attempt that the queue made at once."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class WakeUp:
    """One file that its queue is notified of when the transaction is committed."""

    alias: str
    queue: BaseQueue
    pk: int
    database: str
    listener: Listener | None
    first: Callable[[], None] | None
    registered: "WeakSet[WakeUp]"
    priority: int
    number: int = field(default_factory=partial(next, count()))

    def run(self) -> None:
        """Notify the queue of this file and of all files that were registered after it.

        Their callbacks, which run next, find nothing left to do. Files that were registered before
        it still wait: a ``TestCase`` runs only the callbacks of the block that it captures.
        """
        if self not in self.registered:
            return
        files = [each for each in self.registered if self._includes(each)]
        files.sort(key=lambda each: (each.priority, each.number))
        for each in files:
            self.registered.discard(each)
            each._prepare()
        errors = _notify(self.queue, self.alias, [each.pk for each in files])
        for each in files:
            if each.listener is not None:
                each.listener.enqueued(errors.get(each.pk))

    def _includes(self, other: "WakeUp") -> bool:
        return (
            other.number >= self.number
            and other.queue is self.queue
            and other.alias == self.alias
            and other.database == self.database
        )

    def _prepare(self) -> None:
        if self.first is None:
            return
        try:
            self.first()
        except Exception:
            logger.exception(
                "The task of a file of storage %r could not be called; the file stays due.",
                self.alias,
                extra={"queued_storage": self.alias},
            )


def _notify(queue: BaseQueue, alias: str, pks: list[int]) -> dict[int, Exception]:
    """Enqueue the files, in messages of the size that the queue allows.

    Return the exceptions of attempts that the queue made at once.
    """
    errors: dict[int, Exception] = {}
    pks = list(dict.fromkeys(pks))
    for start in range(0, len(pks), queue.batch_size):
        try:
            answer: object = queue.enqueue(pks[start : start + queue.batch_size])
            if isinstance(answer, Mapping):  # some adapters return what their library returns
                errors.update(answer)
        except Exception as error:  # the files stay due: the next sweep enqueues them
            left = len(pks) - start
            logger.warning(
                "%s could not be notified that %s in storage %r: %s",
                type(queue).__name__,
                counted(left, "1 file is due", "{} files are due"),
                alias,
                reason(error),
                extra={"queued_storage": alias, "queued_error": type(error).__name__},
            )
            break
    return errors


def require_commits(database: str | None = None) -> None:
    """Raise ``TransactionManagementError`` if Django doesn't call ``on_commit()`` callbacks.

    Call this before any change that cannot be undone. ``database`` is the alias of the ledger's
    database, which is looked up if it isn't given.
    """
    connection = connections[database or ledger_database()]
    if not (connection.in_atomic_block or connection.get_autocommit()):
        raise transaction.TransactionManagementError(
            "QueuedStorage uses transaction.on_commit(), which Django does not support with "
            "autocommit off. Wrap the call in transaction.atomic()."
        )


class _Thread(threading.local):
    """What one thread, which has its own connections, has registered.

    Only Django's list of callbacks keeps a file in the set. The file disappears when Django drops
    the callback because its savepoint or transaction is rolled back.
    """

    def __init__(self) -> None:
        self.registered: WeakSet[WakeUp] = WeakSet()


_thread = _Thread()


def enqueue_on_commit(
    alias: str,
    queue: BaseQueue,
    pk: int,
    listener: Listener | None = None,
    *,
    first: Callable[[], None] | None = None,
    database: str | None = None,
    priority: int = NORMAL,
) -> None:
    """Enqueue the file when the transaction is committed.

    A transaction sends one notification for each storage and queue, with the files of the highest
    priority first. ``first`` is called before it,
    and ``listener.enqueued(error)`` after it. ``database`` is the alias of the ledger's database,
    which is looked up if it isn't given.
    """
    database = database or ledger_database()
    wake_up = WakeUp(alias, queue, pk, database, listener, first, _thread.registered, priority)
    wake_up.registered.add(wake_up)
    transaction.on_commit(wake_up.run, using=database, robust=True)
