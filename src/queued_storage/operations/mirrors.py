"""The copies of files on mirrors, for operators."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Count, Exists, OuterRef, Q

from ..exceptions import VerificationError
from ..ledger import bindings
from ..ledger.aliases import known_storages
from ..ledger.copies import Copies, CopyState, at_copy, copies
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..reporting.counts import counted
from ..reporting.reasons import reason
from ..transfers.copies import verify_remote
from ..transfers.parts import storage_of
from .passes import Report, Step, batches, ignore
from .storages import OperableStorage


@dataclass(frozen=True)
class Mirror:
    """The unfinished copies of one mirror."""

    alias: str
    place: str  # without secrets
    pending: int
    failed: int
    last_error: str = ""  # of one that failed


def unfinished(alias: str, place: int) -> Copies:
    """The copies that a mirror lacks although they are wanted."""
    states = [CopyState.PENDING, CopyState.FAILED]
    return copies().filter(file__alias=alias, place=place, state__in=states)


def tallies() -> list[Mirror]:
    """The mirrors of all storages of this process; without mirrors, no query is made."""
    found = []
    for alias in sorted(storage.alias for storage in known_storages()):
        try:
            places = [each.remote_place for each in storage_of(alias, "").with_each_mirror]
        except Exception:  # a mirror cannot be made; a system check reports it
            continue
        for place in places:
            its: Any = unfinished(alias, place.digest)
            by_state = dict(its.values_list("state").annotate(Count("pk")).order_by())
            failed = by_state.get(CopyState.FAILED, 0)
            error = its.filter(state=CopyState.FAILED).first() if failed else None
            found.append(
                Mirror(
                    alias,
                    place.description,
                    by_state.get(CopyState.PENDING, 0),
                    failed,
                    error.last_error if error else "",
                )
            )
    return found


def troubles(found: list[Mirror] | None = None) -> list[str]:
    """The mirrors with copies that failed, each with what to do."""
    return [
        counted(each.failed, "{} file", "{} files")
        + f" of {each.alias!r} could not be copied to the mirror {each.place}: {each.last_error} "
        f"Fix the cause, then run 'manage.py queued_storage retry --storage {each.alias}'."
        for each in (tallies() if found is None else found)
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


def retry(rows: QueuedFileQuerySet) -> int:
    """Make failed and waiting copies of these files due now, with all their retries."""
    return copies().filter(file__in=rows.values("pk")).retry()


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
