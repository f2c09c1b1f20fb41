"""A storage with mirrors: scripted remotes on disk, named "first", "second" and "third"."""

from collections.abc import Callable
from typing import Any

from django.core.files.storage import storages

from queued_storage.ledger.copies import Copy, copies
from tests.support.moving import place

Mirrored = Callable[..., Any]


def copy_at(remote: str) -> Copy:
    """The only copy at a remote."""
    return copies().get(place=place(remote))


def bytes_on(remote: str, name: str) -> bytes:
    with storages[remote].open(name) as opened:
        return bytes(opened.read())
