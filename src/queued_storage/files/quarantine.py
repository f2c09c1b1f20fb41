"""Bytes that readers do not get: new content before it is published, and what was rejected.

They lie beside their file under a name that cannot be guessed, and that is one of the package's own
names: no method of a storage gives, lists or deletes such a file.
"""

import posixpath
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import Storage

from ..ledger.names import GATE_PREFIX, extension_of
from ..ledger.preparations import Preparation
from ..ledger.states import Content
from . import localfiles, presence, successors
from .streams import MeasuredFile, content_of
from .successors import NextVersion


def new_hidden_name(name: str) -> str:
    """Return a hidden name for bytes of a file."""
    directory, file_name = posixpath.split(name)
    unique = f"{GATE_PREFIX}{secrets.token_hex(16)}{extension_of(file_name)}"
    return posixpath.join(directory, unique)


def is_hidden(name: str) -> bool:
    """Return whether a local name is one of these."""
    return posixpath.basename(name).startswith(GATE_PREFIX)


class Hidden(NamedTuple):
    """Bytes under a hidden name."""

    name: str
    content: Content


def save(local: Storage, name: str, given: Any) -> Hidden:
    """Write new bytes of a file under a hidden name."""
    content = given if isinstance(given, File) else ContentFile(given)
    hidden = new_hidden_name(name)
    measured = MeasuredFile(content, hidden)
    if content.seekable():
        measured.seek(0)
    try:
        saved = local.save(hidden, measured)
        found = measured.content
        if local.size(saved) != found.size:  # the storage changes content; readers get this
            found = content_of(local, saved)
    except BaseException:
        localfiles.discard(local, hidden)
        raise
    finally:
        content.close()
    return Hidden(saved, Content(found.size, found.checksum))


def next_version(preparation: Preparation) -> NextVersion:
    """Return the generation that the hidden content of a preparation becomes."""
    return NextVersion(preparation.file_id, preparation.generation + 1, preparation.checksum)


def waiting_name(preparation: Preparation) -> str:
    """Return the name under which hidden content waits while it is published."""
    return successors.waiting_name(preparation.file.name, next_version(preparation))


def local_name(local: Storage, preparation: Preparation) -> str:
    """Return the local name of a preparation's content.

    If a worker died while it published hidden content, that waits as the next generation already.
    """
    name, hidden = preparation.file.name, preparation.hidden
    if not hidden:
        return successors.current_name(local, name, preparation.file)
    if preparation.is_unsettled and not presence.exists(local, hidden):
        return successors.current_name(local, name, _rejected_version(preparation))
    waiting = waiting_name(preparation)
    if not presence.exists(local, hidden) and presence.exists(local, waiting):
        return waiting
    return hidden


def _rejected_version(preparation: Preparation) -> NextVersion:
    """The generation that was rejected, which the next one followed at once."""
    return NextVersion(preparation.file_id, preparation.generation - 1, preparation.checksum)


def publish(local: Storage, preparation: Preparation, hidden: Hidden) -> None:
    """Let hidden content wait as the next generation, which begins with this transaction."""
    version = NextVersion(preparation.file_id, preparation.generation + 1, hidden.content.checksum)
    waiting = successors.waiting_name(preparation.file.name, version)
    if presence.exists(local, hidden.name):
        localfiles.replace(local, hidden.name, waiting)


def put_away(local: Storage, preparation: Preparation) -> None:
    """Move rejected bytes to their hidden name, while the row is locked."""
    name = local_name(local, preparation)
    if name != preparation.hidden and presence.exists(local, name):
        localfiles.replace(local, name, preparation.hidden)


def remove(local: Storage, preparation: Preparation) -> None:
    """Delete the hidden content of a preparation, wherever it is."""
    for name in _places(local, preparation):
        if presence.exists(local, name):
            local.delete(name)


def _places(local: Storage, preparation: Preparation) -> Iterator[str]:
    if not preparation.hidden:
        return
    yield preparation.hidden
    yield waiting_name(preparation)
    if preparation.is_unsettled:
        yield successors.current_name(local, preparation.file.name, _rejected_version(preparation))
