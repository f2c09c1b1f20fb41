"""Looks up the files of a page at once, before a template asks for one URL after the other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db.models import FileField, Model
from django.db.models.constants import LOOKUP_SEP
from django.db.models.fields.files import FieldFile


@contextmanager
def prefetch_urls(instances: Iterable[Model], *fields: str) -> Iterator[None]:
    """Look up the files of these instances by one query for each queued storage.

    In the block, ``url`` of these files takes no query, and its answer is that of the block's
    start, unless the file is changed in the block itself. ``fields`` are names of file fields, with
    two underscores for those of related objects; without them, all file fields of the instances are
    meant. Files in other storages are left out. Raises ``TypeError`` for what is not a file.
    """
    storages: dict[str, Any] = {}  # by alias
    names = defaultdict(list)
    for instance in instances:
        for file in _files_of(instance, fields):
            storage: Any = file.storage
            if file and hasattr(storage, "prefetched"):
                storages[storage.alias] = storage
                names[storage.alias].append(file.name)
    with ExitStack() as stack:
        for alias, storage in storages.items():
            stack.enter_context(storage.prefetched(names[alias]))
        yield


def _files_of(instance: Model, fields: Iterable[str]) -> Iterator[FieldFile]:
    paths = list(fields) or [
        field.attname for field in instance._meta.concrete_fields if isinstance(field, FileField)
    ]
    for path in paths:
        found: Any = instance
        for part in path.split(LOOKUP_SEP):
            found = None if found is None else getattr(found, part)
        if isinstance(found, FieldFile):
            yield found
        elif found is not None:  # of a related object that is not set
            raise TypeError(f"{path!r} of {instance!r} is {found!r}, which is not a file.")
