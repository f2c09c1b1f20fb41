"""The ledger's model, where Django looks for models, and the rows behind it."""

from .ledger.database import ledger
from .ledger.models import ExactCharField, QueuedFile

__all__ = ["ExactCharField", "QueuedFile", "ledger"]
