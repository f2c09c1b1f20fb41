"""Parts of a storage that belong to another storage of the project."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.core.files.storage import Storage, storages
from django.db.models import FileField

from ..ledger.aliases import known_storages
from ..remotes.classes import LIBRARY
from ..remotes.places import IN_PROCESS, Place, path_inside, place_of


def directories_of_others(storage: Storage) -> tuple[str, ...]:
    """The directories of a storage, ending with a slash, in which another one keeps its files.

    For example static files in a bucket: neither the ledger nor a model knows their names there.
    """
    own = place_of(storage)
    paths = {path_inside(own, place) for place in _places(own.kind in IN_PROCESS)}
    return tuple(sorted(f"{path}/" for path in paths if path))


def _places(is_in_process: bool) -> Iterator[Place]:
    for storage in _storages(is_in_process):
        with suppress(Exception):  # its own checks report the error
            yield place_of(storage)


def _storages(is_in_process: bool) -> Iterator[Storage]:
    """The storages of the project, without those that need a library for another kind of place."""
    backends: dict[str, Any] = storages.backends
    for key, parameters in backends.items():
        if is_in_process and str(parameters.get("BACKEND")).startswith(LIBRARY):
            continue
        with suppress(Exception):
            yield storages[key]
    for queued in known_storages():
        for side in getattr(queued, "sides", ()):
            spec, _options = side.specification()
            if is_in_process and isinstance(spec, str) and spec.startswith(LIBRARY):
                continue
            with suppress(Exception):
                yield side.storage
    for model in apps.get_models():
        fields: Any = model._meta.local_fields
        yield from (field.storage for field in fields if isinstance(field, FileField))
