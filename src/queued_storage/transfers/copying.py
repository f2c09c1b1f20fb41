"""Makes the copies of files on mirrors."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage
from django.db import connections

from ..conf import settings
from ..exceptions import LeaseLost, OtherWriter, RemoteChanged, TransferError
from ..ledger.aliases import storages_in_use
from ..ledger.copies import Copies, Copy, at_copy, claimed_row, copies
from ..ledger.database import ledger
from ..ledger.models import QueuedFile
from ..remotes.fault_kinds import Fault
from ..reporting.logs import about, logger
from ..reporting.reasons import reason
from ..runtime import ending
from . import destinations, leases
from .circuit import Fate, Verdict, circuit_of
from .delays import OPERATOR_DELAY, backoff
from .gates import gates
from .leases import CopyLease
from .parts import TransferringStorage, storage_of
from .sending import Source, sent

BATCH = 20  # due copies that are read at once, of which other workers may claim some first


class Mirror(NamedTuple):
    """One of the mirrors of a storage."""

    alias: str
    place: int  # the digest


def mirrors(aliases: Collection[str] | None = None) -> list[Mirror]:
    """Return the mirrors of these storages, or of all that this process knows."""
    found: set[Mirror] = set()
    for alias in storages_in_use() if aliases is None else aliases:
        with suppress(Exception):  # a mirror cannot be made; a system check reports it
            its = storage_of(alias, "").with_each_mirror
            found |= {Mirror(alias, each.remote_place.digest) for each in its}
    return sorted(found)


def open_mirrors(aliases: Collection[str] | None = None) -> list[Mirror]:
    """Return those that are open."""
    found = mirrors(aliases)
    return [each for each in found if not gates.is_closed(*each)]


def due(mirror: Mirror) -> Copies:
    """The copies that are to be made on a mirror now."""
    return copies().to_make().filter(place=mirror.place, file__alias=mirror.alias)


def is_due(aliases: Collection[str]) -> bool:
    """Return whether a copy is due that this process can make."""
    return any(due(mirror).exists() for mirror in open_mirrors(aliases))


def make_due(mirror: Mirror, until: Callable[[], bool]) -> dict[int, Exception]:
    """Make the due copies on a mirror, oldest first, until there are none or it fails.

    Return the exceptions of failed attempts by the row's id.
    """
    errors: dict[int, Exception] = {}
    while not until() and not gates.is_closed(*mirror):
        claimed = next(_claims(due(mirror).order_by("due_at")[:BATCH]), None)
        if claimed is None:
            break
        if error := make(claimed):
            errors[claimed.file_id] = error
    return errors


def make_due_of(pks: Collection[int]) -> dict[int, Exception]:
    """Do the same for these files only."""
    errors: dict[int, Exception] = {}
    for mirror in open_mirrors() if pks else []:
        for claimed in _claims(due(mirror).filter(file__in=pks)):
            if error := make(claimed):
                errors[claimed.file_id] = error
            if gates.is_closed(*mirror):
                break
    return errors


def _claims(found: Copies) -> Iterator[Copy]:
    for copy in found:
        if claimed := copies().claim_to_make(copy):
            yield claimed


def make(copy: Copy) -> Exception | None:
    """Make a claimed copy. Return the exception of a failed attempt, which the ledger has
    recorded."""
    row = claimed_row(copy)
    with about(row), leases.keep_copy(row) as lease:
        return _Making(copy, row, lease).run()


class _Making:
    def __init__(self, copy: Copy, row: QueuedFile, lease: CopyLease) -> None:
        self._copy = copy
        self._row = row  # as if the copy were the first one
        self._lease = lease
        self._is_sending = False
        self._mirror: TransferringStorage | None = None
        lease.on_stall = self._stall

    def run(self) -> Exception | None:
        row, claims = self._row, self._lease.ledger
        try:
            verified = self._made()
            if not claims.finish(row, verified):
                self._lease.lose()
        except LeaseLost as error:
            logger.info("%s", error)
            claims.give_back(row, count=False)
            self._hurry()
            return None
        except Exception as error:
            self._fail(error)
            return error
        except BaseException:
            claims.give_back(row, error="The worker was stopped.", count=False)
            raise
        circuit_of(row.alias, self._copy.place).succeeded()
        logger.info("%s was copied to %s.", row, self._place)
        self._hurry()
        return None

    @property
    def _place(self) -> str:
        return self._mirror.remote_place.description if self._mirror else str(self._copy.place)

    def _made(self) -> str:
        row, file = self._row, self._copy.file
        if self._copy.attempts > settings.retries + 1:
            raise TransferError("Gave up: the worker died during every attempt.")
        storage = storage_of(row.alias, row.task)
        self._mirror = mirror = storage.with_remote_of(row)
        mirror_places = {each.remote_place.digest for each in storage.with_each_mirror}
        if self._copy.place not in mirror_places:
            raise RemoteChanged(f"{row.name!r} has a copy at a place that is not a mirror now.")
        self._lease.require()
        storage.require_two_places()
        destinations.remote_of(mirror)  # before anything lies there
        others = copies().verified_of(file.pk, file.generation).exclude(pk=self._copy.pk)
        rows = [file, *(at_copy(file, each) for each in others)]
        source = Source(file, [(storage.with_remote_of(each), each) for each in rows], self._lease)
        with source.opened() as opened:
            self._is_sending = True
            return sent(mirror, self._lease, opened)

    def _hurry(self) -> None:
        """Let an eviction or a delete that waits for the copy be done now."""
        ledger().filter(pk=self._row.pk).hurry()

    # Failure

    def _fail(self, error: Exception) -> None:
        row, claims, attempts = self._row, self._lease.ledger, self._copy.attempts
        text = reason(error, *self._sides())
        if ending.has_begun():
            claims.give_back(row, error=text, count=False)
            return
        is_setup = isinstance(error, ImproperlyConfigured | OtherWriter | RemoteChanged)
        verdict = Verdict(Fate.REMOTE, OPERATOR_DELAY) if is_setup else self._verdict(error)
        if verdict.fate is Fate.CLOSED:
            taken = claims.give_back(row, error=text, count=False)
        elif verdict.fate is Fate.REMOTE:
            delay = max(backoff(attempts), verdict.retry_after)
            taken = claims.give_back(row, delay, text, count=False)
        elif attempts <= settings.retries:
            taken = claims.give_back(row, backoff(attempts), text)
        else:
            taken = claims.mark_failed(row, text) or claims.give_back(row)
        if taken:
            logger.warning("%s could not be copied to %s: %s", row, self._place, text)

    def _verdict(self, error: Exception) -> Verdict:
        """Say whose fault the failure is."""
        if isinstance(error, TransferError) or self._mirror is None:
            return Verdict(Fate.OWN)
        if self._is_sending:
            circuit = circuit_of(self._row.alias, self._copy.place)
            return circuit.judge(self._mirror, self._row, error)
        # The bytes could not be read: the mirror has no part in that.
        its = self._mirror.with_remote_of(self._copy.file)
        fault = its.uploader.diagnose(error, 0).fault
        return Verdict(Fate.REMOTE if fault in (Fault.AWAY, Fault.REFUSED) else Fate.OWN)

    def _sides(self) -> list[Storage]:
        try:
            mirror = self._mirror
            return [mirror.local, mirror.remote] if mirror else []
        except Exception:
            return []

    def _stall(self) -> None:
        """Record that the thread of this work hangs. If it goes on, it finds its claim void."""
        try:
            error = self._lease.stall()
            with about(self._row):
                attempts = self._copy.attempts
                claims = self._lease.ledger
                if attempts <= settings.retries:
                    claims.give_back(self._row, backoff(attempts), str(error))
                else:
                    claims.mark_failed(self._row, str(error))
        except Exception as mistake:  # the lease expires
            logger.warning("A stalled copy could not be ended: %s", reason(mistake))
        finally:
            self._lease.end()
            connections.close_all()
