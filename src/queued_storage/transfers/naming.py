"""Decides under which name on the remote a file may be written."""

import posixpath
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import PurePath, PurePosixPath
from typing import NamedTuple

from django.core.files.storage import Storage

from ..exceptions import InvalidResult, TransferError
from ..files.streams import MeasuredFile
from ..ledger.models import QueuedFile
from ..ledger.names import COMPONENT_MAX_BYTES
from ..uploaders import Uploader
from .copies import are_remains, has_same_bytes, is_copy_of_another_file
from .leases import Lease

MAX_NAMES = 100  # names that are tried before the transfer fails


class Situation(Enum):
    """What is known about the name, and about the object that may be there."""

    REMAINS = "an interrupted attempt may have sent the file to its own name"
    RESERVED = "the ledger has the name, so the object there is this file's"
    UNTRIED = "the remote refuses to overwrite objects, so nothing has to be checked first"
    UNKNOWN = "an object may have the name"
    FREE = "no object has the name"
    TAKEN = "an object has the name"
    REFUSED = "the remote refused to overwrite an object of a name that was free"
    FOREIGN = "the object with the name is not this file's"
    SENT = "the file is there, and the ledger has the name"
    UNCONFIRMED = "the file is there, but the ledger does not have the name"


class Naming:
    """Sends one file to a name on the remote that no other object has."""

    def __init__(
        self,
        remote: Storage,
        uploader: Uploader,
        lease: Lease,
        outgoing: MeasuredFile,
        *,
        is_verbatim: bool,
    ) -> None:
        self._remote = remote
        self._uploader = uploader
        self._lease = lease
        self._row = lease.row
        self._outgoing = outgoing
        self._name = lease.row.name  # the one to try next
        self._names_left = MAX_NAMES
        self.situation = first_situation(lease.row, uploader, is_verbatim=is_verbatim)

    def send(self) -> str:
        """Send the file; return its name on the remote."""
        while step := STEPS.get(self.situation):
            self.situation = step.if_true if step.action(self) else step.if_false
        return self._row.remote_name

    def confirm(self) -> None:
        """Write the name to the ledger, if no promotion is going to do it."""
        if self.situation is Situation.UNCONFIRMED:
            self._lease.ledger.record_remote_name(self._row, self._row.remote_name)

    # The steps. Each returns the answer to a question.

    def find_remains(self) -> bool:
        """Reserve the file's own name if its remains are there."""
        remains = self._row.remains
        if remains and are_remains(self._uploader, self._row, remains):
            self._reserve(self._name)
        return bool(self._row.remote_name)

    def overwrite(self) -> bool:
        """Send the file to its reserved name.

        An earlier attempt or generation reserved the name. The object there is its remains as long
        as the claim stands, so the ledger confirms that right before the object is touched.
        """
        reserved = self._row.remote_name
        self._reserve(reserved)
        self._uploader.forget_unfinished(reserved)
        if not self._uploader.replaces:
            self._uploader.remove(reserved)
        self._send(reserved, self._uploader.upload)
        return True

    def send_untried(self) -> bool:
        """Send the file to its own name without reserving it.

        Until the ledger has the name, an object there may be this file's or not: only its bytes
        tell.
        """
        if not self._row.is_tried and not self._lease.ledger.mark_tried(self._row):
            self._lease.lose()
        if is_sent := self._send_new():
            self._row.remote_name = self._name
        return is_sent

    def is_free(self) -> bool:
        return self._uploader.is_free(self._name)

    def send_reserved(self) -> bool:
        """Reserve a name that seems free, and send the file there."""
        self._reserve(self._name)
        return self._send_new()

    def is_own_name_with_same_bytes(self) -> bool:
        """Reserve the file's own name if the very same bytes are there already."""
        is_this_file = self._name == self._row.name and self._is_this_file()
        if is_this_file:
            self._reserve(self._name)
        return is_this_file

    def has_same_bytes(self) -> bool:
        """Cancel the reservation, unless the object is this file's: its upload may have succeeded
        without a response. A foreign object must not be taken for this file's remains."""
        is_this_file = self._is_this_file()
        if not is_this_file:
            self._reserve("")
        return is_this_file

    def take_next_name(self) -> bool:
        self._name = self._alternative()
        self._names_left -= 1
        if not self._names_left:
            raise TransferError(
                f"The remote has other objects under {self._row.name!r} and {MAX_NAMES} similar "
                f"names."
            )
        return True

    # What they are made of

    def _send_new(self) -> bool:
        try:
            self._send(self._name, self._uploader.upload_new)
        except FileExistsError:
            return False
        return True

    def _send(self, remote_name: str, upload: Callable[[str, MeasuredFile], str]) -> None:
        self._lease.require()
        with suppress(AttributeError, OSError):  # some content can be read only once
            self._outgoing.seek(0)  # a hook may have read from it, and not every remote rewinds
        written = upload(remote_name, self._outgoing)
        if not isinstance(written, str | PurePath):
            raise InvalidResult(
                f"{type(self._remote).__qualname__}.save() returned {written!r}; it must return "
                f"the name under which the file is stored."
            )
        if (chosen := str(written)) != remote_name:
            if not self._lease.ledger.record_remote_name(self._row, chosen):
                self._lease.lose()
            self._row.remote_name = chosen

    def _reserve(self, remote_name: str) -> None:
        if not self._lease.ledger.reserve_remote_name(self._row, remote_name):
            self._lease.lose()
        self._row.remote_name = remote_name

    def _is_this_file(self) -> bool:
        """Return whether the object is a copy of this file, and not the copy of another file.

        A file that shares an object loses it when the other file is deleted.
        """
        return has_same_bytes(
            self._uploader, self._row, self._name, self._outgoing
        ) and not is_copy_of_another_file(self._row, self._name)

    def _alternative(self) -> str:
        directory, file_name = posixpath.split(self._row.name)
        extension = "".join(PurePosixPath(file_name).suffixes)
        root = file_name.removesuffix(extension)
        other = self._remote.get_alternative_name(root, extension)
        if (excess := len(other.encode()) - COMPONENT_MAX_BYTES) > 0:
            extension = PurePosixPath(file_name).suffix
            root = file_name.removesuffix(extension).encode()[:-excess].decode(errors="ignore")
            other = self._remote.get_alternative_name(root, extension)
        return posixpath.join(directory, other)


def first_situation(row: QueuedFile, uploader: Uploader, *, is_verbatim: bool) -> Situation:
    """Return what the ledger knows before the file is sent.

    With ``is_verbatim``, the file's bytes are those of the local copy, so that a later attempt
    can recognize them.
    """
    if row.remains:
        return Situation.REMAINS
    if row.remote_name:
        return Situation.RESERVED
    if is_verbatim and uploader.never_overwrites(row.size) and row.checksum:
        return Situation.UNTRIED
    return Situation.UNKNOWN


class Step(NamedTuple):
    """What is done in a situation, and where its answer leads."""

    action: Callable[[Naming], bool]
    if_true: Situation
    if_false: Situation


STEPS = {
    Situation.REMAINS: Step(Naming.find_remains, Situation.RESERVED, Situation.UNKNOWN),
    Situation.RESERVED: Step(Naming.overwrite, Situation.SENT, Situation.SENT),
    Situation.UNTRIED: Step(Naming.send_untried, Situation.UNCONFIRMED, Situation.UNKNOWN),
    Situation.UNKNOWN: Step(Naming.is_free, Situation.FREE, Situation.TAKEN),
    Situation.FREE: Step(Naming.send_reserved, Situation.SENT, Situation.REFUSED),
    Situation.TAKEN: Step(Naming.is_own_name_with_same_bytes, Situation.SENT, Situation.FOREIGN),
    Situation.REFUSED: Step(Naming.has_same_bytes, Situation.SENT, Situation.FOREIGN),
    Situation.FOREIGN: Step(Naming.take_next_name, Situation.UNKNOWN, Situation.UNKNOWN),
}
