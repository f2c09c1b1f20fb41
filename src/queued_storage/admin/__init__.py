"""The ledger in Django's admin."""

from .files import QueuedFileAdmin

__all__ = ["QueuedFileAdmin"]
