"""The ledger's model and field, where Django and migrations look for them."""

from .ledger.models import ExactCharField, QueuedFile

__all__ = ["ExactCharField", "QueuedFile"]
