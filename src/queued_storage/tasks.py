"""``Transfer`` and ``TransferAndDelete``, the hooks that users subclass."""

from .hooks import Transfer, TransferAndDelete

__all__ = ["Transfer", "TransferAndDelete"]
