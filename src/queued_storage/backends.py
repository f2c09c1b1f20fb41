"""The storages for ``STORAGES``: ``QueuedStorage`` and the presets of 0.8."""

from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured

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
    """The local file system and any remote."""

    local = "django.core.files.storage.FileSystemStorage"


class QueuedS3Storage(QueuedFileSystemStorage):
    """The local file system and S3, configured by django-storages' settings."""

    remote = "storages.backends.s3.S3Storage"


QueuedS3BotoStorage = QueuedS3Storage


class QueuedFTPStorage(QueuedFileSystemStorage):
    """The local file system and FTP, configured by django-storages' settings."""

    remote = "storages.backends.ftp.FTPStorage"


class QueuedSFTPStorage(QueuedFileSystemStorage):
    """The local file system and SFTP, configured by django-storages' settings."""

    remote = "storages.backends.sftpstorage.SFTPStorage"


class _GoneStorage(QueuedFileSystemStorage):
    """A preset of 0.8 whose remote does not exist in django-storages today."""

    gone: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImproperlyConfigured(
            f"{type(self).__name__} is not available: django-storages no longer has {self.gone}. "
            f"Use QueuedStorage(local=…, remote=…) with another storage, for example "
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
