"""Works on a file right after the commit, in the process and thread that saved it."""

from .base import BaseQueue, run_all


class ImmediateQueue(BaseQueue):
    """For commands, scripts and tests. In a request, the request waits for the remote.

    A failed attempt is not repeated by itself; a sweep or a worker does that.
    """

    def enqueue(self, pks: list[int]) -> dict[int, Exception]:
        return run_all(pks)
