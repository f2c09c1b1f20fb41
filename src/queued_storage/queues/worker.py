"""Notify nobody."""

from .base import BaseQueue


class WorkerQueue(BaseQueue):
    """Notify nobody. Run ``manage.py queued_storage worker`` to transfer files.

    A file waits until a worker queries the ledger for due files, by default within a second.
    """

    def enqueue(self, pks: list[int]) -> None:
        pass
