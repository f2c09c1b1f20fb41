"""The ledger's model, where Django looks for models."""

from .ledger.models import ExactCharField, QueuedFile

__all__ = ["ExactCharField", "QueuedFile"]
