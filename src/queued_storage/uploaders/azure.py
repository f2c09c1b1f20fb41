"""The uploader for django-storages' ``AzureStorage``."""

from collections.abc import Iterator
from typing import Any, cast

from azure.core.exceptions import ResourceExistsError
from django.core.files.storage import Storage
from storages.backends.azure_storage import AzureStorage

from ..files.streams import MeasuredFile
from .generic import GenericUploader


class AzureUploader(GenericUploader):
    """Knows that a name was taken in the last instant, and what the listing means."""

    @classmethod
    def suits(cls, remote: Storage) -> bool:
        return all(
            getattr(type(remote), method) is getattr(AzureStorage, method)
            for method in ("list_all", "_save", "_get_valid_path")
        )

    def upload_new(self, name: str, content: MeasuredFile) -> str:
        """``AzureStorage`` stores on the condition that there is no blob of the name, unless it has
        ``overwrite_files``."""
        try:
            return self.upload(name, content)
        except ResourceExistsError as error:
            raise FileExistsError(f"{name!r} is another blob by now.") from error

    def names(self, under: str = "") -> Iterator[str]:
        """``AzureStorage.listdir()`` gives whole paths, the location among them, and no
        directories."""
        storage = cast(Any, self.remote)
        location = storage.location.strip("./")
        root = f"{location}/" if location else ""
        prefix = f"{root}{under.strip('/')}/" if under.strip("./") else root
        for blob in storage.client.list_blobs(
            name_starts_with=prefix or None, timeout=storage.timeout
        ):
            yield blob.name.removeprefix(root)
