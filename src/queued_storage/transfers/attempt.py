"""One attempt to transfer a file."""

from typing import Any

from django.core.files.storage import Storage

from ..conf import settings
from ..exceptions import (
    InvalidResult,
    LeaseLost,
    LocalFileChanged,
    LocalFileMissing,
    RemoteChanged,
    TransferError,
    VerificationError,
)
from ..files import presence, successors
from ..files.stamps import Stamp
from ..files.streams import checksum_of
from ..ledger.copies import CopyState, copies
from ..ledger.exchanges import exchange
from ..ledger.models import QueuedFile
from ..ledger.states import Content, State
from ..remotes.places import Place
from ..tasks import Transfer, TransferAndDelete
from ..uploaders import Uploader
from . import destinations
from .copies import Upload, has_saved_bytes, verify_upload
from .leases import Lease
from .outcomes import Outcome
from .parts import TransferringStorage
from .proxies import LocalProxy, RemoteProxy
from .writers import PlaceMarker


def transfer(storage: TransferringStorage, row: QueuedFile, lease: Lease) -> Outcome:
    """Upload a claimed file, verify its remote copy, and promote its row."""
    return Attempt(storage, row, lease).run()


def attempts_max(foreign_task: object | None) -> int:
    """Return how many attempts a file has."""
    # Calling a foreign task counts as one, before its work is looked at for the first time.
    return settings.retries + (2 if foreign_task else 1)


OWN_TASKS = (Transfer, TransferAndDelete)  # which do no more with a file than send it
ADVICE = (
    "Upload it as it is now with 'manage.py queued_storage accept-local', or put the saved bytes "
    "back and run 'retry'."
)


class Attempt:
    """One attempt of a worker to transfer the file of one row."""

    def __init__(self, storage: TransferringStorage, row: QueuedFile, lease: Lease) -> None:
        self.storage = storage
        self.parts = storage.transfer_parts()
        self.row = row
        self.lease = lease
        self.marker = PlaceMarker(storage, self.parts.place)

    def run(self) -> Outcome:
        foreign_task = self.parts.foreign_task
        if self.row.attempts > attempts_max(foreign_task):
            raise TransferError("Gave up: the worker died during every attempt.")
        self.storage.require_two_places()  # what is uploaded to itself may be lost
        place = self.parts.place
        self._require_its_place(place)
        self._want_copies()
        destinations.remote_of(self.storage, place)  # before anything lies there
        outcome = self._run_foreign(foreign_task) if foreign_task else self._run_task()
        self.marker.write()
        return outcome

    def _require_its_place(self, place: Place) -> None:
        """Bind a file of which nothing was sent to the place that is configured now; raise
        ``RemoteChanged`` for another file whose place is not that one."""
        ledger, row = self.lease.ledger, self.row
        if destinations.has_moved(self.storage, row, place):
            if not ledger.bind(row, place.digest):
                self.lease.lose()
            row.place = place.digest
        elif len(self.storage.with_each_remote) > 1 or self.storage.with_each_mirror:
            self._leave_previous_places()
        try:
            destinations.require_same_place(self.storage, row, place)
        except RemoteChanged:
            if row.is_tried:
                ledger.release_remote_name(row)
            raise

    def _leave_previous_places(self) -> None:
        """Upload new content to the present remote; what lies elsewhere is of no use then."""
        storage, row = self.storage, self.row
        place, mirrors = storage.remote_place.digest, self._mirrors
        copies().of(row).exclude(place__in=[place, *mirrors]).discard()
        its = storage.with_remote_of(row)
        if its is not storage:
            is_mirror = its.remote_place.digest in mirrors
            left_as = CopyState.PENDING if is_mirror else CopyState.REMOVING
            if not exchange(row, place, left_as=left_as):
                raise TransferError(f"Another worker is removing a copy of {row.name!r}.")

    @property
    def _mirrors(self) -> list[int]:
        """The digests of the places that get a copy."""
        return [each.remote_place.digest for each in self.storage.with_each_mirror]

    def _want_copies(self) -> None:
        """Let copies of the new content be made as soon as it is transferred."""
        if mirrors := self._mirrors:
            copies().want(self.row, mirrors)

    def _run_task(self) -> Outcome:
        local, remote = self.parts.local, self.parts.remote
        uploader = self.parts.uploader
        local_proxy = LocalProxy(local, self.lease)
        local_proxy.may_read_at_once = type(self.parts.task) in OWN_TASKS
        remote_proxy = RemoteProxy(remote, self.lease, uploader, self.marker)
        try:
            self._require_local_copy(local, local_proxy)
        except Exception:
            remote_proxy.release_try()
            raise
        try:
            upload = self._call_task(local_proxy, remote_proxy) or self._find(self.parts.task)
            outcome = self._promote(upload, uploader, evict=local_proxy.delete_wanted)
        except BaseException:
            remote_proxy.settle()
            raise
        if upload.is_verbatim:
            self._remember(upload.content, remote_proxy.stamp)
        return outcome

    def _run_foreign(self, task: object) -> Outcome:
        if self.row.attempts == 1:  # the process that saved the file died before it called the task
            if not self.lease.ledger.mark_tried(self.row):
                self.lease.lose()
            self.storage.call_foreign_task(self.row.name)
        return self._promote(self._find(task), self.parts.uploader, evict=False)

    def _call_task(self, local: LocalProxy, remote: RemoteProxy) -> Upload | None:
        """Return what the task sent; None if it claims to have sent the file in another way."""
        task: Any = self.parts.task
        done = task.transfer(self.row.name, local, remote)
        if done is not True and done is not False:
            raise InvalidResult(
                f"{type(task).__qualname__}.transfer() returned {done!r}; "
                f"return True (done) or False (try again later)."
            )
        if not done:
            raise TransferError("transfer() returned False.")
        if remote.upload and remote.upload.is_verbatim:
            self._require_whole(remote.upload.content)
        return remote.upload

    # The local copy

    def _require_local_copy(self, local: Storage, proxy: LocalProxy) -> None:
        with presence.errors_of(self.row.name):
            successors.put_in_place(local, self.row.name, self.row)
            size = proxy.size_if_there()
        if size is None:
            raise LocalFileMissing(
                f"The local copy of {self.row.name!r} does not exist "
                f"(saved on {self.row.host}). Put it back and retry, or if "
                f"the remote has the file already, run 'manage.py queued_storage adopt'."
            )
        # A storage that compresses or encrypts may report a size other than that of the content.
        if size != self.row.size and not (self.row.checksum and self._reads_as_saved(proxy)):
            raise LocalFileChanged(
                f"The local copy of {self.row.name!r} has {size} bytes, but {self.row.size} were "
                f"saved. {ADVICE}"
            )

    def _remember(self, sent: Content, seen: Stamp | None) -> None:
        """Keep what is known of the local copy, all of whose bytes were sent, for an eviction."""
        self.row.size, self.row.checksum = sent.size, sent.checksum
        if seen and seen.is_settled:
            self.lease.intact = seen

    def _reads_as_saved(self, local: LocalProxy) -> bool:
        with local.open(self.row.name) as file:
            return has_saved_bytes(self.row, file)

    def _require_whole(self, sent: Content) -> None:
        if sent.size != self.row.size:
            raise VerificationError(
                f"The remote took {sent.size} of {self.row.size} bytes of {self.row.name!r}."
            )
        if self.row.checksum and sent.checksum != self.row.checksum:
            raise LocalFileChanged(
                f"The local copy of {self.row.name!r} has the checksum {sent.checksum}, but "
                f"{self.row.checksum} was saved. {ADVICE}"
            )

    # The remote copy

    def _find(self, task: object) -> Upload:
        """Return the remote copy that a task made without the proxy."""
        remote_name = self.row.remote_name or self.row.name
        if not self.parts.uploader.exists(remote_name):
            name = getattr(task, "__qualname__", type(task).__qualname__)
            raise TransferError(f"{name} did not upload {remote_name!r}.")
        return Upload(remote_name, Content(self.row.size, self._saved_checksum()), is_found=True)

    def _saved_checksum(self) -> str:
        if self.row.checksum:
            return self.row.checksum
        with LocalProxy(self.parts.local, self.lease).open(self.row.name) as file:
            return str(checksum_of(file.chunks()))

    def _promote(self, upload: Upload, uploader: Uploader, *, evict: bool) -> Outcome:
        """Verify the copy, then make reads use it."""
        self.lease.require()
        verified = verify_upload(uploader, upload, self.lease.progress)
        if not isinstance(verified, str):
            raise InvalidResult(
                f"{type(uploader).__qualname__}.verify() returned {verified!r}; return the "
                f"level that was reached."
            )
        if not self.lease.ledger.promote(
            self.row, upload.remote_name, upload.content, verified, evict=evict
        ):
            raise LeaseLost(f"{self.row} changed while it was transferred.")
        self.row.state = State.TRANSFERRED
        self.row.remote_name = upload.remote_name
        return Outcome.TRANSFERRED_FOR_EVICTION if evict else Outcome.TRANSFERRED
