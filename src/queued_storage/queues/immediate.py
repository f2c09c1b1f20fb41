"""Process files right after the commit, in the process and thread that saved them."""

from .base import BaseQueue, run_all


class ImmediateQueue(BaseQueue):
    """For commands, scripts and tests. In a view, the request waits for the remote.

    A failed attempt isn't repeated until a worker or a sweep finds the file.
    """

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        return run_all(pks)
