"""Open files of a remote storage without holding them in memory."""

from collections.abc import Callable

from django.core.files import File
from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from .classes import known_of

Opener = Callable[[Storage, str, str], File]

# The remote's class and what opens its files better than its own open(). By name, so that no
# cloud library is imported for a remote that is not used.
SPECIALISTS = {"storages.backends.s3.S3Storage": "queued_storage.remotes.opening_s3.opened"}


def opened(remote: Storage, name: str, mode: str) -> File:
    """What ``remote.open()`` returns, or raises; ``FileNotFoundError`` if it returns None."""
    for specialist in known_of(type(remote), SPECIALISTS):
        opener: Opener = import_string(specialist)
        return opener(remote, name, mode)
    file: File | None = remote.open(name, mode)
    if file is None:
        raise FileNotFoundError(f"The remote has no {name!r}.")
    return file


__all__ = ["opened"]
