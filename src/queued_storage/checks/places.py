"""Checks of where the two sides of a storage keep their files."""

from collections.abc import Iterator
from inspect import signature
from typing import Any, cast

from django.core.checks import CheckMessage, Error, Warning
from django.core.files.storage import FileSystemStorage, Storage
from django.utils.module_loading import import_string

from ..reporting.descriptions import describe
from ..storage.composition import ComposedStorage
from .registration import check, side_problem, storages


@check
def sides_differ() -> Iterator[CheckMessage]:
    for storage in storages():
        if _place(storage, "local") == _place(storage, "remote"):
            yield Error(
                f"{storage.alias}: local and remote point to the same location: evicting the "
                f"local copy would delete the only copy.",
                hint="Change the location or the bucket of one of them. "
                "See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.E005",
            )


def _place(storage: ComposedStorage, side: str) -> Any:
    """Where a side stores its files, as far as its configuration shows it."""
    if side_problem(storage, side):
        return object()  # E004 reports it; no other place is equal
    spec, options = getattr(storage.sides, side).specification()
    if isinstance(spec, str) and not spec.startswith("storages."):
        spec = import_string(spec)
    if spec is FileSystemStorage or isinstance(spec, FileSystemStorage):
        made = getattr(storage, side)
        return ("file system", made.location)
    return [describe(spec), describe(options)]


@check
def local_does_not_overwrite() -> Iterator[CheckMessage]:
    for storage in storages():
        if not side_problem(storage, "local") and _allows_overwriting(storage.local):
            yield Warning(
                f"{storage.alias}: the local storage has allow_overwrite, which has no effect: "
                f"a new file never replaces an existing one.",
                hint="Remove allow_overwrite. To overwrite a file, open it for writing. "
                "See the docs, under 'Storages'.",
                obj=storage,
                id="queued_storage.W002",
            )


def _allows_overwriting(local: Storage) -> bool:
    if not isinstance(local, FileSystemStorage):
        return False
    try:
        _path, args, options = cast(Any, local).deconstruct()
    except ValueError:  # the class cannot be imported from its module
        return False
    given = signature(type(local)).bind_partial(*args).arguments | options
    return bool(given.get("allow_overwrite"))
