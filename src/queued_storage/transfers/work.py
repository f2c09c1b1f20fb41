"""The life of one file after it was saved: attempt, eviction, purge."""

import random
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage
from django.dispatch import Signal

from ..conf import settings
from ..exceptions import (
    InvalidResult,
    LeaseLost,
    LocalFileChanged,
    LocalFileMissing,
    TransferError,
    VerificationError,
)
from ..files import readcache
from ..files.streams import checksum_of
from ..ledger.aliases import storage_for
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..ledger.states import Content, State
from ..reporting.logs import about, logger
from ..reporting.reasons import reason
from ..reporting.spans import Span, span
from ..signals import file_deleted, file_evicted, file_transferred, transfer_failed
from ..uploaders import Uploader
from . import copies, leases
from .leases import Lease
from .proxies import LocalProxy, RemoteProxy, Upload, holds

ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)  # of a process, or else of a task's own


def run(pk: int) -> Exception | None:
    """Do what is due for the row ``pk``; nothing if it is not due, or somebody else has it.

    Safe to call for any id, any number of times, from anywhere. Returns what an attempt failed
    with, after it was written to the ledger.
    """
    row = ledger().claim(pk)
    return run_claimed(row) if row else None


def run_claimed(row: QueuedFile) -> Exception | None:
    """The same for a row that this process has claimed."""
    with about(row), leases.keep(row) as lease:
        try:
            storage: Any = storage_for(row.alias, row.task)
        except ImproperlyConfigured as error:  # of this process, not the file's fault
            logger.error("%s", error)
            ledger().postpone(row, settings.retry_delay, reason(error), count=False)
            return error
        return _Work(storage, row, lease).run()


def tries_names(alias: str) -> bool:
    """Whether a small file of this storage is sent to its own name without a look first."""
    try:
        storage: Any = storage_for(alias)
        uploader: Uploader = storage.uploader
        return uploader.never_overwrites(0)
    except Exception:  # which an attempt tells
        return False


def backoff(attempts: int) -> float:
    """Seconds until the next try: the delay doubles each time, give or take a fifth."""
    step = settings.retry_delay * 2.0 ** min(max(attempts - 1, 0), 30)
    return min(step, settings.retry_max_delay) * random.uniform(0.8, 1.2)


class _Work:
    """What one claim on one row leads to."""

    def __init__(self, storage: Any, row: QueuedFile, lease: Lease) -> None:
        self.storage = storage
        self.row = row
        self.lease = lease
        self.evicts = False  # whether the local copy is to go once the file is transferred

    @cached_property
    def uploader(self) -> Uploader:
        uploader: Uploader = self.storage.uploader
        return uploader

    def run(self) -> Exception | None:
        steps: dict[str, Callable[[], None]] = {
            State.TRANSFERRING: self._attempt,
            State.TRANSFERRED: self._finish,
            State.DELETING: self._purge,
        }
        try:
            steps.get(self.row.state, self._start_again)()
            if self.evicts:
                self._evict()
            return None
        except LeaseLost as error:
            logger.info("%s", error)
            return self._follow_up()
        except Exception as error:
            return error if self._fail(error) else self._follow_up()
        except BaseException as end:
            if isinstance(end, ENDS) and threading.current_thread() is threading.main_thread():
                # The process is told to end: no fault of the file.
                ledger().postpone(self.row, 0, "The worker was stopped.", count=self.evicts)
            elif not self._fail(
                end
            ):  # an engine's limit: a try like any other, but the last for now
                ledger().release_claim(self.row)
            raise

    def _follow_up(self) -> Exception | None:
        """Let go of the row, and do at once what was asked for meanwhile."""
        return run(self.row.pk) if ledger().release_claim(self.row) else None

    def _start_again(self) -> None:
        raise LeaseLost(f"{self.row} got new content in the instant of the claim.")

    def _span(self, operation: str) -> Span:
        row = self.row
        return span(operation, storage=row.alias, file=row.pk, attempt=row.attempts, bytes=row.size)

    # The transfer

    def _attempt(self) -> None:
        with self._span("attempt"):
            self._transfer()

    def _transfer(self) -> None:
        if self.row.attempts > self._most_attempts:
            raise TransferError("Every attempt ended with the death of its worker.")
        if self.storage.foreign_task:
            if self.row.attempts == 1:  # whoever saved the file died before the task was told
                self.storage.tell_foreign_task(self.row.name)
            self._promote(self._look(), evict=False)
            return
        local = LocalProxy(self.storage.local, self.lease)
        remote = RemoteProxy(self.storage.remote, self.lease, self.uploader)
        if not local.exists(self.row.name):
            raise LocalFileMissing(
                f"The local copy of {self.row.name!r} is not there "
                f"(saved on {self.row.host}). Put it back, then retry."
            )
        self._require_unchanged(local)
        try:
            self._carry(local, remote)
        except BaseException:
            remote.confirm()
            raise

    def _carry(self, local: LocalProxy, remote: RemoteProxy) -> None:
        done = self.storage.task.transfer(self.row.name, local, remote)
        if done is not True and done is not False:
            raise InvalidResult(
                f"{type(self.storage.task).__qualname__}.transfer() returned {done!r}; "
                f"return True (done) or False (try again later)."
            )
        if not done:
            raise TransferError("transfer() returned False.")
        upload = remote.upload or self._look()
        if upload.is_verbatim:
            self._require_whole(upload.content)
        self._promote(upload, evict=local.delete_wanted)

    def _require_whole(self, sent: Content) -> None:
        if sent.size != self.row.size:
            raise VerificationError(
                f"The remote took {sent.size} of {self.row.size} bytes of {self.row.name!r}."
            )
        if self.row.checksum:
            self._require("the checksum", sent.checksum, self.row.checksum)

    def _require_unchanged(self, local: LocalProxy) -> None:
        size = local.size(self.row.name)
        # A storage that compresses or encrypts may give another size than it has bytes to read.
        if size == self.row.size or (self.row.checksum and self._reads_as_saved(local)):
            return
        self._require("bytes", size, self.row.size)

    def _reads_as_saved(self, local: LocalProxy) -> bool:
        with local.open(self.row.name) as file:
            found = checksum_of(file.chunks())
        return found.size == self.row.size and str(found) == self.row.checksum

    def _require(self, what: str, found: object, saved: object) -> None:
        if found != saved:
            raise LocalFileChanged(
                f"The local copy of {self.row.name!r} has {what} {found}, but {saved} was saved. "
                f"Restore it, then retry."
            )

    def _look(self) -> Upload:
        """What is on the remote where we did not write it ourselves."""
        remote_name = self.row.remote_name or self.row.name
        if not self.storage.remote.exists(remote_name):
            task = self.storage.foreign_task or self.storage.task
            who = getattr(task, "__qualname__", type(task).__qualname__)
            raise TransferError(f"{who} has not brought {remote_name!r} to the remote.")
        return self._found(remote_name, self._saved_checksum())

    def _found(self, remote_name: str, checksum: str) -> Upload:
        return Upload(remote_name, Content(self.row.size, checksum), is_found=True)

    def _saved_checksum(self) -> str:
        if self.row.checksum:
            return self.row.checksum
        with LocalProxy(self.storage.local, self.lease).open(self.row.name) as file:
            return str(checksum_of(file.chunks()))

    def _promote(self, upload: Upload, *, evict: bool) -> None:
        self.lease.require()
        verified = self._verify(upload)
        if not isinstance(verified, str):
            raise InvalidResult(
                f"{type(self.uploader).__qualname__}.verify() returned {verified!r}; return the "
                f"level that was reached."
            )
        if not ledger().promote(
            self.row, upload.remote_name, upload.content, verified, evict=evict
        ):
            raise LeaseLost(f"{self.row} changed while it was transferred.")
        self.row.state = State.TRANSFERRED
        self.row.remote_name = upload.remote_name
        self.evicts = evict
        logger.info("%s was transferred.", self.row)
        self._send(file_transferred)

    def _verify(self, upload: Upload) -> str:
        """Have the copy proved; of one that we only found, a size alone proves nothing."""
        uploader = self.uploader
        uploader.progress = self.lease.progress
        level = settings.verify
        if upload.is_proved and level != "content":
            return level
        if upload.is_found and level == "size":
            level = "checksum"
        verified = uploader.verify(upload.remote_name, upload.content, level)
        if upload.is_found and verified == "size":
            return uploader.verify_content(upload.remote_name, upload.content)
        return verified

    # The end of a copy, or of both

    def _finish(self) -> None:
        """End what somebody began who died: an eviction; a restoring, which left a draft; or a
        repair, which whoever asked for it can run again."""
        is_eviction = self.row.attempts > 1  # else the local copy may be the only good one
        if not self.row.is_local or not is_eviction:
            ledger().settle(self.row)
            return
        copies.verify_remote(self.storage, self.row, settings.verify, self.lease.progress)
        self.lease.confirm()
        self._evict()

    def _evict(self) -> None:
        with self._span("evict"):
            copies.free_local(self.storage, self.row)
        logger.info("The local copy of %s was freed.", self.row)
        self._send(file_evicted)

    def _purge(self) -> None:
        with self._span("purge"):
            self._remove_both()
        readcache.forget(self.row)
        logger.info("%s was deleted.", self.row)
        self._send(file_deleted)

    def _remove_both(self) -> None:
        remote_name = self.row.remote_name or self._name_of_remains() or self._name_of_found()
        if remote_name and not self._is_anothers(remote_name):
            self.lease.confirm()  # else it may be a newer file's by now
            if self._was_saved and not self.row.transferred_at:
                self.uploader.forget_unfinished(remote_name)
            self.uploader.remove(remote_name)
        self.lease.require()
        copies.drop_local(self.storage, self.row.pk, self.row.name)
        if not ledger().remove_tombstone(self.row):
            raise LeaseLost(f"{self.row} is being purged by another worker.")

    def _is_anothers(self, remote_name: str) -> bool:
        """Whether a name that never had a row is what the remote calls another file."""
        if self._was_saved:
            return False  # it has an object of its own
        files = ledger().filter(alias=self.row.alias).exclude(pk=self.row.pk)
        return files.with_remote_name(remote_name).exists()

    @property
    def _was_saved(self) -> bool:
        return bool(self.row.checksum or self.row.size)

    def _name_of_remains(self) -> str:
        """Where a transfer has sent the file that did not live to tell."""
        remains = self.row.remains
        is_ours = remains and holds(self.uploader, self.row, remains)
        return self.row.name if is_ours else ""

    def _name_of_found(self) -> str:
        """What a task of the ancestor's brought before anybody looked; "" if that is no such file.

        Anything else under the name may be somebody's, and stays.
        """
        name = self.row.name
        if not self.storage.foreign_task or not self.storage.remote.exists(name):
            return ""
        try:
            self._verify(self._found(name, self.row.checksum))
        except VerificationError:
            return ""
        return name

    # Failure

    def _fail(self, error: BaseException) -> bool:
        """Note the failure and let go of the row; False if it is no longer this worker's."""
        text = reason(error, *self._sides())
        is_setup = isinstance(error, ImproperlyConfigured)  # of this process, not the file's fault
        will_retry = is_setup or self._will_retry(error)
        if will_retry:
            delay = backoff(self.row.attempts)
            taken = ledger().postpone(self.row, delay, text, count=self.evicts or not is_setup)
        else:
            taken = ledger().mark_failed(self.row, text)
        if not taken:
            return False
        log = logger.warning if will_retry else logger.error
        log("%s failed: %s", self.row, text, extra={"queued_error": type(error).__name__})
        if self.row.state == State.TRANSFERRING:
            self._send(transfer_failed, error=error, will_retry=will_retry)
        return True

    @property
    def _most_attempts(self) -> int:
        # To tell a task of the ancestor's counts as one, before the first look.
        return settings.retries + (2 if self.storage.foreign_task else 1)

    def _will_retry(self, error: BaseException) -> bool:
        """A transfer ends after its retries; a delete or an eviction never does."""
        if self.row.state != State.TRANSFERRING:
            return True
        if isinstance(error, LocalFileMissing):
            hopeless = self.row.host == settings.host  # another one may have it on its own disk
        else:
            hopeless = isinstance(error, InvalidResult | LocalFileChanged)
        return not hopeless and self.row.attempts < self._most_attempts

    def _sides(self) -> list[Storage]:
        """The two storages, or none of them where one cannot be made."""
        try:
            return [self.storage.local, self.storage.remote]
        except Exception:
            return []

    def _send(self, signal: Signal, **kwargs: Any) -> None:
        if self._sides():
            send(signal, self.storage, self.row, **kwargs)


def send(signal: Signal, storage: Any, row: QueuedFile, **kwargs: Any) -> None:
    sender = type(storage)
    if not signal.has_listeners(sender):
        return
    row = ledger().filter(pk=row.pk).first() or row
    signal.send_robust(
        sender=sender,
        name=row.name,
        local=storage.local,
        remote=storage.remote,
        queued_file=row,
        **kwargs,
    )


def sides_of(row: QueuedFile) -> list[Any]:
    try:
        storage: Any = storage_for(row.alias, row.task)
        return [storage.local, storage.remote]
    except Exception:
        return []
