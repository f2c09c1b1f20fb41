"""Adapters that notify workers of files that are due."""

from .base import BaseQueue
from .registry import get_queue

__all__ = ["BaseQueue", "get_queue"]
