"""The signals, which are sent in the worker after the ledger was updated.

All but ``remote_changed`` and ``local_space_changed`` provide ``name``, ``local``, ``remote`` (the
two storages) and ``queued_file`` (the row, as it was last if it no longer exists). The sender is
the storage's class. An exception of a receiver is logged.
"""

from django.dispatch import Signal

file_transferred = Signal()
"""The remote copy was verified. From now on it is the one that is read."""

transfer_failed = Signal()
"""An attempt failed. Also provides ``error`` (the exception) and ``will_retry`` (a bool)."""

file_evicted = Signal()
"""The local copy of a transferred file was deleted."""

file_deleted = Signal()
"""Both copies of a deleted file were removed, and its name can be used again."""

file_rejected = Signal()
"""A step rejected a file. Also provides ``reason`` (a string) and ``step`` (its dotted path)."""

remote_changed = Signal()
"""A remote was closed, opened, paused or resumed.

Provides ``alias``, ``place`` (its description), ``state`` (a ``Remote.State``) and ``error`` (a
string), and none of the above. The sender is the storage's class.
"""

local_space_changed = Signal()
"""A local storage became full, or has room again.

Provides ``alias``, ``host`` ("" if all hosts share it), ``is_full`` (a bool) and ``reason`` (a
string, "" if it has room), and none of the above. The sender is the storage's class.
"""
