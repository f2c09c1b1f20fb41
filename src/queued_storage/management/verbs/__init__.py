"""The verbs of ``manage.py queued_storage``."""

from .adopting import Adopt, Backfill
from .base import Verb
from .checking import CheckRemote
from .comparing import Orphans, Reconcile, Verify
from .copies import AcceptLocal, Evict, Restore
from .losses import AcceptRoot, GiveUp, Prune
from .moving import Move
from .remotes import Remotes
from .status import Status
from .transfers import Cancel, Flush, Prioritize, Retry, Transfer
from .working import Sweep, Worker

VERBS: tuple[type[Verb], ...] = (  # in the order of the help
    Status,
    Remotes,
    Move,
    Worker,
    Sweep,
    Transfer,
    GiveUp,
    AcceptRoot,
    Retry,
    Prioritize,
    Cancel,
    Evict,
    Restore,
    AcceptLocal,
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
