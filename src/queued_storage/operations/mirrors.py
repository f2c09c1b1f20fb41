"""The copies of files on mirrors, for operators."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.db.models import Exists, OuterRef, Q

from ..exceptions import VerificationError
from ..ledger import bindings
from ..ledger.availability import Availability, availabilities
from ..ledger.copies import Copies, CopyState, at_copy, copies
from ..ledger.copy_counts import lacks, unfinished
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..reporting.counts import counted
from ..reporting.reasons import reason
from ..transfers.copies import verify_remote
from .passes import Report, Step, batches, ignore
from .storages import OperableStorage


@dataclass(frozen=True)
class Mirror:
    """The unfinished copies of one mirror."""

    alias: str
    place: str  # without secrets
    pending: int  # including those that are due
    failed: int
    last_error: str = ""  # of one that failed
    due: int = 0  # those that no worker has claimed although they are to be made now


def tallies(known: Sequence[Availability] | None = None) -> list[Mirror]:
    """The mirrors of all storages of this process; without mirrors, they are not counted."""
    found = []
    for remote, lack in lacks(availabilities() if known is None else known):
        alias, digest = remote.alias, remote.digest
        failed = unfinished(alias, digest).filter(state=CopyState.FAILED)
        error = failed.first() if lack.failed else None
        text = error.last_error if error else ""
        found.append(Mirror(alias, remote.place, lack.pending, lack.failed, text, lack.due))
    return found


def troubles(tolerated: int = 0, found: list[Mirror] | None = None) -> list[str]:
    """The mirrors with copies that failed, each with what to do, if there are more than
    ``tolerated``."""
    found = tallies() if found is None else found
    if sum(each.failed for each in found) <= tolerated:
        return []
    return [
        counted(each.failed, "{} file", "{} files")
        + f" of {each.alias!r} could not be copied to the mirror {each.place}: {each.last_error} "
        f"Fix the cause, then run 'manage.py queued_storage retry --storage "
        f"{shlex.quote(each.alias)}'."
        for each in found
        if each.failed
    ]


def lacking(storage: OperableStorage, place: int) -> QueuedFileQuerySet:
    """The transferred files without a copy at a place; this reads all rows of the storage."""
    its = Q(place=place)
    if bindings.digest_of(storage.alias, None) == place:
        its |= Q(place=None)
    there = copies().filter(file=OuterRef("pk"), place=place)
    transferred = ledger().filter(alias=storage.alias, state=State.TRANSFERRED)
    return transferred.exclude(its).filter(~Exists(there))


def backfill(storage: OperableStorage, report: Report = ignore, *, dry_run: bool = False) -> int:
    """Let copies be made that mirrors lack; return how many. Workers make them."""
    count = 0
    for mirror in storage.with_each_mirror:
        place = mirror.remote_place.digest
        stale = copies().filter(file__alias=storage.alias, place=place).stale()
        found = list(stale.values_list("pk", flat=True))
        count += len(found) if dry_run else copies().filter(pk__in=found).make_again()
        for batch in batches(lacking(storage, place)):
            if not dry_run:
                copies().add(batch, place)
            count += len(batch)
            report(Step(len(batch), sum(row.size for row in batch)))
    return count


def of_files(rows: QueuedFileQuerySet) -> Copies:
    """The further copies of these files."""
    return copies().filter(file__in=rows.values("pk"))


class Finding(NamedTuple):
    """A copy that differs from the ledger."""

    place: int
    kind: str  # "missing", "different" or "unreadable"
    details: str


def differences(storage: OperableStorage, row: QueuedFile, level: str) -> Iterator[Finding]:
    """Compare the verified copies of a transferred file; those that are pending are left out.

    Without mirrors, no query is made.
    """
    wanted = storage.with_each_mirror
    if not wanted:
        return
    found = {copy.place: copy for copy in copies().of(row)}
    own = bindings.digest_of(row.alias, row.place)
    for mirror in wanted:
        place = mirror.remote_place
        copy = found.get(place.digest)
        if copy is None and place.digest != own:
            yield Finding(place.digest, "missing", f"{place.description} has no copy yet.")
        elif copy and copy.state == CopyState.TRANSFERRED:
            yield from _differences(mirror, at_copy(row, copy), level)


def _differences(mirror: OperableStorage, its: QueuedFile, level: str) -> Iterator[Finding]:
    place = mirror.remote_place
    try:
        verify_remote(mirror, its, level, lambda: None)
    except Exception as error:
        text = f"{place.description}: {reason(error, mirror.local, mirror.remote)}"
        if isinstance(error, FileNotFoundError) or not mirror.uploader.exists(its.remote_name):
            yield Finding(
                place.digest, "missing", f"{place.description} has no {its.remote_name!r}."
            )
        elif isinstance(error, VerificationError):
            yield Finding(place.digest, "different", text)
        else:
            yield Finding(place.digest, "unreadable", text)
