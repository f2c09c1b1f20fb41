"""The storages to name in ``STORAGES``: ``QueuedStorage`` and the ready-made pairs of 0.8."""

from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured

from . import checks  # noqa: F401  # so that one of them can miss the app in INSTALLED_APPS
from .storage.saving import QueuedStorage

__all__ = [
    "QueuedFTPStorage",
    "QueuedFileSystemStorage",
    "QueuedS3BotoStorage",
    "QueuedS3Storage",
    "QueuedSFTPStorage",
    "QueuedStorage",
]


class QueuedFileSystemStorage(QueuedStorage):
    """The local file system, and the remote given."""

    local = "django.core.files.storage.FileSystemStorage"


class QueuedS3Storage(QueuedFileSystemStorage):
    """The local file system and S3, as django-storages' settings describe it."""

    remote = "storages.backends.s3.S3Storage"


QueuedS3BotoStorage = QueuedS3Storage


class QueuedFTPStorage(QueuedFileSystemStorage):
    """The local file system and FTP."""

    remote = "storages.backends.ftp.FTPStorage"


class QueuedSFTPStorage(QueuedFileSystemStorage):
    """The local file system and SFTP."""

    remote = "storages.backends.sftpstorage.SFTPStorage"


class _GoneStorage(QueuedFileSystemStorage):
    gone: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImproperlyConfigured(
            f"{type(self).__name__}: {self.gone} no longer exists in django-storages. "
            f"Use QueuedStorage(local=…, remote=…) with a storage that does, say "
            f"storages.backends.s3.S3Storage."
        )


class QueuedCouchDBStorage(_GoneStorage):
    gone = "storages.backends.couchdb.CouchDBStorage"


class QueuedDatabaseStorage(_GoneStorage):
    gone = "storages.backends.database.DatabaseStorage"


class QueuedMogileFSStorage(_GoneStorage):
    gone = "storages.backends.mogile.MogileFSStorage"


class QueuedGridFSStorage(_GoneStorage):
    gone = "storages.backends.mongodb.GridFSStorage"


class QueuedCloudFilesStorage(_GoneStorage):
    gone = "cumulus.storage.CloudFilesStorage"
