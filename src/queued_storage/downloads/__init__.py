"""Open files of a remote storage without holding them in memory."""

from collections.abc import Callable

from django.core.files import File
from django.core.files.storage import Storage
from django.utils.module_loading import import_string

Opener = Callable[[Storage, str, str], File]

# The remote's class and what opens its files better than its own open(). By name, so that no
# cloud library is imported for a remote that is not used.
SPECIALISTS = {"storages.backends.s3.S3Storage": "queued_storage.downloads.s3.opened"}


def opened(remote: Storage, name: str, mode: str) -> File:
    """What ``remote.open()`` returns, or raises; ``FileNotFoundError`` if it returns None."""
    for base in type(remote).__mro__:
        if specialist := SPECIALISTS.get(f"{base.__module__}.{base.__qualname__}"):
            opener: Opener = import_string(specialist)
            return opener(remote, name, mode)
    file: File | None = remote.open(name, mode)
    if file is None:
        raise FileNotFoundError(f"The remote has no {name!r}.")
    return file


__all__ = ["opened"]
