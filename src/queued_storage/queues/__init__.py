"""Queue adapters: each has ``run(id)`` called soon, in some worker."""

from .base import BaseQueue, get_queue

__all__ = ["BaseQueue", "get_queue"]
