"""``Transfer`` and ``TransferAndDelete``, the hooks that users subclass."""

from typing import Any

from django.core.files.storage import Storage

__all__ = ["Transfer", "TransferAndDelete"]


class Transfer:
    """Transfers one file from ``local`` to ``remote``.

    Override ``transfer()``. Return ``True`` if the remote has the file, or ``False`` to try again
    later. An exception means the same, and its text is kept. Any other result is a
    ``ValueError``, and the file becomes ``FAILED``.

    ``local`` and ``remote`` are proxies of the two storages. ``remote.save(name, …)`` writes the
    file under the name that the ledger reserved for it, over the remains of an earlier attempt.
    The remote copy is verified before it is read. ``local.delete(name)`` takes effect after that.
    If the attempt is superseded, for example because the file was deleted, reading from ``local``
    and saving to ``remote`` raise ``LeaseLost``.
    """

    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        with local.open(name) as content:
            remote.save(name, content)
        return True


class TransferAndDelete(Transfer):
    """Does the same, and evicts the local copy once the remote copy is verified."""

    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        done = super().transfer(name, local, remote, **kwargs)
        if done:
            local.delete(name)
        return done
