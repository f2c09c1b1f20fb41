"""The uploader for django-storages' ``AzureStorage``."""

from collections.abc import Iterator
from typing import Any, cast

from azure.core.exceptions import ResourceExistsError
from django.core.files.storage import Storage
from storages.backends.azure_storage import AzureStorage

from ..files.streams import MeasuredFile
from .generic import GenericUploader


class AzureUploader(GenericUploader):
    """Detects that a name has just been taken, and lists blobs by their names."""

    @classmethod
    def suits(cls, remote: Storage) -> bool:
        # Storage documents _save(). AzureStorage has no public way from a name to a path.
        return all(
            getattr(type(remote), method) is getattr(AzureStorage, method)
            for method in ("list_all", "_save", "_get_valid_path")
        )

    def upload_new(self, name: str, content: MeasuredFile) -> str:
        """``AzureStorage`` refuses to replace a blob, unless ``overwrite_files`` is set."""
        try:
            return self.upload(name, content)
        except ResourceExistsError as error:
            raise FileExistsError(f"The remote already has another blob named {name!r}.") from error

    def names(self, under: str = "") -> Iterator[str]:
        """``AzureStorage.listdir()`` returns complete paths, which include the location, and no
        directories."""
        storage = cast(Any, self.remote)
        location = storage.location.strip("./")
        root = f"{location}/" if location else ""
        prefix = f"{root}{under.strip('/')}/" if under.strip("./") else root
        for blob in storage.client.list_blobs(
            name_starts_with=prefix or None, timeout=storage.timeout
        ):
            yield blob.name.removeprefix(root)
