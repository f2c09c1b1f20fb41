"""The ledger in Django's admin: the list, its filters, the dashboard, and jobs."""

from .files import QueuedFileAdmin
from .jobs import JobAdmin
from .unpublished import PreparationAdmin

__all__ = ["JobAdmin", "PreparationAdmin", "QueuedFileAdmin"]
