"""RQ, with the queues and workers of django-rq."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..exceptions import InvalidQueue, MissingLibrary
from .base import BaseQueue, inline_errors, run_all
from .timeouts import with_timeouts

try:
    from django_rq import get_connection, get_queue
except ImportError as error:
    raise MissingLibrary("django-rq", "rq") from error


def run(pks: list[int]) -> None:
    """Process these files of the ledger."""
    run_all(pks)


class RQQueue(BaseQueue):
    """Enqueues a job on the queue of this name in ``RQ_QUEUES``.

    ``job_timeout`` applies to one message, which may have a hundred files; -1 sets no limit, and
    ``None`` uses the queue's ``DEFAULT_TIMEOUT``. Redis keeps a finished job for ``result_ttl``
    seconds, and a job whose worker was killed for ``failure_ttl`` seconds.
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
            # Files are enqueued after the commit, so django-rq must not wait for another one.
            self._queue = get_queue(
                queue, connection=with_timeouts(get_connection(queue)), commit_mode="auto"
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
        with inline_errors() as errors:  # RQ runs the job itself if ASYNC is False
            self._queue.enqueue_call(run, (pks,), **self._options)
        return errors
