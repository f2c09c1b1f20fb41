"""The functions that a scheduler calls regularly."""

from .queues.sweep import sweep

__all__ = ["sweep"]
