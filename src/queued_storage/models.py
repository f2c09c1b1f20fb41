"""The ledger's models, where Django looks for models, and the rows behind them."""

from .ledger.database import ledger
from .ledger.jobs import Job
from .ledger.models import ExactCharField, QueuedFile

__all__ = ["ExactCharField", "Job", "QueuedFile", "ledger"]
