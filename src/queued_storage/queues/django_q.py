"""django-q2."""

from functools import cached_property

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, inline_errors, run_all
from .timeouts import with_timeouts

try:
    from django_q.brokers import Broker, get_broker
    from django_q.tasks import async_task
except ImportError as error:
    raise MissingLibrary("django-q2", "django-q") from error


def run(pks: list[int]) -> None:
    """Process these files of the ledger."""
    run_all(pks)


class DjangoQQueue(BaseQueue):
    """Sends a task to the cluster of this name, by default that of ``Q_CLUSTER``.

    ``timeout`` applies to one message, which may have a hundred files; -1 sets no limit.
    """

    def __init__(self, cluster: str | None = None, timeout: int = -1) -> None:
        if timeout != -1 and not timeout > 0:
            raise InvalidQueue(
                f"timeout must be a positive number of seconds, or -1 for none, not {timeout!r}."
            )
        self._cluster = cluster
        self._options = {
            "timeout": timeout,
            "save": False,
            "ack_failure": True,  # otherwise a broker with receipts delivers the message forever
        }

    @cached_property
    def _broker(self) -> Broker:
        """Created on first use, because the broker on the database opens a connection."""
        broker = get_broker(self._cluster)
        if hasattr(broker.connection, "connection_pool"):  # Redis
            broker.connection = with_timeouts(broker.connection)
        return broker

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # django-q2 runs the task itself if "sync" is set
            async_task(
                f"{run.__module__}.{run.__name__}", pks, broker=self._broker, **self._options
            )
        return errors
