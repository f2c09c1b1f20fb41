"""The ledger in Django's admin: the list, its filters, the dashboard, and jobs."""

from .files import QueuedFileAdmin
from .jobs import JobAdmin

__all__ = ["JobAdmin", "QueuedFileAdmin"]
