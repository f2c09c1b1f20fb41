"""Queued storages in place of the classes of storages that packages name."""

import shutil
import tempfile
from pathlib import Path

from django.core.files.storage.filesystem import FileSystemStorage
from django.utils.deconstruct import deconstructible

from queued_storage.backends import QueuedStorage

# Django's own tests have another class under the shorter path.
FILES = "django.core.files.storage.filesystem.FileSystemStorage"


@deconstructible
class PrivateStorage(QueuedStorage):
    """For the setting PRIVATE_STORAGE_CLASS of django-private-storage."""

    def __init__(self):
        super().__init__(
            local="private_storage.storage.files.PrivateFileSystemStorage",
            remote=FILES,
            remote_options={"location": tempfile.mkdtemp(prefix="remote-")},
            alias="private",
        )


@deconstructible
class TemporaryStorage(QueuedStorage):
    """For the tests of easy-thumbnails."""

    def __init__(self):
        place = Path(tempfile.mkdtemp(prefix="queued-"))
        super().__init__(
            local=FILES,
            local_options={"location": str(place / "local")},
            remote=FILES,
            remote_options={"location": str(place / "remote")},
            alias=place.name,
        )
        self.place = place
        self.temporary_location = str(place / "local")

    def delete_temporary_storage(self):
        shutil.rmtree(self.place)


@deconstructible
class DjangosFiles(QueuedStorage):
    """For Django's own tests, in place of FileSystemStorage, and with its options."""

    OS_OPEN_FLAGS = getattr(FileSystemStorage, "OS_OPEN_FLAGS", None)  # gone in Django 6

    def __init__(
        self,
        location=None,
        base_url=None,
        file_permissions_mode=None,
        directory_permissions_mode=None,
        allow_overwrite=False,
    ):
        remote = tempfile.mkdtemp(prefix="remote-")
        super().__init__(
            local=FILES,
            local_options={
                "location": location,
                "base_url": base_url,
                "file_permissions_mode": file_permissions_mode,
                "directory_permissions_mode": directory_permissions_mode,
                "allow_overwrite": allow_overwrite,
            },
            remote=FILES,
            remote_options={"location": remote, "base_url": base_url},
            alias=Path(remote).name,
        )

    base_location = property(lambda self: self.local.base_location)
    file_permissions_mode = property(lambda self: self.local.file_permissions_mode)
    directory_permissions_mode = property(lambda self: self.local.directory_permissions_mode)

    @property
    def base_url(self):
        return self.local.base_url

    @base_url.setter
    def base_url(self, value):
        self.local.base_url = self.remote.base_url = value
