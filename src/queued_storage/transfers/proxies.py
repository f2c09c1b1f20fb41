"""The two storages as a transfer() sees them: they map the name and hold it to its lease."""

import contextlib
import io
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath, PurePosixPath
from typing import Any

from django.core.files import File
from django.core.files.storage import Storage

from ..exceptions import InvalidResult, TransferError, VerificationError
from ..files import localfiles
from ..files.streams import MeasuredFile, Saved
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.names import COMPONENT_MAX_BYTES
from ..ledger.states import Content
from ..uploaders import Uploader
from .leases import Lease

MAX_NAMES = 100  # tries to find a name on the remote that no foreign object has


class StorageProxy:
    """All of the storage, but for the one file that is being transferred."""

    def __init__(self, storage: Storage, lease: Lease) -> None:
        self.storage = storage
        self._lease = lease

    @property
    def _name(self) -> str:
        return self._lease.row.name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.storage, attribute)


class LocalProxy(StorageProxy):
    """The local storage. Deleting the file is put off until the remote copy is verified."""

    delete_wanted = False

    def open(self, name: str, mode: str = "rb") -> File:
        file = self.storage.open(name, mode)
        if name != self._name or mode != "rb":
            return file
        watched = WatchedFile(file, name, self._lease.progress)
        if localfiles.moves_files(self.storage):
            watched.path = self.storage.path(name)
        return watched

    def delete(self, name: str) -> None:
        if name == self._name:
            self.delete_wanted = True
        else:
            self.storage.delete(name)


class WatchedFile(File):
    """A local file that stops being readable when the transfer is void.

    It tells how far it is read: a sender may read it for its checksum first, and rewind.
    """

    def __init__(self, file: File, name: str, on_position: Callable[[int], None]) -> None:
        super().__init__(file, name)
        self._source: Any = file
        self._on_position = on_position
        self._position = 0
        self.path = ""  # where its bytes are on this machine, as they are

    def read(self, *args: Any) -> Any:
        data = self._source.read(*args)
        self._position += len(data)
        self._on_position(self._position)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._source.seek(offset, whence)
        self._position = self._source.tell()
        return self._position


@dataclass(frozen=True)
class Upload:
    """What is on the remote after a transfer: its name there, and the bytes that it must have."""

    remote_name: str
    content: Content
    is_verbatim: bool = False  # whether the local copy's bytes were sent, as they are
    is_proved: bool = False  # whether the answer was as good as a look at its checksum
    is_found: bool = False  # whether it was not sent by us, so nothing is known of its origin


class RemoteProxy(StorageProxy):
    """The remote storage. ``save`` goes through the uploader, to the name that is reserved."""

    _NAMED = frozenset(  # the methods that take a file's name first
        {"delete", "exists", "open", "path", "size", "url"}
        | {"get_accessed_time", "get_created_time", "get_modified_time"}
    )

    def __init__(self, storage: Storage, lease: Lease, uploader: Uploader) -> None:
        super().__init__(storage, lease)
        self._uploader = uploader
        self.upload: Upload | None = None  # the last one of this attempt
        self._is_unconfirmed = False

    def __getattr__(self, attribute: str) -> Any:
        found = super().__getattr__(attribute)
        return partial(self._mapped, found) if attribute in self._NAMED else found

    def _mapped(self, method: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        if name == self._name and self._lease.row.remote_name:
            name = self._lease.row.remote_name
        return method(name, *args, **kwargs)

    def save(self, name: str, content: Any, max_length: int | None = None) -> str:
        """Store the file; returns ``name``, whatever the remote calls it.

        Any other name than the file's own goes to the remote's ``save()`` as it is.
        """
        if name != self._name:
            return self.storage.save(name, content, max_length=max_length)
        outgoing = MeasuredFile(content, name, self._touch)
        outgoing.content_type = outgoing.content_type or self._lease.row.content_type
        is_verbatim = isinstance(content, WatchedFile)
        if is_verbatim and content.path:
            row = self._lease.row
            known = Content(row.size, row.checksum)
            outgoing.saved = Saved(content.path, known, self._lease.progress)
        remote_name = self._send_somewhere(outgoing, is_verbatim)
        self.upload = Upload(
            remote_name, outgoing.content, is_verbatim, is_proved=self._uploader.has_proof
        )
        return name

    def _send_somewhere(self, outgoing: MeasuredFile, is_verbatim: bool) -> str:
        if (remains := self._lease.row.remains) and self._holds_ours(remains):
            self._note(self._name)
        if reserved := self._lease.row.remote_name:
            self._make_room(reserved)
            return self._send(reserved, outgoing, self._uploader.upload)
        if is_verbatim and not remains and self._uploader.never_overwrites(self._lease.row.size):
            with contextlib.suppress(FileExistsError):  # somebody's; or our own, unanswered
                return self._try_first(outgoing)
        return self._send_new(outgoing)

    def _try_first(self, outgoing: MeasuredFile) -> str:
        """Send the file to its own name without a look at what is there. Until the answer is in
        the ledger, what is found there may be ours or not: only its bytes tell."""
        row = self._lease.row
        if not row.checksum:
            return self._send_new(outgoing)
        if not row.is_tried:
            self._require_ours(ledger().mark_tried(row))
        self._send(self._name, outgoing, self._uploader.upload_new)
        row.remote_name = self._name
        self._is_unconfirmed = True
        return self._name

    def confirm(self) -> None:
        """Have the ledger know what was written, if no promotion comes to say it."""
        if self._is_unconfirmed:
            ledger().record_remote_name(self._lease.row, self._lease.row.remote_name)

    def _holds_ours(self, remains: Content) -> bool:
        return holds(self._uploader, self._lease.row, remains)

    def _touch(self, count: int) -> None:
        self._lease.progress()

    def _make_room(self, reserved: str) -> None:
        """A name in the row was reserved by an earlier attempt or generation: what is there is our
        own remains, as long as the claim stands, which must show right before they are touched."""
        self._note(reserved)
        self._uploader.forget_unfinished(reserved)
        if not self._uploader.replaces:
            self._uploader.remove(reserved)

    def _send_new(self, outgoing: MeasuredFile) -> str:
        """Reserve a name, and send the file there, unless the very same bytes are there already.

        Any other object under the name is somebody else's and stays as it is.
        """
        candidate = self._name
        for _try in range(MAX_NAMES):
            if not self.storage.exists(candidate):
                self._note(candidate)
                try:
                    return self._send(candidate, outgoing, self._uploader.upload_new)
                except FileExistsError:  # of somebody who was quicker; or our own, unanswered
                    if self._is_ours(candidate, outgoing):
                        return candidate
                    self._note("")  # it must not be taken for our remains
            elif candidate == self._name and self._is_ours(candidate, outgoing):
                self._note(candidate)
                return candidate
            candidate = self._alternative()
        raise TransferError(
            f"The remote has other objects under {self._name!r} and {MAX_NAMES} names like it."
        )

    def _send(
        self, remote_name: str, outgoing: MeasuredFile, upload: Callable[[str, MeasuredFile], str]
    ) -> str:
        self._lease.require()
        with contextlib.suppress(AttributeError, OSError):  # it can be read once
            outgoing.seek(0)  # somebody may have had a look at it, and not every remote rewinds
        written = upload(remote_name, outgoing)
        if not isinstance(written, str | PurePath):
            raise InvalidResult(
                f"{type(self.storage).__qualname__}.save() returned {written!r}; it must return "
                f"the name under which the file is stored."
            )
        written = str(written)
        if written != remote_name:
            self._require_ours(ledger().record_remote_name(self._lease.row, written))
            self._lease.row.remote_name = written
        return written

    def _is_ours(self, remote_name: str, outgoing: MeasuredFile) -> bool:
        """Whether the object is a copy of this file, and of no other one that is called so: who
        shares an object loses it when the other file is deleted."""
        others = ledger().exclude(pk=self._lease.row.pk)
        return (
            self._holds(remote_name, outgoing) and not others.with_remote_name(remote_name).exists()
        )

    def _holds(self, remote_name: str, outgoing: MeasuredFile) -> bool:
        """Compare byte by byte: a checksum is no proof against somebody who wants a collision."""
        row = self._lease.row
        self._uploader.progress = self._lease.progress
        try:  # the uploader knows how to ask for it
            self._uploader.verify_size(remote_name, Content(row.size, row.checksum))
        except VerificationError:
            return False
        found = b""
        theirs = self._uploader.read_back(remote_name)
        for piece in outgoing.chunks():
            while len(found) < len(piece):
                more = next(theirs, b"")
                if not more:
                    return False
                found += more
            if found[: len(piece)] != piece:
                return False
            found = found[len(piece) :]
        return not found and not next(theirs, b"")

    def _alternative(self) -> str:
        directory, file_name = posixpath.split(self._name)
        extension = "".join(PurePosixPath(file_name).suffixes)
        root = file_name.removesuffix(extension)
        other = self.storage.get_alternative_name(root, extension)
        if (excess := len(other.encode()) - COMPONENT_MAX_BYTES) > 0:
            extension = PurePosixPath(file_name).suffix
            root = file_name.removesuffix(extension).encode()[:-excess].decode(errors="ignore")
            other = self.storage.get_alternative_name(root, extension)
        return posixpath.join(directory, other)

    def _note(self, remote_name: str) -> None:
        self._require_ours(ledger().reserve_remote_name(self._lease.row, remote_name))
        self._lease.row.remote_name = remote_name

    def _require_ours(self, taken: int) -> None:
        if not taken:
            self._lease.lost = True
        self._lease.require()


def holds(uploader: Uploader, row: QueuedFile, remains: Content) -> bool:
    """Whether the object under the file's own name is what an attempt has sent that did not live
    to tell: of that size and checksum, and not the copy of another file."""
    try:
        if uploader.verify(row.name, remains, "checksum") == "size":
            uploader.verify_content(row.name, remains)
    except (VerificationError, FileNotFoundError):
        return False
    return not ledger().exclude(pk=row.pk).with_remote_name(row.name).exists()
