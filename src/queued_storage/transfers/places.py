"""Where a storage keeps its files, so that storages which share a place are recognized."""

import os
import posixpath
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage

from ..ledger.aliases import AliasedStorage
from ..remotes.classes import dotted_path, known_of
from ..reporting.descriptions import describe, is_describable


class Place(NamedTuple):
    """An area that several storages may use, and the folder in it that one of them uses."""

    area: tuple[str, ...]
    folder: str = ""

    def name_in(self, other: "Place", name: str) -> str | None:
        """Return the other storage's name of the file that is called ``name`` here.

        None is returned if that file is not in the other place.
        """
        if self.area != other.area:
            return None
        path = posixpath.join(self.folder, name)
        prefix = f"{other.folder}/" if other.folder else ""
        return path.removeprefix(prefix) if path.startswith(prefix) else None


def place_of(storage: Storage) -> Place:
    """Return the place of a storage; in doubt, two storages of one class have the same."""
    inner = vars(storage).get("storage")
    if isinstance(inner, Storage):  # a wrapper
        return place_of(inner)
    if isinstance(storage, AliasedStorage):  # it chooses the names itself
        return Place(("alias", storage.alias))
    if isinstance(storage, FileSystemStorage):
        return Place(("files",), _real(os.fspath(storage.location)))
    if isinstance(storage, InMemoryStorage):
        return Place(("memory", str(id(storage))))
    for path, read in known_of(type(storage), _KNOWN):
        area, folder = read(storage)
        return Place((path, *map(str, area)), str(folder or "").strip("/"))
    described = describe(storage) if is_describable(storage) else ""
    return Place((dotted_path(type(storage)), repr(described)))


@lru_cache(100)  # every transfer asks for it
def _real(location: str) -> str:
    return os.path.realpath(location)


def _server(endpoint: str | None) -> str:
    """Return what tells S3 servers apart; the endpoints of AWS are one."""
    host = urlsplit(endpoint or "").netloc
    return "" if host.endswith("amazonaws.com") else host


def _of_ftp(storage: Any) -> tuple[tuple[Any, ...], str]:
    """Read the location as ``FTPStorage`` does: its password may contain any character."""
    found = re.search(r"://(.+?):.+@(.+):(\d+)/(.*)$", storage.location)
    return (found[1], found[2], found[3]) if found else (), found[4] if found else ""


_Known = tuple[str, Callable[[Any], tuple[tuple[Any, ...], str]]]

# How the place is read from a storage of a class or of one that inherits from it. By name, so that
# no library is imported.
_KNOWN: dict[str, _Known] = {
    "storages.backends.s3.S3Storage": (
        "s3",
        lambda s3: ((_server(s3.endpoint_url), s3.bucket_name), s3.location),
    ),
    "storages.backends.gcloud.GoogleCloudStorage": (
        "google",
        lambda google: ((google.bucket_name,), google.location),
    ),
    "storages.backends.azure_storage.AzureStorage": (
        "azure",
        lambda azure: (
            (azure.account_name, azure.custom_domain, azure.azure_container),
            azure.location,
        ),
    ),
    "storages.backends.sftpstorage.SFTPStorage": (
        "sftp",
        lambda sftp: ((sftp.host, sftp.params.get("port")), sftp.root_path),
    ),
    "storages.backends.ftp.FTPStorage": ("ftp", _of_ftp),
}
