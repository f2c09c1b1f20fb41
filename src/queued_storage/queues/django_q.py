"""django-q2."""

from functools import cached_property

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, impatient, inline_errors, run_all

try:
    from django_q.brokers import Broker, get_broker
    from django_q.tasks import async_task
except ImportError as error:
    raise MissingLibrary("django-q2", "django-q") from error


def run(pks: list[int]) -> None:
    """Work on these files of the ledger."""
    run_all(pks)


class DjangoQQueue(BaseQueue):
    """Sends a task to the cluster of this name, by default that of ``Q_CLUSTER``.

    ``timeout`` is for one message, so for up to a hundred files; -1 sets no limit.
    """

    def __init__(self, cluster: str | None = None, timeout: int = -1) -> None:
        if timeout != -1 and not timeout > 0:
            raise InvalidQueue(f"timeout={timeout!r}: give seconds, or -1 for no limit.")
        self._cluster = cluster
        self._options = {
            "timeout": timeout,
            "save": False,
            "ack_failure": True,  # or a broker that waits for receipts delivers it over and over
        }

    @cached_property
    def _broker(self) -> Broker:
        """Made when it is needed: that of the database opens a connection."""
        return _impatient(get_broker(self._cluster))

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # there are some where Q_CLUSTER has "sync"
            async_task(
                f"{run.__module__}.{run.__name__}", pks, broker=self._broker, **self._options
            )
        return errors


def _impatient(broker: Broker) -> Broker:
    """The broker; if that is Redis, on connections of our own, since a cache may use its, too."""
    if hasattr(broker.connection, "connection_pool"):
        broker.connection = impatient(broker.connection)
    return broker
