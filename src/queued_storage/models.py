"""The ledger's models, where Django looks for models, and the rows behind them."""

from .ledger.copies import Copy
from .ledger.database import ledger
from .ledger.identity import LedgerIdentity
from .ledger.jobs import Job
from .ledger.localsides import LocalSide
from .ledger.models import ExactCharField, QueuedFile
from .ledger.preparations import Preparation
from .ledger.remotes import Remote
from .ledger.throughput import Throughput

__all__ = [
    "Copy",
    "ExactCharField",
    "Job",
    "LedgerIdentity",
    "LocalSide",
    "Preparation",
    "QueuedFile",
    "Remote",
    "Throughput",
    "ledger",
]
