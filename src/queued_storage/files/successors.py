"""New content of a recorded file, which waits beside it until the row has its generation.

The local copy keeps the old bytes until the transaction is committed, so a rollback finds them.
Where the new ones wait follows from the row. So every reader finds the bytes of the row that it
sees, whether the transaction is its own, was committed, or ended with a crash.
"""

import posixpath
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from django.core.files.storage import Storage
from django.db import transaction

from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.names import RESERVED_PREFIX, extension_of
from ..reporting.logs import logger
from . import localfiles, presence


class Version(Protocol):
    """A generation of a file; a row or an entry is one too."""

    @property
    def pk(self) -> Any: ...
    @property
    def generation(self) -> Any: ...
    @property
    def checksum(self) -> Any: ...


class NextVersion(NamedTuple):
    """The generation that begins with new content."""

    pk: int
    generation: int
    checksum: str


def waiting_name(name: str, version: Version) -> str:
    """Return the hidden name under which the content of a generation waits.

    The checksum tells it from content of the same generation whose transaction was rolled back.
    """
    directory, file_name = posixpath.split(name)
    checksum = version.checksum.rpartition(":")[2]
    parts = f"{version.pk}-{version.generation}-{checksum}"
    return posixpath.join(directory, f"{RESERVED_PREFIX}{parts}{extension_of(file_name)}")


def key_and_generation(name: str) -> tuple[int, int] | None:
    """Return what the name of waiting content says, or None for any other name."""
    parts = posixpath.basename(name).removeprefix(RESERVED_PREFIX).split("-")
    if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])


def current_name(local: Storage, name: str, version: Version) -> str:
    """Return the local name of a generation's content: the hidden one while it waits there."""
    if version.generation == 1:
        return name
    waiting = waiting_name(name, version)
    if localfiles.has_paths(local):
        return waiting if presence.is_there(local.path(waiting)) else name
    return waiting if local.exists(waiting) else name


def begin(
    local: Storage,
    name: str,
    version: Version,
    start: Callable[[], int],
    place: Callable[[str], None],
    rows: QueuedFileQuerySet,
) -> bool:
    """Start a generation with ``start()``, a verb of the ledger, and ``place()`` its content.

    The content becomes the local copy after the commit. Return False if the ledger refused; after
    a failure everything is as it was.
    """
    waiting = waiting_name(name, version)
    try:
        with transaction.atomic(using=rows.db):
            if not start():
                return False
            place(waiting)
            transaction.on_commit(
                lambda: put_in_place(local, name, version), using=rows.db, robust=True
            )
    except BaseException:
        with suppress(Exception):  # the answer to a COMMIT may be lost
            if not rows.filter(pk=version.pk, generation=version.generation).exists():
                local.delete(waiting)
        raise
    return True


def put_in_place(local: Storage, name: str, version: Version) -> None:
    """Let content that waits be the local copy, if its generation is still the current one.

    A later generation, and a delete, compare under the same lock of the row.
    """
    if current_name(local, name, version) == name:
        return
    rows = ledger()
    with transaction.atomic(using=rows.db):
        is_current = rows.lock_generation(version.pk, version.generation)
        waiting = current_name(local, name, version)
        if waiting == name:  # another process was faster
            return
        if is_current:
            localfiles.replace(local, waiting, name)
        else:
            logger.info("%s has newer content; that of an earlier save is dropped.", name)
            local.delete(waiting)


def remove(local: Storage, name: str, version: Version) -> None:
    """Delete the local copy, and what waits to replace it, while the row is locked."""
    waiting = current_name(local, name, version)
    if waiting != name:
        local.delete(waiting)
    local.delete(name)
