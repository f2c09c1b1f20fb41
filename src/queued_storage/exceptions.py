"""The errors of this package. Each message says what to do."""

from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation


class QueuedStorageError(Exception):
    """Base of all errors that are about a file on its way."""


class TransferError(QueuedStorageError):
    """A transfer did not reach its end; the text is the reason the ledger holds."""


class TransferTimeout(TransferError, TimeoutError):
    """The time given to ``get()`` or ``wait()`` is over; the transfer itself goes on."""


class VerificationError(TransferError):
    """What the remote holds is not what was sent; the local copy is kept."""


class LocalFileMissing(TransferError, FileNotFoundError):
    """The only copy, the local one, is not there."""


class FileElsewhere(LocalFileMissing):
    """The only copy is on the disk of another host, which ``host`` names."""

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class LocalFileChanged(TransferError):
    """The local copy to be transferred is not the one that was saved."""


class InvalidResult(TransferError, ValueError):
    """A ``transfer()`` returned something else than True or False."""


class LeaseLost(QueuedStorageError):
    """The attempt is no longer relevant: another worker, a delete or newer content took over."""


class TimeLimitReached(BaseException):
    """The queue's time for a message is over: a transfer ends, and the rest of it stays due.

    It is no ``Exception``: libraries that send again after one would go on past the limit.
    """


class NameUnavailable(QueuedStorageError, FileExistsError):
    """The name is still taken by a file that is being deleted."""


class InvalidName(SuspiciousFileOperation):
    """The name cannot be stored; the message says which rule it breaks."""


class UnknownAlias(ImproperlyConfigured):
    """A row's alias belongs to no storage that this process knows."""


class InvalidQueue(ImproperlyConfigured):
    """The queue cannot be built from what was configured."""


class MissingLibrary(InvalidQueue):
    """A library that not everybody needs is not installed."""

    def __init__(self, library: str, extra: str, what: str = "This queue") -> None:
        super().__init__(
            f"{what} needs {library}, which is not installed. "
            f"Run: pip install 'django-queued-storage[{extra}]'"
        )
