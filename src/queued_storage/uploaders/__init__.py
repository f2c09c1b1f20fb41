"""Send bytes to one kind of remote, and prove that they arrived."""

from functools import lru_cache

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from ..remotes.classes import known_of
from ..remotes.perthread import PerThread
from .base import CannotCopy, Uploader

# The uploader of a remote's class, or of one of its bases. By name, so that the library of a cloud
# is imported only if it is used.
SPECIALISTS = {
    "storages.backends.azure_storage.AzureStorage": "queued_storage.uploaders.azure.AzureUploader",
    "storages.backends.ftp.FTPStorage": "queued_storage.uploaders.ftp.FTPUploader",
    "storages.backends.s3.S3Storage": "queued_storage.uploaders.s3.S3Uploader",
    "storages.backends.sftpstorage.SFTPStorage": "queued_storage.uploaders.sftp.SFTPUploader",
}
GENERIC = "queued_storage.uploaders.generic.GenericUploader"


def uploader_for(remote: Storage, path: str | None = None) -> Uploader:
    """Return the uploader with this dotted path, or the one for the remote's class."""
    if path is not None:
        return _load(path)(remote)
    cls: type = type(remote.storage if isinstance(remote, PerThread) else remote)
    for uploader in _candidates(cls):
        if uploader.suits(remote):
            return uploader(remote)
    return _load(GENERIC)(remote)


@lru_cache(100)
def _candidates(cls: type) -> list[type[Uploader]]:
    """The specialists for a class and its bases, the most specific one first."""
    return [_load(path) for path in known_of(cls, SPECIALISTS)]


@lru_cache(100)
def _load(path: str) -> type[Uploader]:
    try:
        uploader = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"The uploader {path!r} cannot be imported: {error}") from error
    if not (isinstance(uploader, type) and issubclass(uploader, Uploader)):
        raise ImproperlyConfigured(
            f"{path!r} is not an uploader. Subclass queued_storage.uploaders.base.Uploader."
        )
    return uploader


__all__ = ["CannotCopy", "Uploader", "uploader_for"]
