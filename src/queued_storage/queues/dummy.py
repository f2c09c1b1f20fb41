"""Collect messages and process nothing."""

from .base import BaseQueue, run_all


class DummyQueue(BaseQueue):
    """For tests. In production, use ``queued_storage.queues.worker.WorkerQueue``.

    The last ``KEPT`` messages are kept.
    """

    KEPT = 1000

    def __init__(self) -> None:
        self.messages: list[list[int]] = []

    def enqueue(self, pks: list[int]) -> None:
        self.messages.append(list(pks))
        del self.messages[: -self.KEPT]

    def deliver(self) -> dict[int, Exception]:
        """Process the collected messages in order. Return the exceptions of failed attempts."""
        messages, self.messages = self.messages, []
        return run_all(pk for pks in messages for pk in pks)
