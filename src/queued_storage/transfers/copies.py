"""What is done with one copy of a file, under the lease on its row."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.files import File
from django.db import transaction

from ..conf import settings
from ..exceptions import LeaseLost, LocalStorageMissing, TransferError, VerificationError
from ..files import localfiles, presence, successors, volumes
from ..files.stamps import Stamp
from ..files.streams import checksum_of
from ..files.successors import Version
from ..ledger import copies as further
from ..ledger.bindings import digest_of
from ..ledger.database import ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from ..uploaders import Uploader
from . import destinations, intact
from .parts import TransferringStorage

# The remote copy


class Upload(NamedTuple):
    """A remote copy: its name there, and the bytes that it must have."""

    remote_name: str
    content: Content
    is_verbatim: bool = False  # whether the bytes of the local copy were sent unchanged
    is_proved: bool = False  # whether the response proves as much as comparing the checksum
    is_found: bool = False  # whether this worker found it instead of sending it


def verify_upload(uploader: Uploader, upload: Upload, progress: Callable[[], object]) -> str:
    """Verify a remote copy as far as ``VERIFY`` asks; return the level that was reached.

    The size alone proves nothing for a copy that was only found.
    """
    level = settings.verify
    if upload.is_proved and level != "content":
        return level
    uploader.progress = progress
    if upload.is_found and level == "size":
        level = "checksum"
    verified = uploader.verify(upload.remote_name, upload.content, level)
    if upload.is_found and verified == "size":
        return uploader.verify_content(upload.remote_name, upload.content)
    return verified


def verify_remote(
    storage: TransferringStorage, row: QueuedFile, level: str, progress: Callable[[], object]
) -> str:
    """Verify the remote copy of a transferred file, as far as the ledger knows its bytes.

    ``RemoteChanged`` is raised if it is at another place than the one that is configured now.
    """
    destinations.require_same_place(storage, row)
    uploader = storage.uploader
    uploader.progress = progress
    content = Content(row.size, row.checksum)
    return uploader.verify(row.remote_name, content, level if row.checksum else "size")


class Likeness(Enum):
    """What an object has in common with the bytes of a file."""

    SAME = "all bytes"
    BEGINNING = "the first bytes, as an interrupted upload leaves them"
    NONE = "nothing that proves anything"


def likeness(
    uploader: Uploader, row: QueuedFile, remote_name: str, file: File, *, is_verbatim: bool = True
) -> Likeness:
    """Compare an object with a file, byte by byte.

    A checksum is no proof here, because an attacker can construct a collision. With
    ``is_verbatim`` the file has the bytes of the row.
    """
    try:
        file.seek(0)
    except (AttributeError, OSError):  # it can be read only once, and was
        return Likeness.NONE
    if is_verbatim and uploader.replaces:  # no object is unfinished, so a checksum can refute it
        try:
            known = Content(row.size, row.checksum)
            uploader.verify(remote_name, known, "checksum" if row.checksum else "size")
        except VerificationError:
            return Likeness.NONE
    return _likeness(uploader.read_back(remote_name), file.chunks())


def _likeness(found: Iterator[bytes], expected: Iterable[bytes]) -> Likeness:
    rest = b""
    for piece in expected:
        while len(rest) < len(piece):
            more = next(found, None)
            if more is None:
                return Likeness.BEGINNING if piece.startswith(rest) else Likeness.NONE
            rest += more
        if not rest.startswith(piece):
            return Likeness.NONE
        rest = rest[len(piece) :]
    return Likeness.NONE if rest or any(found) else Likeness.SAME


# The local copy


def free_local(storage: TransferringStorage, row: QueuedFile, seen: Stamp | None) -> None:
    """Delete the local copy, while the row is locked against new content.

    ``seen`` is its stamp when it was compared; None if it did not exist. ``ImproperlyConfigured``
    is raised if that would delete the remote copy too, and ``RemoteChanged`` if readers would look
    for it at another place.
    """
    require_other_file(storage, row)
    destinations.require_same_place(storage, row)
    volumes.require(row.alias, storage.local)
    with transaction.atomic(using=ledger_database()):
        if not ledger().mark_evicted(row):
            raise LeaseLost(f"{row} was changed before its local copy could be evicted.")
        intact.require_unchanged(storage, row, seen)
        volumes.require(row.alias, storage.local)  # since it may have waited for the lock
        successors.remove(storage.local, row.name, row)


class CopiesMissing(TransferError):
    """The local copy is kept until all mirrors have theirs."""


def require_on_mirrors(storage: TransferringStorage, row: QueuedFile) -> None:
    """Raise ``CopiesMissing`` unless all mirrors have the file, or the first copy is enough."""
    wanted = {each.remote_place.digest for each in storage.with_each_mirror}
    if not wanted or storage.evict_after == "first":
        return
    verified = further.copies().verified_of(row.pk, row.generation)
    wanted -= {digest_of(row.alias, row.place), *verified.values_list("place", flat=True)}
    if wanted:
        raise CopiesMissing(f"{row.name!r} is evicted when all mirrors have a copy.")


def require_other_file(storage: TransferringStorage, row: QueuedFile) -> None:
    """Raise ``ImproperlyConfigured`` if the local copy of a transferred file is its remote copy."""
    storage.require_two_places()
    local, remote = storage.local, storage.remote
    if not (localfiles.has_paths(local) and localfiles.has_paths(remote)):
        return
    paths = local.path(row.name), remote.path(row.remote_name)
    with contextlib.suppress(FileNotFoundError):  # then there are no two names for one file
        if os.path.samefile(*paths):
            raise ImproperlyConfigured(
                f"The local and the remote copy of {row} are one file, {paths[0]!r}, so deleting "
                f"the local copy would delete the only one. Give the storages two locations that "
                f"no link or mount leads to from the other."
            )


def drop_local(
    storage: TransferringStorage, name: str, version: Version, *, even_unconfirmed: bool = False
) -> None:
    """Delete the local copy of a tombstone, while its row is locked.

    Without the lock, a late call could delete a new file that was given the name in the meantime:
    as a new row, after another worker had finished the delete, or as a new generation. While an
    upload is unconfirmed, only the local copy can prove that an object is this file's, so it stays
    for the purge. So it does while its volume is not mounted, which ``LocalStorageMissing`` says.
    """
    problem = volumes.problem_of(storage.alias, storage.local)
    with transaction.atomic(using=ledger_database()):
        if ledger().mark_local_dropped(
            version.pk, version.generation, even_unconfirmed=even_unconfirmed
        ):
            if problem:
                raise LocalStorageMissing(problem)
            # A file may be where its directory was.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                successors.remove(storage.local, name, version)


def is_copy(storage: TransferringStorage, row: QueuedFile) -> bool:
    """Return whether the local file has the bytes that the ledger says; this reads all of them."""
    name = successors.current_name(storage.local, row.name, row)
    if not presence.exists(storage.local, name):
        return False
    with storage.local.open(name) as file:
        return has_saved_bytes(row, file)


def has_saved_bytes(row: QueuedFile, file: File) -> bool:
    """Return whether an open file has the bytes that the ledger says; this reads all of them."""
    found = checksum_of(file.chunks())
    return found.size == row.size and str(found) == row.checksum
