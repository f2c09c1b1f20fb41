"""Removes further copies that are of no use, with their objects."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..exceptions import LeaseLost, OtherWriter, RemoteChanged
from ..ledger.copies import Copies, Copy, at_copy, copies
from ..ledger.models import QueuedFile
from ..ledger.remotes import remotes
from ..ledger.states import State
from ..reporting.logs import logger
from ..reporting.reasons import reason
from . import destinations
from .delays import OPERATOR_DELAY, backoff
from .disposal import Removal, was_saved
from .owners import needed_by_others
from .parts import TransferringStorage, sides_of, storage_of
from .writers import PlaceMarker

TOGETHER = 50  # copies that are claimed at once, at most
FRESH = 1.0  # seconds after which a claim is confirmed once more, or a third of LEASE


def is_due() -> bool:
    """Return whether a copy is to be removed now."""
    return any(rows.exists() for rows in _due())


def _due() -> list[Copies]:
    """The copies that are to be removed now, by place; those of a closed remote wait.

    An index finds those of one place. For all, a database reads what is to be made on mirrors, too.
    """
    closed = set(remotes().closed().values_list("digest", flat=True))
    places = (place for place in copies().places() if place not in closed)
    return [copies().removable().filter(place=place) for place in places]


def dispose_due(limit: int, may_go_on: Callable[[], bool] = lambda: True) -> int:
    """Remove the objects of up to ``limit`` copies that are due; return how many are gone."""
    found = [
        key
        for rows in _due()
        for key in rows.order_by("due_at").values_list("due_at", "pk")[:limit]
    ]
    keys = [pk for _at, pk in sorted(found)[:limit]]
    count = 0
    for start in range(0, len(keys), TOGETHER):
        if not may_go_on():
            break
        count += _dispose_some(keys[start : start + TOGETHER], may_go_on)
    return count


def _dispose_some(keys: Sequence[int], may_go_on: Callable[[], bool]) -> int:
    batch = Batch(partial(copies().claim_all, keys))
    gone, untried = [], deque(batch.copies)
    try:
        answers = batch.remove_together()
        gone += [copy for copy in batch.copies if answers.get(copy.pk) == ""]
        untried = deque(copy for copy in batch.copies if copy.pk not in answers)
        while untried and may_go_on():
            copy = untried.popleft()
            with suppress(LeaseLost):
                if not batch.remove(copy):
                    gone.append(copy)
    finally:
        copies().release_all(untried)
        void = copies().drop_all(gone)
    return len(gone) - len(void)


def dispose(copy: Copy) -> bool:
    """Remove the object of a claimed copy, and the copy; return False if that is to be repeated."""
    try:
        return not _remove(copy, _Claim(copy)) and bool(copies().drop(copy))
    except LeaseLost:
        return False


class _Group(NamedTuple):
    """Copies at one remote that certainly have an object of their own."""

    storage: TransferringStorage
    rows: list[tuple[Copy, QueuedFile]]  # as if the copy were the first one of its file
    needed: set[int]  # keys of files whose objects other files of the ledger need, too


class Batch:
    """Copies that are claimed together. Several threads may remove their objects."""

    def __init__(self, claim: Callable[[], list[Copy]]) -> None:
        since = time.monotonic()
        self.copies = claim()
        self._claims = {copy.pk: _Claim(copy, since) for copy in self.copies}
        self._groups = list(_groups(self.copies))
        self._needed = {
            copy.pk: row.pk in group.needed for group in self._groups for copy, row in group.rows
        }

    def remove_together(self) -> dict[int, str]:
        """Remove objects by one request to each remote, as far as it can do that.

        Return by the keys of the copies what ``remove()`` returns; it is left to the caller to call
        that for the others.
        """
        found: dict[int, str] = {}
        for group in self._groups:
            try:
                found |= self._remove_together(group)
            except Exception as error:  # which each removal by itself reports, if it lasts
                logger.info("Old copies are removed one by one: %s", reason(error))
        return found

    def _remove_together(self, group: _Group) -> dict[int, str]:
        its = {
            row.object_name: (copy, row)
            for copy, row in group.rows
            if row.transferred_at and row.pk not in group.needed
        }
        if len(its) < 2:
            return {}
        for copy, row in its.values():
            destinations.require_same_place(group.storage, row)
            self._claims[copy.pk].confirm()
        PlaceMarker(group.storage).require_own()
        answers = group.storage.uploader.remove_together(its)
        found = {}
        for name, error in answers.items():
            copy, row = its[name]
            found[copy.pk] = _postponed(copy, row, error) if error else ""
        return found

    def remove(self, copy: Copy) -> str:
        """Remove the object of a copy, but leave the copy to the caller, who drops several at once.

        Return why it failed; then the claim has ended. ``LeaseLost`` is raised if it is void.
        """
        return _remove(copy, self._claims[copy.pk], self._needed.get(copy.pk))


class _Claim:
    """The claim of this process on a copy that it removes."""

    def __init__(self, copy: Copy, since: float = -math.inf) -> None:
        self._copy = copy
        self._since = since  # when it was valid

    def confirm(self) -> None:
        """Ask the ledger, unless it has confirmed the claim a moment ago."""
        now = time.monotonic()
        if now - self._since <= min(FRESH, settings.lease / 3):
            return
        if not copies().confirm_removal(self._copy):
            raise LeaseLost(f"This worker lost its lease on {self._copy}.")
        self._since = now


def _groups(found: Sequence[Copy]) -> Iterator[_Group]:
    groups = defaultdict(list)
    for copy in found:
        row = at_copy(copy.file, copy)
        is_certain = row.object_name and was_saved(row) and not row.unconfirmed
        if is_certain and copy.file.place != copy.place:
            groups[row.alias, row.task, copy.place].append((copy, row))
    for (alias, task, _place), its in groups.items():
        rows = [row for _copy, row in its]
        try:
            storage = storage_of(alias, task).with_remote_of(rows[0])
            remote = storage.remote
        except Exception:  # the removal of each copy reports it
            continue
        yield _Group(storage, its, needed_by_others(rows, remote))


def _remove(copy: Copy, claim: _Claim, is_needed: bool | None = None) -> str:
    """Remove the object of a claimed copy; return why that failed, after the end of the claim.

    ``LeaseLost`` is raised if the claim is void.
    """
    file, row = copy.file, at_copy(copy.file, copy)
    if file.place == copy.place:  # an operator has declared that the file is there
        return ""
    try:
        storage = storage_of(row.alias, row.task)

        def original() -> Iterator[bytes]:
            return storage.with_remote_of(file).uploader.read_back(file.remote_name)

        known = original if file.state == State.TRANSFERRED else None
        its = storage.with_remote_of(row)
        Removal(its, row, claim, known, is_needed=is_needed).run()
    except LeaseLost:
        raise
    except Exception as error:
        return _postponed(copy, row, error)
    return ""


def _postponed(copy: Copy, row: QueuedFile, error: Exception) -> str:
    """End the claim on a copy whose object could not be removed; return why."""
    text = reason(error, *sides_of(row))
    logger.warning("An old copy of %s could not be removed: %s", row, text)
    is_waiting = isinstance(error, ImproperlyConfigured | OtherWriter | RemoteChanged)
    delay = OPERATOR_DELAY if is_waiting else backoff(copy.attempts + 1)
    copies().postpone(copy, delay, text)
    return text
