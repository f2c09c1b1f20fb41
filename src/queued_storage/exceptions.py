"""The exceptions of this package. Each message says what to do."""

import errno

from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation


class QueuedStorageError(Exception):
    """The base class of the exceptions about transfers and their files."""


class TransferError(QueuedStorageError):
    """A transfer failed. The message is the error in the ledger.

    Fix its cause, then run ``manage.py queued_storage retry``.
    """


class TransferTimeout(TransferError, TimeoutError):
    """The timeout of ``get()`` or ``wait()`` has elapsed. The transfer continues.

    Wait again, or make sure that a worker is running.
    """


class TransferStalled(TransferError):
    """No byte of the file moved for ``STALL_TIMEOUT`` seconds. The file is retried.

    Find out why the remote, or your ``transfer()`` method, hangs, or increase the setting.
    """


class VerificationError(TransferError):
    """The remote copy differs from what was uploaded. The local copy is kept.

    The upload is retried. If it fails each time, run ``manage.py queued_storage check-remote``.
    """


class LocalFileMissing(TransferError, FileNotFoundError):
    """The file isn't transferred, and its local copy doesn't exist or isn't on this machine.

    Put the local copy back, then run ``manage.py queued_storage retry``; or remove the file with
    ``prune``.
    """


class FileElsewhere(LocalFileMissing):
    """The only copy is on the disk of another host, whose name is ``host``.

    Read the file there, or set ``OTHER_HOST``. Once it is transferred, every host can read it.
    """

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class LocalFileUnreadable(TransferError, OSError):
    """It cannot be found out whether the local copy exists, or it cannot be opened.

    Give the worker's user the permission, or make the disk available. The file is retried until
    then, and these attempts don't count.
    """


class LocalStorageMissing(LocalFileUnreadable):
    """The volume of the local storage isn't mounted: its directory has neither the marker
    ``.queued-storage`` nor the files of the ledger.

    Mount it; everything then continues by itself. Until then nothing is saved there, no attempt
    counts, and no file is taken for a missing one. If the volume is lost, run
    ``manage.py queued_storage accept-root``.
    """


class LocalFileChanged(TransferError):
    """The local copy differs from what was saved.

    Put the original bytes back and retry the file, or accept the new ones with
    ``manage.py queued_storage accept-local``.
    """


class InvalidResult(TransferError, ValueError):
    """A ``transfer()`` method returned neither True nor False.

    Return True if the file was transferred, and False to retry it.
    """


class NameTooLong(TransferError):
    """The remote doesn't allow a name as long as this one, so no retry can succeed.

    Save the file under a shorter name, or configure a shorter location on the remote.
    """


class NoRoom(QueuedStorageError, OSError):
    """The local storage is full, so the file was not saved. ``errno`` is ``ENOSPC``.

    The message says what it is full of. Free space on the disk, let workers transfer what is
    pending, or raise the limit; with ``when_full="remote"`` such files are saved to the remote.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)

    def __str__(self) -> str:
        return str(self.strerror)


class NotPublished(QueuedStorageError, PermissionError):
    """The file waits for its steps, or a step has rejected it, so nobody may read it yet.

    Read it with ``storage.unpublished(name)``, or publish it with
    ``manage.py queued_storage release``.
    """


class RemoteChanged(QueuedStorageError, OSError):
    """The file is at another place than the one that its storage is configured for now.

    Put the old configuration back, or run ``manage.py queued_storage remotes accept`` once the
    objects are at the new place. The message names both places.
    """


class OtherWriter(QueuedStorageError):
    """The remote has the marker of another ledger, so nothing there is overwritten or removed.

    If this is a copy of that ledger, such as a staging site, use a place of its own. If both may
    change files there, run ``manage.py queued_storage remotes accept``. The file waits until then.
    """


class LeaseLost(QueuedStorageError):
    """The attempt was superseded by a delete, by newer content, or by another worker.

    Let it propagate: the attempt ends without changing anything.
    """


class TimeLimitReached(BaseException):
    """The task queue's time limit was reached. The file is retried later.

    Let it propagate, or increase the limit. It isn't an ``Exception``, because libraries that
    catch exceptions and send their request again would exceed the limit.
    """


class NameUnavailable(QueuedStorageError, FileExistsError):
    """The name is still used by a file that is being deleted.

    Use another name, or try again once a worker has finished the delete.
    """


class InvalidName(SuspiciousFileOperation):
    """The name cannot be stored. The message says why.

    Use another name.
    """


class UnknownAlias(ImproperlyConfigured):
    """This process has no storage with the alias of a row.

    Name the storage in ``STORAGES``, or import the module that creates it.
    """


class InvalidQueue(ImproperlyConfigured):
    """The queue cannot be created. The message says which option to change."""


class MissingLibrary(InvalidQueue):
    """An optional library isn't installed. The message names the extra to install."""

    def __init__(self, library: str, extra: str, what: str = "This queue") -> None:
        super().__init__(
            f"{what} requires {library}, which is not installed. "
            f"Run: pip install 'django-queued-storage[{extra}]'"
        )
