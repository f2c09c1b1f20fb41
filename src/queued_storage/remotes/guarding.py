"""Requests to a remote whose errors say what to do."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from .classes import known_of

Guard = Callable[[Storage, str], AbstractContextManager[None]]

# By name, so that the library of a cloud is imported only if it is used
SPECIALISTS = {"storages.backends.s3.S3Storage": "queued_storage.remotes.refusals_s3.guarded"}


def guarded(remote: Storage, name: str) -> AbstractContextManager[None]:
    """Return a context in which the remote is asked about a file.

    ``NameTooLong`` is raised for a name that the remote doesn't allow, and refusals are explained.
    """
    for specialist in known_of(type(remote), SPECIALISTS):
        guard: Guard = import_string(specialist)
        return guard(remote, name)
    return nullcontext()
