"""Adapters that get a worker to look at some rows soon."""

from .base import BaseQueue
from .registry import get_queue

__all__ = ["BaseQueue", "get_queue"]
