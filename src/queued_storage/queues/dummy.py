"""Collects the ids and runs nothing."""

from .base import BaseQueue, run_all


class DummyQueue(BaseQueue):
    """For tests, and for processes that leave all to the ``worker`` command.

    The last ``KEPT`` messages are kept.
    """

    KEPT = 1000

    def __init__(self) -> None:
        self.messages: list[list[int]] = []

    def enqueue(self, pks: list[int]) -> None:
        self.messages.append(list(pks))
        del self.messages[: -self.KEPT]

    def deliver(self) -> dict[int, Exception]:
        """Run what was collected, in its order; returns the errors of the attempts."""
        messages, self.messages = self.messages, []
        return run_all(pk for pks in messages for pk in pks)
