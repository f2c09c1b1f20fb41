"""Signals, sent in the worker after the ledger was written; a receiver that raises is logged.

All carry ``name``, ``local``, ``remote`` (the two storages) and ``queued_file`` (the row, or what
it was before it went). The sender is the storage's class.
"""

from django.dispatch import Signal

file_transferred = Signal()
"""The remote copy was verified; reads go there now."""

transfer_failed = Signal()
"""An attempt failed. Also carries ``error`` (the exception) and ``will_retry`` (bool)."""

file_evicted = Signal()
"""The local copy of a transferred file was freed."""

file_deleted = Signal()
"""Both copies of a deleted file are gone, and its name is free again."""
