"""Tells which file a path or another spelling of a name leads to."""

import os
import unicodedata

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import Storage

from .localfiles import has_paths


def root_of(storage: Storage) -> str:
    """Return the absolute path of a storage's directory; "" if it has none."""
    location = str(getattr(storage, "location", None) or "")
    return location if os.path.isabs(location) else ""


def name_inside(storage: Storage, path: str) -> str:
    """Return the name of the file that an absolute path leads to.

    Raises ``SuspiciousFileOperation`` for a path outside of the storage.
    """
    root = root_of(storage)
    if not root or os.path.commonpath([root, path]) != os.path.normpath(root):
        raise SuspiciousFileOperation(
            f"The path {path!r} is outside of the local storage. Use the name of a file."
        )
    return os.path.relpath(path, root).replace(os.sep, "/")


def own_name(storage: Storage, name: str) -> str:
    """Return the name that an existing file has on the disk, which another spelling led to.

    Symbolic links among its directories are followed. Where the file system ignores case or
    Unicode forms, the name is as it was created.
    """
    if not has_paths(storage):
        return name
    try:
        root = os.path.realpath(storage.path(""))
        directory, file_name = os.path.split(storage.path(name))
        path = os.path.join(os.path.realpath(directory), file_name)
        if os.path.commonpath([root, path]) != root:
            return name
        parts = os.path.relpath(path, root).split(os.sep)
        for number, part in enumerate(parts):
            parts[number] = _spelling(os.path.join(root, *parts[:number]), part)
    except (OSError, ValueError):  # there is no such file
        return name
    return "/".join(parts)


def _spelling(directory: str, part: str) -> str:
    """Return the name of a directory's entry, as it was created."""
    here = os.lstat(os.path.join(directory, part))
    others = {part.swapcase(), *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))}
    if not any(_is_same(here, directory, other) for other in others - {part}):
        return part  # the file system keeps them apart
    entries = os.listdir(directory)
    if part in entries:
        return part
    return next((entry for entry in entries if _is_same(here, directory, entry)), part)


def _is_same(here: os.stat_result, directory: str, entry: str) -> bool:
    try:
        return os.path.samestat(here, os.lstat(os.path.join(directory, entry)))
    except OSError:
        return False
