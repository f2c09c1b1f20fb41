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
from ..ledger.states import Sending
from ..uploaders import Uploader
from .claims import UploadClaim
from .copies import Likeness, likeness
from .owners import Others
from .writers import PlaceMarker

MAX_NAMES = 100  # names that are tried before the transfer fails


class Situation(Enum):
    """What is known about the name, and about the object that may be there."""

    OWN = "the ledger has the name of an object that this file was uploaded to"
    ALONE = "that object is not also another file's"
    UNTRIED = "the remote refuses to overwrite objects, so nothing has to be checked first"
    UNKNOWN = "an object may have the name"
    FREE = "no object has the name"
    RESERVED = "the ledger has the name, and that the file may be sent there"
    TAKEN = "an object has the name"
    POSSIBLE = "an upload of this file may have made the object"
    DIFFERENT = "the object does not have the bytes of this file"
    FOREIGN = "the object with the name is not this file's"
    SENT = "the file is there"


class Naming:
    """Sends one file to a name on the remote that no other object has.

    Only what an upload of this file has made is overwritten: an answered one, or one whose object
    was compared byte by byte. What only looks alike stays untouched.
    """

    def __init__(
        self,
        remote: Storage,
        uploader: Uploader,
        lease: UploadClaim,
        outgoing: MeasuredFile,
        marker: PlaceMarker,
        *,
        is_verbatim: bool,
        is_repeated: bool = False,
    ) -> None:
        """With ``is_repeated``, this claim has begun to send the file before."""
        self._remote = remote
        self._uploader = uploader
        self._lease = lease
        self._row = row = lease.row
        self._others = Others(row, remote)
        self._outgoing = outgoing
        self._marker = marker
        self._is_verbatim = is_verbatim
        self._name = row.remote_name or row.name  # the one to try next
        self._names_left = MAX_NAMES
        # Whether an upload ended without an answer: of this claim, or of an earlier one
        self._was_sent_before = bool(row.unconfirmed) and (is_repeated or not row.is_tried)
        # Whether an upload to this name may have been stored without an answer
        self._may_be_stored = self._was_sent_before
        self._is_recorded = row.is_object_its_own  # whether the ledger knows where the file is
        self.is_begun = False  # whether it may have sent a byte
        self.situation = first_situation(row, uploader, is_verbatim=is_verbatim)

    def send(self) -> str:
        """Send the file; return its name on the remote."""
        while step := STEPS.get(self.situation):
            self.situation = step.if_true if step.action(self) else step.if_false
        self._row.remote_name = self._name
        return self._name

    @property
    def is_sent(self) -> bool:
        return self.situation is Situation.SENT

    def settle(self) -> None:
        """Write to the ledger what is known of the object, if no promotion is going to do it."""
        if self.is_sent:
            self._record(self._name)
        elif not (self.is_begun or self._is_recorded or self._was_sent_before):
            self._release()

    # The steps. Each returns the answer to a question.

    def is_of_another_file(self) -> bool:
        return self._others.have(self._name)

    def overwrite(self) -> bool:
        """Send the file to the object that it has, or remove that.

        The object is this file's as long as the claim stands, so the ledger confirms that right
        before the object is touched.
        """
        self._marker.require_own()
        self._lease.confirm()
        self._uploader.forget_unfinished(self._name)
        if self._uploader.replaces:
            self._send(self._uploader.upload)
            return True
        self._uploader.remove(self._name)
        self._is_recorded = False
        return False

    def is_tried_by_another_file(self) -> bool:
        """Record that the file may be sent to a name that was not looked at."""
        if not self._row.is_tried:
            if not self._lease.ledger.mark_tried(self._row):
                self._lease.lose()
            self._note(self._row.remote_name, is_confirmed=False)
        return self._others.have(self._name)

    def is_free(self) -> bool:
        return self._uploader.is_free(self._name)

    def is_reserved_by_another_file(self) -> bool:
        """Reserve a name that seems free.

        Of two files that reserve one name, at least one sees the other then.
        """
        if self._may_be_stored and self._marker.allows_changes():
            self._uploader.forget_unfinished(self._name)
        if not self._lease.ledger.reserve_remote_name(self._row, self._name):
            self._lease.lose()
        self._note(self._name, is_confirmed=False)
        return self._others.have(self._name)

    def send_new(self) -> bool:
        try:
            self._send(self._uploader.upload_new)
        except FileExistsError:
            self._may_be_stored |= not self._uploader.was_sent_once
            return False
        return True

    def may_be_stored(self) -> bool:
        """Whether the object may be this file's: not what was there before anything was sent."""
        return self._may_be_stored and not self._others.have_under_any_name(self._name)

    def is_stored(self) -> bool:
        """Whether the object has this file's bytes."""
        return self._likeness() is Likeness.SAME

    def remove_unfinished(self) -> bool:
        """Remove the object if it is the beginning of this file, whose upload was interrupted."""
        if self._uploader.replaces or self._likeness() is not Likeness.BEGINNING:
            return False
        if not self._marker.allows_changes():
            return False
        self._lease.confirm()
        self._uploader.remove(self._name)
        return True

    def take_next_name(self) -> bool:
        """Leave the object alone."""
        if not self._release():
            self._lease.lose()
        self._name = self._alternative()
        self._may_be_stored = self._was_sent_before = self._is_recorded = False
        self._names_left -= 1
        if not self._names_left:
            raise TransferError(
                f"The remote has other objects under {self._row.name!r} and {MAX_NAMES} similar "
                f"names."
            )
        return True

    # What they are made of

    def _send(self, upload: Callable[[str, MeasuredFile], str]) -> None:
        self._lease.require()
        with suppress(AttributeError, OSError):  # some content can be read only once
            self._outgoing.seek(0)  # a hook may have read from it, and not every remote rewinds
        sent = self._lease.sent
        try:
            written = upload(self._name, self._outgoing)
        finally:
            is_read = self._lease.sent != sent or self._outgoing.content.size > 0
            self.is_begun |= is_read or not self._row.size
        if not isinstance(written, str | PurePath):
            raise InvalidResult(
                f"{type(self._remote).__qualname__}.save() returned {written!r}; it must return "
                f"the name under which the file is stored."
            )
        if (chosen := str(written)) != self._name:
            self._name, self._is_recorded = chosen, False
            if not self._record(chosen):
                self._lease.lose()

    def _record(self, remote_name: str) -> bool:
        """Record that the object is this file's; return False if the claim is lost."""
        if not self._is_recorded:
            self._is_recorded = bool(self._lease.ledger.record_remote_name(self._row, remote_name))
            self._note(remote_name, is_confirmed=True)
        return self._is_recorded

    def _release(self) -> bool:
        """Record that no object is this file's; return False if the claim is lost."""
        if not self._row.object_name:
            return True
        is_released = bool(self._lease.ledger.release_remote_name(self._row))
        self._note("", is_confirmed=True)
        return is_released

    def _note(self, remote_name: str, *, is_confirmed: bool) -> None:
        """Let the row in memory be as the one in the ledger."""
        self._row.remote_name = remote_name
        self._row.unconfirmed = "" if is_confirmed else str(Sending.of(self._row))

    def _likeness(self) -> Likeness:
        return likeness(
            self._uploader, self._row, self._name, self._outgoing, is_verbatim=self._is_verbatim
        )

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
    if row.is_object_its_own:
        return Situation.OWN
    if is_verbatim and uploader.never_overwrites(row.size) and row.checksum:
        return Situation.UNTRIED
    return Situation.UNKNOWN


class Step(NamedTuple):
    """What is done in a situation, and where its answer leads."""

    action: Callable[[Naming], bool]
    if_true: Situation
    if_false: Situation


STEPS = {
    Situation.OWN: Step(Naming.is_of_another_file, Situation.FOREIGN, Situation.ALONE),
    Situation.ALONE: Step(Naming.overwrite, Situation.SENT, Situation.FREE),
    Situation.UNTRIED: Step(Naming.is_tried_by_another_file, Situation.FOREIGN, Situation.RESERVED),
    Situation.UNKNOWN: Step(Naming.is_free, Situation.FREE, Situation.TAKEN),
    Situation.FREE: Step(Naming.is_reserved_by_another_file, Situation.FOREIGN, Situation.RESERVED),
    Situation.RESERVED: Step(Naming.send_new, Situation.SENT, Situation.TAKEN),
    Situation.TAKEN: Step(Naming.may_be_stored, Situation.POSSIBLE, Situation.FOREIGN),
    Situation.POSSIBLE: Step(Naming.is_stored, Situation.SENT, Situation.DIFFERENT),
    Situation.DIFFERENT: Step(Naming.remove_unfinished, Situation.FREE, Situation.FOREIGN),
    Situation.FOREIGN: Step(Naming.take_next_name, Situation.UNKNOWN, Situation.UNKNOWN),
}
