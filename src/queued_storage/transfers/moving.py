"""Moves transferred files from previous remotes to the present one."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from ..exceptions import LeaseLost, VerificationError
from ..files.streams import Stored
from ..ledger.copies import Copy, CopyState, at_copy, copies
from ..ledger.exchanges import exchange, exchange_all
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from ..uploaders import CannotCopy
from . import destinations
from .copies import Upload, verify_upload
from .leases import Lease
from .parts import TransferringStorage
from .sending import IN_MEMORY, ObjectFile, Source, Throttle, sent


class Move:
    """The move of one claimed file, in the steps that several threads share.

    ``begin()`` makes it, ``send()`` copies the file, and ``finish()`` or ``finish_all()`` lets
    readers use the copy. The object at the previous remote then is a further copy, which is not
    removed if ``is_kept``.
    """

    def __init__(
        self,
        storage: TransferringStorage,
        old: TransferringStorage,
        row: QueuedFile,
        copy: Copy,
        *,
        is_kept: bool,
        throttle: Throttle | None,
    ) -> None:
        self.row = row
        self.is_kept = is_kept
        self.verified = ""
        self.place = copy.place
        self._storage = storage
        self._old = old
        self._copy = copy
        self._as_first = at_copy(row, copy)
        self._throttle = throttle
        self._record = _CopyRecord(self._as_first)

    def send(self, lease: Lease) -> None:
        """Copy the file to the storage's own remote, and verify the copy.

        ``LeaseLost`` is raised if the file was changed meanwhile, ``VerificationError`` if the
        bytes at the previous remote are not those of the ledger.
        """
        copy = self._copy
        if copy.lease_token or copy.state == CopyState.REMOVING:
            raise LeaseLost(f"An old copy of {self.row} is being removed at the present remote.")
        try:
            if copy.state == CopyState.TRANSFERRED:
                self.verified = self._verified_as_it_is(lease)
            self.verified = self.verified or self._sent(lease)
        except BaseException:
            self.abandon()
            raise

    def finish(self) -> None:
        """Let readers use the copy; raise ``LeaseLost`` if the file was changed meanwhile."""
        self._record.write(self.row)
        if not exchange(
            self.row,
            self.place,
            left_as=CopyState.TRANSFERRED,
            is_kept=self.is_kept,
            verified=self.verified,
            due_at=None,
            lease_token="",
            last_error="",
        ):
            raise LeaseLost(f"{self.row} was changed while it was moved.")

    def abandon(self) -> None:
        """Record what lies at the present remote, if the file is not going to be read there."""
        self._record.write(self.row)

    @property
    def has_own_names(self) -> bool:
        """Whether the file has its own name at both places."""
        row = self.row
        return self._record.remote_name == row.remote_name == row.name and not row.unconfirmed

    def _verified_as_it_is(self, lease: Lease) -> str:
        """Return the level at which the copy that is there was verified; "" if it is no copy."""
        content = Content(self.row.size, self.row.checksum)
        upload = Upload(self._copy.remote_name, content, is_found=True)
        try:
            return verify_upload(self._storage.uploader, upload, lease.progress)
        except (FileNotFoundError, VerificationError):  # it is sent again
            return ""

    def _sent(self, lease: Lease) -> str:
        row = self.row
        claim = _CopyClaim(lease, self._as_first, self._record)
        with suppress(CannotCopy):
            return self._copied(claim)
        with Source(row, [(self._old, row)], lease, self._throttle).opened() as file:
            self._record.is_begun = True
            return sent(self._storage, claim, file)

    def _copied(self, claim: "_CopyClaim") -> str:
        """Let the server copy the object, if both remotes are on one server."""
        row, old = self.row, self._old.remote
        is_worth_it = row.size > IN_MEMORY and row.checksum
        if not (is_worth_it and self._storage.uploader.can_copy_from(old, row.size)):
            raise CannotCopy
        stored = Stored(old, row.remote_name, Content(row.size, row.checksum))
        self._record.is_begun = True
        return sent(self._storage, claim, ObjectFile(stored, row.name, claim))


def begin(
    storage: TransferringStorage,
    rows: Sequence[QueuedFile],
    *,
    is_kept: bool = False,
    throttle: Throttle | None = None,
) -> list[Move]:
    """Begin to move claimed files to the storage's own remote, except those that are there.

    New names at a remote that never overwrites an object are reserved for all of them at once.
    """
    storage.require_two_places()
    destinations.remote_of(storage)  # before anything lies there
    old = {place: storage.with_remote_of(row) for place, row in {r.place: r for r in rows}.items()}
    rows = [row for row in rows if old[row.place] is not storage]
    new, uploader = storage.remote_place.digest, storage.uploader
    trying = {row.pk for row in rows if row.checksum and uploader.never_overwrites(row.size)}
    begun = copies().begin(rows, new, trying)
    return [
        Move(storage, old[row.place], row, begun[row.pk], is_kept=is_kept, throttle=throttle)
        for row in rows
    ]


def finish_all(moves: Sequence[Move]) -> list[Move]:
    """Finish moves together; return those that have to be finished one by one."""
    groups: dict[tuple[str, int, bool], list[Move]] = defaultdict(list)
    for each in moves:
        if each.has_own_names:
            groups[each.verified, each.place, each.is_kept].append(each)
    done: set[int] = set()
    for (verified, place, is_kept), its in groups.items():
        rows = [each.row for each in its]
        done |= exchange_all(rows, place, verified=verified, is_kept=is_kept)
    return [each for each in moves if each.row.pk not in done]


def give_back(storage: TransferringStorage, rows: Sequence[QueuedFile]) -> None:
    """Record that nothing of these files was sent, of which ``begin()`` reserved the names."""
    copies().disown_all(rows, storage.remote_place.digest)


class _CopyClaim:
    """The claim on a file, under which a further copy of it is uploaded."""

    def __init__(self, lease: Lease, row: QueuedFile, record: "_CopyRecord") -> None:
        self.row = row  # as if the copy were its first one
        self.ledger = record
        self.progress = lease.progress
        self.moved = lease.moved
        self.require = lease.require
        self.confirm = lease.confirm
        self.lose = lease.lose
        self._lease = lease

    @property
    def sent(self) -> int:
        return self._lease.sent


class _CopyRecord:
    """Records the object of a further copy, in the ways of ``ObjectRecord``.

    An upload to the name that the ledger has already is not recorded, since the exchange of the
    copies does that. ``write()`` does it instead if there is no exchange.
    """

    def __init__(self, row: QueuedFile) -> None:
        """``row`` is that of the file as if the copy were its first one."""
        self._place = row.place or 0
        self._reserved = row.remote_name
        self._is_written = True
        self._is_only_reserved = row.is_tried
        self.remote_name = row.remote_name if row.is_object_its_own else ""
        self.is_begun = False  # whether the name that was reserved for it is being used

    def mark_tried(self, row: QueuedFile) -> int:
        return self.reserve_remote_name(row, row.remote_name)

    def reserve_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        self._reserved, self.remote_name = remote_name, ""
        return copies().reserve(row, self._place, remote_name)

    def record_remote_name(self, row: QueuedFile, remote_name: str) -> int:
        self.remote_name = remote_name
        if remote_name == self._reserved:
            self._is_written = False
            return 1
        return copies().record(row, self._place, remote_name)

    def release_remote_name(self, row: QueuedFile) -> int:
        self._reserved = self.remote_name = ""
        self._is_written = True
        return copies().disown(row, self._place)

    def write(self, row: QueuedFile) -> None:
        """Write to the ledger what is known of the object."""
        if not self._is_written:
            copies().record(row, self._place, self.remote_name)
            self._is_written = True
        elif self._is_only_reserved and not self.is_begun:
            copies().disown(row, self._place)
