"""Roots of storages in which a pass over all files would meet files of the project itself."""

import os
import re
import sys
from collections.abc import Iterator
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, Storage
from django.db import connections

from ..files.localfiles import has_paths
from .inventory import unknown
from .storages import OperableStorage

ENTRIES = 10_000  # of a root that are searched for code


class Danger(NamedTuple):
    """Why a root holds more than uploaded files."""

    is_unset: bool  # whether the root is only the current directory, by default
    reason: str


def require_safe_root(storage: OperableStorage, side: str) -> None:
    """Raise ``ImproperlyConfigured`` if files of the project are among those of this side.

    Call it before a pass over all files of a storage: it would upload or delete the project.
    """
    danger = danger_of(getattr(storage, side))
    if danger:
        raise ImproperlyConfigured(
            f"{storage.alias}: the {side} storage {danger.reason} Its files may be the project "
            f"itself, so nothing was done. Change the location, then run 'manage.py check'."
        )
    storage.require_two_places()


def danger_of(storage: Storage) -> Danger | None:
    """Return why files of the project are among those of the storage; None if they are not."""
    if not has_paths(storage):
        return None
    disk: Any = storage
    root = os.path.abspath(disk.location)
    if _is_unset(disk):
        return Danger(
            True,
            f"has an empty location, as without MEDIA_ROOT, so it uses the current directory, "
            f"{root!r}.",
        )
    for what, path in _files_of_the_project(root):
        return Danger(False, f"has the location {root!r}, which holds {what} {path!r}.")
    if name := _unknown_code(root):
        return Danger(
            False,
            f"has the location {root!r}, which holds the Python code {name!r}, which is not an "
            f"uploaded file.",
        )
    return None


def _is_unset(disk: FileSystemStorage) -> bool:
    return os.path.normpath(str(disk.base_location)) == os.curdir


def _files_of_the_project(root: str) -> Iterator[tuple[str, str]]:
    """Yield what is in the root and never is an upload, and its path."""
    prefixes = tuple(f"{path.rstrip('/')}/" for path in (root, os.path.realpath(root)))
    for what, path in _paths_of_the_project():
        # Links may lead to the root from elsewhere.
        if any(f"{each}/".startswith(prefixes) for each in (path, os.path.realpath(path))):
            yield what, path
    for module in list(sys.modules.values()):
        # Any other way to read it may import a lazy module. Libraries of cffi only pose as modules.
        is_module = issubclass(type(module), ModuleType)
        names = ModuleType.__getattribute__(module, "__dict__") if is_module else {}
        file = names.get("__file__")
        if isinstance(file, str) and file.startswith(prefixes):
            yield "the module", file


def _paths_of_the_project() -> Iterator[tuple[str, str]]:
    if base := getattr(settings, "BASE_DIR", None):
        yield "BASE_DIR,", os.path.abspath(base)
    for alias in connections:
        options = connections.settings[alias]
        name = str(options.get("NAME") or "")
        if re.search("sqlite|spatialite", options["ENGINE"]) and name != ":memory:":
            yield "the database", os.path.abspath(name.removeprefix("file:").partition("?")[0])
    for config in apps.get_app_configs():
        yield "the app", os.path.abspath(config.path)
    for directory in sys.path:
        yield "a directory of sys.path,", os.path.abspath(directory)


def _unknown_code(root: str) -> str | None:
    """Return the name of a Python file directly in the root that nobody has uploaded.

    An uploaded file may have such a name too; the ledger and the models know it.
    """
    try:
        with os.scandir(root) as entries:
            some = islice(entries, ENTRIES)
            names = [entry.name for entry in some if entry.name.endswith(".py")]
    except OSError:
        return None
    try:
        return next(iter(sorted(unknown(names))), None) if names else None
    except Exception:  # the database cannot be asked
        return None
