"""Saves a file to the remote at once, because the local storage has no room for it.

The name is reserved first, as a tombstone with a claim on it, by a connection of its own. The
object is then uploaded under that claim, so the row knows it before a byte is sent. The transaction
of the save only turns the tombstone into the row of the file. If it is rolled back, or if the
process dies, the tombstone is what is left, and a worker purges it with its object.

SQLite lets no other connection write while a transaction does, so all of this belongs to that
transaction there. If it is rolled back, a tombstone for the object is written afterwards.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from django.core.files import File
from django.db import connections, transaction

from ..exceptions import LeaseLost, NoRoom
from ..files.streams import checksum_of
from ..ledger.copies import copies
from ..ledger.database import in_transaction, is_in_memory, ledger, ledger_database
from ..ledger.measures import in_time
from ..ledger.models import QueuedFile
from ..ledger.states import Content
from ..reporting.logs import fields_of, logger
from ..reporting.reasons import reason
from ..signals import file_transferred
from .gated import Saved
from .parts import Parts
from .renewing import content_type_of

SECONDS = 60.0  # that a save may take to upload its file
AT_ONCE = threading.BoundedSemaphore(16)  # threads of a process that upload for saves


class _Uploaded(NamedTuple):
    """An object that was verified, under a claim on the row that is to have it."""

    row: QueuedFile
    remote_name: str
    content: Content
    verified: str


class WriteThrough:
    """One file that is saved to the remote at once."""

    def __init__(self, storage: Any, parts: Parts, names: Iterator[str], content: File) -> None:
        self._storage = storage
        self._parts = parts
        self._names = names
        self._content = content
        self._deadline = time.monotonic() + SECONDS
        self._lock = threading.Lock()  # of the next two
        self._is_late = False  # whether the save has ended without the upload
        self._uploaded: _Uploaded | None = None

    def save(self) -> Saved:
        """Upload the file, verify it and record it; raise ``NoRoom`` if that is not possible."""
        if problem := self._problem():
            raise NoRoom(problem)
        is_inline = _is_inline()
        try:
            uploaded = self._upload() if is_inline else self._awaited()
        except TimeoutError as error:
            raise NoRoom(f"the upload did not end within {SECONDS:g} seconds") from error
        except Exception as error:
            sides = (self._storage.local, self._storage.remote)
            raise NoRoom(f"the upload failed: {reason(error, *sides)}") from error
        try:
            self._record(uploaded)
        finally:
            _leases().forget(uploaded.row)
        if is_inline and in_transaction() and not is_in_memory(connections[ledger_database()]):
            _Note(self._parts.alias, uploaded).register()
        row, size = uploaded.row, uploaded.content.size
        return Saved(row.name, row.pk, size, is_transferred=True)

    def _problem(self) -> str:
        """Say why the file cannot be saved to the remote now; "" if it can."""
        from ..transfers.gates import gates
        from ..transfers.intact import VERBATIM

        if self._parts.held:
            return "its storage is delayed, so it must not be uploaded yet"
        if self._parts.foreign_task or self._parts.variant not in VERBATIM:
            return f"the task {self._parts.variant} uploads files in its own way"
        if gates.is_closed(self._parts.alias):
            return "the remote is closed; 'manage.py queued_storage remotes' shows why"
        return ""

    # In a thread with a connection of its own, unless the database is SQLite

    def _awaited(self) -> _Uploaded:
        """Upload in another thread, which cleans up by itself if it is late."""
        try:
            return in_time(self._upload_aside, SECONDS, places=AT_ONCE)
        except TimeoutError:
            with self._lock:
                self._is_late = self._uploaded is None
                if self._uploaded:
                    return self._uploaded
            raise

    def _upload_aside(self) -> _Uploaded:
        uploaded = self._upload()
        with self._lock:
            if not self._is_late:
                _leases().wait(uploaded.row)  # its claim is kept for the caller
                self._uploaded = uploaded
                return uploaded
        self._give_up(uploaded.row)
        raise TimeoutError

    def _upload(self) -> _Uploaded:
        row = self._reserved()
        with _leases().keep(row) as lease:
            try:
                return self._sent(row, lease)
            except BaseException as error:
                with suppress(Exception):  # otherwise a worker does so once the lease has expired
                    self._remove(row, lease)
                with suppress(Exception):
                    self._give_up(row)
                if isinstance(error, Exception) and not isinstance(error, LeaseLost):
                    self._judge(row, error)
                raise

    def _reserved(self) -> QueuedFile:
        """Reserve the first of the names that no file has, and claim it."""
        rows = ledger()
        for name in self._names:
            place = self._parts.place.digest
            pk = rows.record_tombstone(self._parts.alias, name, remote_name="", place=place)
            row = None if pk is None else rows.claim(pk)
            if row and rows.unreserve(row):
                row.is_local = False
                return row
        raise FileExistsError("No free name was found.")

    def _sent(self, row: QueuedFile, lease: Any) -> _Uploaded:
        from ..transfers import destinations
        from ..transfers.copies import verify_upload
        from ..transfers.proxies import RemoteProxy
        from ..transfers.writers import PlaceMarker

        storage = self._storage
        storage.require_two_places()
        destinations.remote_of(storage, self._parts.place)
        uploader, marker = storage.uploader, PlaceMarker(storage)
        timed: Any = _TimedClaim(lease, self._require_time)
        proxy = RemoteProxy(storage.remote, timed, uploader, marker)
        kind = getattr(self._content, "content_type", None) or ""
        known = checksum_of(self._content.chunks())  # to recognize the object after a failure
        row.size, row.checksum = known.size, str(known)
        row.content_type = content_type_of(Content(0, "", kind), row.name)
        try:
            proxy.save(row.name, self._content)
            assert proxy.upload
            proxy.settle()  # from now on a worker can remove the object, if this process dies
            verified = verify_upload(uploader, proxy.upload, lease.progress)
        finally:
            proxy.settle()
        self._require_time()
        marker.write()
        found = proxy.upload.content
        details = Content(found.size, found.checksum, row.content_type)
        return _Uploaded(row, proxy.upload.remote_name, details, verified)

    def _require_time(self) -> None:
        if self._is_late or time.monotonic() > self._deadline:
            raise TimeoutError("The upload takes too long.")

    def _remove(self, row: QueuedFile, lease: Any) -> None:
        """Remove what an upload that failed, or that was late, has left.

        An object goes if its bytes prove that it is this file's. No worker could prove that later,
        without the bytes.
        """
        from ..transfers.copies import Likeness, likeness
        from ..transfers.owners import Others

        storage, name = self._storage, row.object_name
        if not name or Others(row, storage.remote).have_under_any_name(name):
            return
        uploader = storage.uploader
        uploader.forget_unfinished(name)
        if not row.unconfirmed or not uploader.exists(name):
            return
        found = likeness(uploader, row, name, self._content)
        if found is Likeness.SAME or (found is Likeness.BEGINNING and not uploader.replaces):
            lease.confirm()
            uploader.remove(name)

    @staticmethod
    def _give_up(row: QueuedFile) -> None:
        """Let the row be purged, with the object if there is one."""
        if not row.object_name and ledger().remove_tombstone(row):
            return
        ledger().release_claim(row)

    def _judge(self, row: QueuedFile, error: Exception) -> None:
        """Let the process find out whether the remote is away, which the save does not wait for."""
        if _is_inline():
            return
        judge = threading.Thread(
            target=_judged, args=(self._storage, row, error), name="queued-storage-judge"
        )
        judge.daemon = True
        with suppress(RuntimeError):  # the process has no more threads
            judge.start()

    # In the transaction of the caller

    def _record(self, uploaded: _Uploaded) -> None:
        """Turn the tombstone into the row of the file."""
        row, rows = uploaded.row, self._parts.rows
        if mirrors := [each.remote_place.digest for each in self._storage.with_each_mirror]:
            copies().want(row, mirrors)
        if not rows.fill_remotely(
            row, uploaded.remote_name, uploaded.content, uploaded.verified, self._parts.variant
        ):
            raise NoRoom("a worker has taken its name back, since the upload took too long")
        transaction.on_commit(partial(self._announce, row), using=rows.db, robust=True)

    def _announce(self, row: QueuedFile) -> None:
        from ..transfers import work

        logger.info(
            "%s was saved to the remote, since the local storage has no room.",
            row,
            extra=fields_of(row),
        )
        work.send(file_transferred, self._storage, row)


class _TimedClaim:
    """A claim under which no more bytes move once the time is up."""

    def __init__(self, lease: Any, require_time: Callable[[], None]) -> None:
        self._lease = lease
        self._require_time = require_time

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    def moved(self, count: int) -> None:
        self._require_time()
        self._lease.moved(count)


def _leases() -> Any:
    from ..transfers import leases  # which most processes of a site don't need

    return leases


def _is_inline() -> bool:
    """Whether no other connection can write to the ledger now."""
    connection = connections[ledger_database()]
    if connection.vendor != "sqlite":
        return False
    return in_transaction() or is_in_memory(connection)


def _judged(storage: Any, row: QueuedFile, error: Exception) -> None:
    from ..transfers.circuit import circuit_of

    try:
        circuit_of(row.alias, storage.other_place).judge(storage, row, error)
    except Exception as problem:
        logger.warning("%s: %s", row, reason(problem), extra=fields_of(row))
    finally:
        connections.close_all()


class _Note:
    """Sees to an object whose transaction may be rolled back, on SQLite.

    Only Django's list of callbacks keeps the note. If it goes without having been called, the
    transaction or savepoint was rolled back, and a tombstone for the object is written.
    """

    def __init__(self, alias: str, uploaded: _Uploaded) -> None:
        row = uploaded.row
        write = partial(_write_tombstone, alias, row.name, uploaded.remote_name, row.place)
        self._finalizer = weakref.finalize(self, _in_thread, write)
        self._finalizer.atexit = False

    def register(self) -> None:
        transaction.on_commit(self.detach, using=ledger_database())

    def detach(self) -> None:
        self._finalizer.detach()


def _in_thread(action: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the process ends; 'orphans' finds the object
        threading.Thread(target=action, name="queued-storage-note").start()


def _write_tombstone(alias: str, name: str, remote_name: str, place: int | None) -> None:
    """Let a worker remove an object that no row has."""
    try:
        rows = ledger()
        if rows.record_tombstone(alias, name, remote_name, place=place) is None:
            other = f"{remote_name}.{time.monotonic_ns()}"[-200:]
            rows.record_tombstone(alias, other, remote_name, place=place)
    except Exception as error:
        logger.error(
            "The object %r of a save that was rolled back stays on the remote of %r. Run "
            "'manage.py queued_storage orphans' to find it. %s",
            *(remote_name, alias, reason(error)),
            extra={"queued_storage": alias},
        )
    finally:
        connections.close_all()
