"""Open files of a remote storage without keeping them in memory."""

from collections.abc import Callable

from django.core.files import File
from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from .classes import known_of

Opener = Callable[[Storage, str, str], File]

# What opens the files of a class instead of its own open(). By name, so that the library of a
# cloud is imported only if it is used.
SPECIALISTS = {"storages.backends.s3.S3Storage": "queued_storage.remotes.opening_s3.opened"}


def opened(remote: Storage, name: str, mode: str) -> File:
    """Open a file of the remote, or raise what ``remote.open()`` raises.

    ``FileNotFoundError`` is raised if ``remote.open()`` returns None.
    """
    for specialist in known_of(type(remote), SPECIALISTS):
        opener: Opener = import_string(specialist)
        return opener(remote, name, mode)
    file: File | None = remote.open(name, mode)
    if file is None:
        raise FileNotFoundError(f"The remote has no file named {name!r}.")
    return file


__all__ = ["opened"]
