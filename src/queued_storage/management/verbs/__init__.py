"""The verbs of ``manage.py queued_storage``."""

from .adopting import Adopt, Backfill
from .base import Verb
from .checking import CheckRemote
from .comparing import Orphans, Reconcile, Verify
from .completing import Completion
from .copies import AcceptLocal, Evict, Restore
from .listing import List
from .losses import AcceptRoot, GiveUp, Prune
from .moving import Move
from .remotes import Remotes
from .showing import Show
from .status import Status
from .transfers import Cancel, Flush, Prioritize, Retry, Transfer
from .unpublished import Release, Unpublished
from .working import Sweep, Worker

VERBS: tuple[type[Verb], ...] = (  # in the order of the help
    Status,
    List,
    Show,
    Remotes,
    Move,
    Worker,
    Sweep,
    Transfer,
    GiveUp,
    AcceptRoot,
    Retry,
    Prioritize,
    Unpublished,
    Release,
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
    Completion,
)
Completion.completes = VERBS

__all__ = ["VERBS", "Verb"]
