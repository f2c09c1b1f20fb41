"""The verbs of ``manage.py queued_storage`` that work on many files."""

from .base import Verb
from .copies import Evict, Restore
from .transfers import Cancel, Retry

VERBS: tuple[type[Verb], ...] = (Retry, Cancel, Evict, Restore)

__all__ = ["VERBS", "Verb"]
