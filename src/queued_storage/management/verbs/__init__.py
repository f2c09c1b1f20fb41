"""The verbs of ``manage.py queued_storage`` that work on many files."""

from .adopting import Adopt, Backfill
from .base import Verb
from .checking import CheckRemote
from .comparing import Orphans, Reconcile, Verify
from .copies import Evict, Restore
from .ending import Flush, Prune
from .transfers import Cancel, Retry

VERBS: tuple[type[Verb], ...] = (
    Retry,
    Cancel,
    Evict,
    Restore,
    Verify,
    Reconcile,
    Orphans,
    Adopt,
    Backfill,
    Flush,
    Prune,
    CheckRemote,
)

__all__ = ["VERBS", "Verb"]
