"""The ledger in Django's admin: the list, its filters, the dashboard."""

from .files import QueuedFileAdmin

__all__ = ["QueuedFileAdmin"]
