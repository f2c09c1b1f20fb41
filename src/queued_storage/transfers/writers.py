"""Keeps what another ledger has on a remote from being overwritten or removed."""

import shlex
import time
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..exceptions import OtherWriter
from ..ledger.identity import is_for_tests
from ..ledger.remotes import Remotes, remotes
from ..ledger.writers import Writer
from ..remotes.faults import Fault
from ..remotes.layers import attribute_of
from ..remotes.places import Place
from ..reporting.logs import logger
from ..reporting.reasons import reason
from ..runtime.forks import ForkSafeLock
from .parts import TransferringStorage

READ_AGAIN = 10.0  # seconds after which a marker of another ledger is read again
ASK_AGAIN = 60.0  # seconds after which a marker that could not be read is read again


class MarkerUnusable(Exception):
    """Nothing is known of the writer: the marker cannot be read, or the remote keeps none."""


@dataclass
class _Seen:
    """What this process knows of the marker at one place."""

    is_looked_after: bool = False  # whether an upload of this process has written it, or tried to
    is_allowed: bool = False  # whether this ledger may overwrite and remove files there
    other: Writer | None = None  # whose marker is there
    until: float = 0.0  # when it is to be read again
    has_warned: bool = False


class _Key(NamedTuple):
    alias: str
    digest: int
    own: Writer


_seen: dict[_Key, _Seen] = {}
_lock = ForkSafeLock()


class PlaceMarker:
    """The marker of the writer at the place of one remote.

    The ledger that first uploads to a place writes it there. Only that one, and those that an
    operator has accepted, overwrite and remove files of the place. New files are uploaded by any.
    """

    def __init__(self, storage: TransferringStorage, place: Place | None = None) -> None:
        """``place`` is that of the storage's remote, if the caller knows it."""
        self._storage = storage
        self.alias = storage.alias
        self.place = place or storage.remote_place

    def write(self) -> None:
        """Write the marker if this process has not seen to it yet; an error is only logged.

        An upload has just succeeded, so the remote can be expected to answer.
        """
        if not self.is_kept:
            return
        seen = self._known
        with _lock:
            if seen.is_looked_after:
                return
            seen.is_looked_after = True
        try:
            if not self._register().filter(is_marked=True).exists():
                self._settle(self.read())
        except Exception as error:
            self._warn(error)

    def require_own(self) -> None:
        """Raise ``OtherWriter`` if the place has the marker of another ledger.

        A process reads it once. If it cannot be read, nothing is known, and all is allowed. Errors
        of a remote that is away, or that refuses everything, are raised.
        """
        if not self.is_kept or self._known.is_allowed:
            return
        try:
            other = self._other()
        except Exception as error:
            if self._storage.uploader.diagnose(error).fault in (Fault.AWAY, Fault.REFUSED):
                raise
            self._known.until = time.monotonic() + ASK_AGAIN
            self._warn(error)
            other = self._known.other
        if other and not self._settle(other):
            raise OtherWriter(self._refusal(other))

    def allows_changes(self) -> bool:
        """Do the same, but return whether this ledger may overwrite and remove files there."""
        try:
            self.require_own()
        except OtherWriter:
            return False
        return True

    def accept(self) -> Writer | None:
        """Let this ledger change files there; return whose marker is there unless it is its own.

        Errors of the remote are raised, also if the marker cannot be read.
        """
        if not self.is_kept:
            return None
        other, own = self.read(), Writer.own(anew=True)
        rows = self._register()
        if other == own:
            rows.mark()
            return None
        rows.accept_writer(other.accepted_by(own))
        return other

    @cached_property
    def is_kept(self) -> bool:
        """Whether there is a marker at all: not for places that only this process has, not for the
        ledger of a test, and not where the remote is a queued storage, which keeps its own."""
        return bool(
            self.place.digest
            and not attribute_of(self._storage.remote, "sides")
            and not is_for_tests()
        )

    def read(self) -> Writer:
        """Return the writer that the marker names, after writing one if there is none."""
        uploader = self._storage.uploader
        found = uploader.read_marker()
        if found is None:
            if uploader.write_marker((own := Writer.own()).as_bytes()):
                return own
            found = uploader.read_marker()
        if found is None:
            raise MarkerUnusable("The remote stores the marker under another name.")
        try:
            return Writer.of(found)
        except ValueError as error:
            raise MarkerUnusable(str(error)) from None

    # What they are made of

    @property
    def _known(self) -> _Seen:
        return _seen.setdefault(_Key(self.alias, self.place.digest, Writer.own()), _Seen())

    def _register(self) -> Remotes:
        """Return the row of this place, which is made if there is none."""
        remotes().register(self.alias, self.place)
        return remotes().at(self.alias, self.place.digest)

    def _other(self) -> Writer | None:
        """Return whose marker is there; None if it could not be read, a short while ago."""
        seen = self._known
        if time.monotonic() >= seen.until:
            seen.other = self.read()
            seen.until = time.monotonic() + READ_AGAIN
        return seen.other

    def _settle(self, writer: Writer) -> bool:
        """Record whose marker is there; return whether this ledger may change files there."""
        # A flush of the database gives the ledger another id.
        own = Writer.own()
        own = own if writer == own else Writer.own(anew=True)
        rows = self._register()
        if writer == own:
            rows.mark()
        elif not rows.filter(accepted_writer=writer.accepted_by(own)).exists():
            if rows.note_other_writer(str(writer)):
                logger.warning("%s", self._refusal(writer))
            return False
        self._known.is_allowed = True
        return True

    def _refusal(self, other: Writer) -> str:
        return (
            f"{self.place.description} has the marker of another writer, {other}; this is "
            f"{Writer.own()}. Nothing there is overwritten or removed. If this site should have a "
            f"place of its own, change the remote. If both may change files there, run "
            f"'manage.py queued_storage remotes accept {shlex.quote(self.alias)}'."
        )

    def _warn(self, error: Exception) -> None:
        seen, log = self._known, logger.info
        if not seen.has_warned:
            seen.has_warned, log = True, logger.warning
        log(
            "It is not known whether another ledger uses %s, because the marker there could not be "
            "read or written: %s",
            self.place.description,
            reason(error, self._storage.remote),
        )


def forget() -> None:
    """Forget everything, for tests."""
    _seen.clear()
