"""The two storages as a task's ``transfer()`` sees them."""

import io
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from django.core.files import File
from django.core.files.storage import Storage

from ..files import localfiles, presence
from ..files.stamps import Stamp, read_at_once
from ..files.streams import MeasuredFile, Saved, Stored, seek
from ..ledger.states import Content
from ..runtime.rates import RateLimit
from ..uploaders import Uploader
from .claims import UploadClaim
from .copies import Upload
from .naming import Naming
from .pacing import upload_limit
from .writers import PlaceMarker

AT_ONCE_MAX = 1024 * 1024  # bytes of a file that is read when it is opened


class StorageProxy:
    """A storage that treats the file of this transfer in its own way, and passes on the rest."""

    def __init__(self, storage: Storage, lease: UploadClaim) -> None:
        self.storage = storage
        self._lease = lease

    @property
    def _name(self) -> str:
        return self._lease.row.name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.storage, attribute)


class LocalProxy(StorageProxy):
    """The local storage. The file is deleted only after its remote copy was verified."""

    delete_wanted = False
    # Whether a small file may be read when it is opened: a task of the project may want the
    # descriptor of an open one.
    may_read_at_once = False

    def size_if_there(self) -> int | None:
        """Return the size of the file as the storage reports it; None if it certainly does not
        exist."""
        if not self._is_plain:
            is_there = presence.exists(self.storage, self._name)
            return self.storage.size(self._name) if is_there else None
        return presence.size_at(self._path)

    def open(self, name: str, mode: str = "rb") -> File:
        if name != self._name or mode != "rb":
            return self.storage.open(name, mode)
        with presence.errors_of(name):
            if watched := self._read(name):
                return watched
            file = self.storage.open(name, mode)
        watched = WatchedFile(file, name, self._lease.progress)
        if localfiles.moves_files(self.storage):
            watched.path = self._path
            watched.stamp = Stamp.of_open(file)
        return watched

    def _read(self, name: str) -> "WatchedFile | None":
        """Return a small file with its bytes in memory; None for another file."""
        is_small = self._lease.row.size <= AT_ONCE_MAX
        if not (is_small and self.may_read_at_once and self._is_plain):
            return None
        # The file may have become large since it was saved.
        if not (found := read_at_once(self._path, AT_ONCE_MAX)):
            return None
        data, stamp = found
        watched = WatchedFile(io.BytesIO(data), name, self._lease.progress)
        watched.path, watched.stamp = self._path, stamp
        return watched

    @cached_property
    def _is_plain(self) -> bool:
        return localfiles.opens_paths(self.storage)

    @cached_property
    def _path(self) -> str:
        return self.storage.path(self._name)

    def delete(self, name: str) -> None:
        if name == self._name:
            self.delete_wanted = True
        else:
            self.storage.delete(name)


class WatchedFile(File):
    """A local file that cannot be read any further once its transfer is void.

    It reports its position, since an uploader may read it once for its checksum, and then rewind.
    """

    def __init__(self, file: Any, name: str, on_position: Callable[[int], None]) -> None:
        super().__init__(file, name)
        self._source = file
        self._on_position = on_position
        self._position = 0
        # Of its unchanged bytes on this machine, if they are there
        self.path = ""
        self.stamp: Stamp | None = None
        self.stored: Stored | None = None  # its object on another remote, if that may be copied

    def read(self, *args: Any) -> Any:
        data = self._source.read(*args)
        self._position += len(data)
        self._on_position(self._position)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = seek(self._source, offset, whence)
        return self._position


class RemoteProxy(StorageProxy):
    """The remote storage. ``save()`` sends the file through the uploader."""

    _NAMED = frozenset(  # the methods whose first argument is a file's name
        {"exists", "open", "path", "size", "url"}
        | {"get_accessed_time", "get_created_time", "get_modified_time"}
    )

    def __init__(
        self, storage: Storage, lease: UploadClaim, uploader: Uploader, marker: PlaceMarker
    ) -> None:
        super().__init__(storage, lease)
        uploader.progress = lease.progress
        self._marker = marker
        self._uploader = uploader
        self._naming: Naming | None = None  # of the last save()
        self.upload: Upload | None = None  # what the last save() sent
        self.stamp: Stamp | None = None  # of the local copy whose bytes it sent

    def __getattr__(self, attribute: str) -> Any:
        found = super().__getattr__(attribute)
        return partial(self._mapped, found) if attribute in self._NAMED else found

    def _mapped(self, method: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        if name == self._name and self._lease.row.remote_name:
            name = self._lease.row.remote_name
        return method(name, *args, **kwargs)

    def save(self, name: str, content: Any, max_length: int | None = None) -> str:
        """Store the file; return ``name``, even if it has another name on the remote.

        A file of any other name is passed on to the remote's ``save()``.
        """
        if name != self._name:
            return self.storage.save(name, content, max_length=max_length)
        row = self._lease.row
        limit = upload_limit()
        moved = partial(self._pay, limit) if limit else self._lease.moved
        outgoing = MeasuredFile(content, name, moved)
        outgoing.content_type = outgoing.content_type or row.content_type
        is_verbatim = isinstance(content, WatchedFile)
        self.stamp = content.stamp if is_verbatim else None
        outgoing.stored = content.stored if is_verbatim else None
        if is_verbatim and content.path and not limit:  # an uploader would read it at full speed
            known = Content(row.size, row.checksum)
            outgoing.saved = Saved(content.path, known, self._lease.progress)
        self.settle()  # a task may send the file again
        self._uploader.has_proof = False
        self._naming = Naming(
            self.storage,
            self._uploader,
            self._lease,
            outgoing,
            self._marker,
            is_verbatim=is_verbatim,
            is_repeated=self._naming is not None and self._naming.is_begun,
        )
        remote_name = self._naming.send()
        self.upload = Upload(
            remote_name, outgoing.content, is_verbatim, is_proved=self._uploader.has_proof
        )
        return name

    def _pay(self, limit: RateLimit, count: int) -> None:
        """Wait until these bytes, which were read to be sent, may be sent."""
        self._lease.moved(count)
        limit.pay(count, self._lease.progress)

    def delete(self, name: str) -> None:
        """Delete a file; of the transferred file only what an upload of it has made.

        Raises ``OtherWriter`` if the remote has the marker of another ledger.
        """
        if name != self._name:
            self._marker.require_own()
            self.storage.delete(name)
        elif self._lease.row.is_object_its_own or (self._naming and self._naming.is_sent):
            self._marker.require_own()
            self.storage.delete(self._lease.row.remote_name)

    def release_try(self) -> None:
        """Record that nothing was sent, if the ledger says that the file may have been."""
        if self._lease.row.is_tried:
            self._lease.ledger.release_remote_name(self._lease.row)

    def settle(self) -> None:
        """Write to the ledger what is known of the object, if no promotion is going to do it."""
        if self._naming:
            self._naming.settle()
