"""Notifies nobody: workers find what is due in the ledger."""

from .base import BaseQueue


class WorkerQueue(BaseQueue):
    """For projects that run ``manage.py queued_storage worker``, and need no other queue.

    Nothing is sent. A file waits until a worker looks for due files, by default within a second.
    """

    def enqueue(self, pks: list[int]) -> None:
        pass
