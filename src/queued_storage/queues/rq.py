"""RQ, with the queues and workers of django-rq."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..exceptions import InvalidQueue, MissingLibrary
from .base import TIMEOUT, BaseQueue, inline_errors, run_all

try:
    from django_rq import get_connection, get_queue
    from redis import ConnectionPool, Redis
except ImportError as error:
    raise MissingLibrary("django-rq", "rq") from error

# RQ_QUEUES is there for the workers, too, which may well be patient.
IMPATIENT: dict[str, Any] = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "retry": None,
    "retry_on_error": [],
    "retry_on_timeout": False,
}


def run(pks: list[int]) -> None:
    """Work on these files of the ledger."""
    run_all(pks)


class RQQueue(BaseQueue):
    """Enqueues a job on the queue of this name in ``RQ_QUEUES``.

    ``job_timeout`` is for one message, so for up to a hundred files; -1 sets no limit, None takes
    the queue's ``DEFAULT_TIMEOUT``. Redis keeps a job that is done for ``result_ttl`` seconds, and
    one whose worker was killed for ``failure_ttl`` seconds.
    """

    def __init__(
        self,
        queue: str = "default",
        *,
        job_timeout: int | None = -1,
        result_ttl: int = 0,
        failure_ttl: int = 86400,
        at_front: bool = False,
    ) -> None:
        try:
            # What is enqueued here is committed already: django-rq need not wait for a commit.
            self._queue = get_queue(
                queue, connection=_impatient(get_connection(queue)), commit_mode="auto"
            )
        except (KeyError, ImproperlyConfigured) as error:
            raise InvalidQueue(f"RQ_QUEUES[{queue!r}] cannot be used: {error!r}") from error
        self._options: dict[str, Any] = {
            "timeout": job_timeout,
            "result_ttl": result_ttl,
            "failure_ttl": failure_ttl,
            "at_front": at_front,
        }

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        with inline_errors() as errors:  # there are some where ASYNC is False
            self._queue.enqueue_call(run, (pks,), **self._options)
        return errors


def _impatient(client: Redis) -> Redis:
    """The same server on connections of our own: a cache may use those of this client, too."""
    pool = client.connection_pool
    if manager := getattr(pool, "sentinel_manager", None):  # asked where the server is
        manager.sentinels = [_impatient(sentinel) for sentinel in manager.sentinels]
    options = pool.connection_kwargs | IMPATIENT
    return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **options))
