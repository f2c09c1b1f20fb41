"""``Transfer`` and ``TransferAndDelete``, the hooks that users subclass."""

from typing import Any

from django.core.files.storage import Storage

__all__ = ["Transfer", "TransferAndDelete"]


class Transfer:
    """Moves one file from ``local`` to ``remote``.

    Override ``transfer()``. Return ``True`` when the remote holds the file, ``False`` to have it
    tried again later; an exception means the same, and its text is kept. Anything else is a
    ``ValueError``, and the file is parked as ``FAILED``.

    ``local`` and ``remote`` stand for the two storages. ``remote.save(name, …)`` writes the file
    under the name that the ledger reserved for it, over the remains of an earlier try, and what
    was written is verified before anybody reads it. ``local.delete(name)`` takes place after
    that. Once the work is void, say since the file was deleted, reading from ``local`` and
    saving to ``remote`` raise ``LeaseLost``.
    """

    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        with local.open(name) as content:
            remote.save(name, content)
        return True


class TransferAndDelete(Transfer):
    """The same, and frees the local copy once the remote one is verified."""

    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        done = super().transfer(name, local, remote, **kwargs)
        if done:
            local.delete(name)
        return done
