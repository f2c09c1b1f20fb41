"""Let a further copy of a file be its first one, and the first one a further copy."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction

from .bindings import digest_of
from .copies import Copy, CopyState, copies
from .database import QueuedFileQuerySet, ledger, ledger_database
from .models import QueuedFile
from .sql.clock import DatabaseNow
from .sql.outages import outlast
from .sql.statements import returns_rows, statement
from .states import Claim, State
from .texts import exchange_text, numbered, padded


def exchange(
    row: QueuedFile, place: int, *, left_as: CopyState, is_kept: bool = False, **columns: Any
) -> int:
    """Let the copy at a place be the first one of a claimed file, and its first one a further copy.

    A place without a copy gets an empty one. What lies at the old place is ``left_as`` it says;
    nothing is left if nothing lies there. ``columns`` of the row are changed too. Return 0 if the
    claim is void, or if another process removes the copy.
    """
    with transaction.atomic(using=ledger_database()):
        new = copies().at(row, place).select_for_update().first()
        if new and new.lease_token:
            return 0
        changed = (
            ledger()
            .under_claim(Claim.of(row))
            .update(
                place=place,
                remote_name=new.remote_name if new else "",
                unconfirmed=new.unconfirmed if new else "",
                **columns,
            )
        )
        if changed:
            _leave(row, new, left_as, is_kept=is_kept)
        else:
            return 0
    row.place = place
    row.remote_name = new.remote_name if new else ""
    row.unconfirmed = new.unconfirmed if new else ""
    return changed


class _Group(NamedTuple):
    """What files have in common that are exchanged by one statement."""

    token: str
    generation: int
    old_place: int
    old_verified: str


def exchange_all(
    rows: Sequence[QueuedFile], place: int, *, verified: str, is_kept: bool
) -> set[int]:
    """Do the same for claimed files that have their own names at both places; the old copy stays.

    Return the keys of those for which it was done. The others may be locked, or their claims void.
    """
    groups = defaultdict(list)
    for row in rows:
        old_place = digest_of(row.alias, row.place)
        if old_place is not None:
            group = _Group(row.lease_token, row.generation, old_place, row.verified)
            groups[group].append(row.pk)
    done: set[int] = set()
    for group, pks in groups.items():
        swap = partial(_exchange_group, group, pks, place, verified=verified, is_kept=is_kept)
        try:
            done |= outlast(swap, ledger_database())
        except (_CopyInUse, IntegrityError):
            continue
    return done


class _CopyInUse(Exception):
    """Another process has the copy of one of the files in hand."""


def _exchange_group(
    group: _Group, pks: Sequence[int], place: int, *, verified: str, is_kept: bool
) -> set[int]:
    rows = ledger()
    with transaction.atomic(using=rows.db):
        changed = _move_rows(rows, group, pks, place, verified)
        left = copies().filter(
            file__in=changed,
            place=place,
            lease_token="",
            state__in=[CopyState.PENDING, CopyState.TRANSFERRED],
        )
        columns = _left(CopyState.TRANSFERRED, group.generation, is_kept=is_kept)
        columns |= {"place": group.old_place, "verified": group.old_verified, "unconfirmed": ""}
        if changed and left.update(**columns) != len(changed):
            raise _CopyInUse
    return changed


def _move_rows(
    rows: QueuedFileQuerySet, group: _Group, pks: Sequence[int], place: int, verified: str
) -> set[int]:
    if not returns_rows(rows.db):
        locked = rows.filter(
            pk__in=pks,
            state=State.TRANSFERRED,
            generation=group.generation,
            lease_token=group.token,
        )
        pks = list(locked.unlocked_keys())
    if not pks:
        return set()
    keys = padded(pks)
    move = statement(
        rows,
        exchange_text,
        len(keys),
        token=group.token,
        generation=group.generation,
        place=place,
        verified=verified,
        **numbered(keys),
    )
    if returns_rows(rows.db):
        return set(move.first_column())
    move.execute()
    return set(pks)


def _left(state: CopyState, generation: int, *, is_kept: bool) -> dict[str, Any]:
    """What a further copy becomes that was the first one."""
    return {
        "state": state,
        "generation": generation,
        "is_kept": is_kept,
        "attempts": 0,
        "last_error": "",
        "due_at": None if state is CopyState.TRANSFERRED else DatabaseNow(),
    }


def _leave(row: QueuedFile, new: Copy | None, state: CopyState, *, is_kept: bool) -> None:
    """Let the copy that became the first one of a file be that at its old place."""
    old_place = digest_of(row.alias, row.place)
    if old_place is not None:  # a copy there says nothing that the row doesn't
        copies().at(row, old_place).delete()
    if not row.object_name or old_place is None:  # nothing lies there
        if new:
            copies().filter(pk=new.pk).delete()
        return
    columns = {
        "place": old_place,
        "remote_name": row.object_name,
        "unconfirmed": row.unconfirmed,
        "verified": row.verified,
        **_left(state, row.generation, is_kept=is_kept),
    }
    if new:
        copies().filter(pk=new.pk).update(**columns)
    else:
        copies().bulk_create([Copy(file_id=row.pk, **columns)])
