"""Finds the storage inside of wrappers, such as the one that gives each thread its own."""

from collections.abc import Iterator
from typing import Any, cast

from django.core.files.storage import Storage
from django.utils.functional import LazyObject

from .perthread import PerThread


def layers_of(storage: Storage) -> Iterator[Storage]:
    """Yield the storage, and then each one that it passes its calls on to."""
    inner: object = storage
    while isinstance(inner, Storage | LazyObject):
        if isinstance(inner, LazyObject):  # such as django.core.files.storage.default_storage
            inner = cast(Any, inner.exists).__self__
            continue
        yield inner
        inner = getattr(inner, "storage", None)  # of PerThread, FaultyStorage, and many wrappers


def itself(storage: Storage) -> Storage:
    """Return what a wrapper passes its calls on to.

    Each ``url()`` asks for it, so the usual case is a single look.
    """
    if not isinstance(storage, LazyObject) and not hasattr(storage, "storage"):
        return storage
    *_wrappers, innermost = layers_of(storage)
    return innermost


def attribute_of(storage: Storage, name: str) -> Any:
    """Return an attribute of the storage or of one inside, or None. No connection is opened."""
    layers = (each for each in layers_of(storage) if not isinstance(each, PerThread))
    return next((found for each in layers if (found := getattr(each, name, None))), None)
