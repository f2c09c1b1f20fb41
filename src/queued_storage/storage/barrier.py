"""Waits until the files saved before a call are on the remote."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q

from ..exceptions import TransferError, TransferTimeout
from ..ledger.copies import CopyState, copies
from ..ledger.database import QueuedFileQuerySet, in_transaction, ledger
from ..ledger.models import QueuedFile
from ..ledger.names import Name, StoredName
from ..ledger.preparations import preparations
from ..ledger.states import UNPUBLISHED, State
from .results import obstacle, stopped_by_step, unknown_state, wait_until

BULK = 500  # names in one query
UNDER_WAY = (State.PENDING, State.TRANSFERRING)


class Barrier:
    """Files of one storage that are waited for, as queries of a limited size."""

    def __init__(self, groups: Sequence[QueuedFileQuerySet], *, held_is_error: bool) -> None:
        self._groups = groups
        self._held_is_error = held_is_error  # else held files are not waited for
        self._further = 0  # copies on mirrors that each file must have
        self._then: Callable[[], Barrier] | None = None  # makes that of the next tier
        self._next: Barrier | None = None

    @classmethod
    def of(cls, alias: str, names: Iterable[Name] | None, needed: int = 1) -> "Barrier":
        """Wait for these files, or for all that the storage has now."""
        barrier = cls.for_all(alias) if names is None else cls.for_names(alias, names)
        barrier._further = needed - 1
        barrier.require_commit()
        return barrier

    @classmethod
    def for_all(cls, alias: str) -> "Barrier":
        """Wait for all files that the storage has now, but not for held ones."""
        files = ledger().filter(alias=alias)
        newest = files.order_by("-pk").values_list("pk", flat=True).first() or 0
        return cls([files.filter(pk__lte=newest)], held_is_error=False)

    @classmethod
    def for_names(cls, alias: str, names: Iterable[Name]) -> "Barrier":
        """Wait for these files. Raises ``FileNotFoundError`` for a name without a row."""
        wanted = {stored.text: stored for stored in map(StoredName.of, names)}
        asked = sorted(text for text, stored in wanted.items() if stored.can_be_recorded)
        files = ledger().filter(alias=alias)
        parts = (asked[start : start + BULK] for start in range(0, len(asked), BULK))
        groups = [files.filter(name__in=part) for part in parts]
        known = {name for group in groups for name in group.values_list("name", flat=True)}
        if missing := set(wanted) - known:
            raise FileNotFoundError(
                f"Cannot wait for {min(missing)!r}: the ledger has no such file of {alias!r}."
            )
        return cls(groups, held_is_error=True)

    def then(self, next_one: Callable[["list[str] | None"], "Barrier"], *, is_named: bool) -> None:
        """Wait for the same files in the next tier, which knows them by their remote names."""

        def begin() -> Barrier:
            return next_one(self._remote_names() if is_named else None)

        self._then = begin

    def _remote_names(self) -> list[str]:
        found: list[str] = []
        for group in self._groups:
            found += group.filter(state=State.TRANSFERRED).values_list("remote_name", flat=True)
        return found

    def require_no_held(self) -> "Barrier":
        """Let a held file be an error."""
        self._held_is_error = True
        return self

    def wait(self, timeout: float | None) -> None:
        """Block until no file is under way.

        Raises ``TransferError`` once a file has failed, ``TransferTimeout`` after ``timeout``
        seconds.
        """
        if not wait_until(self.is_over, timeout):
            raise self.too_late(timeout)

    def too_late(self, timeout: float | None) -> TransferTimeout:
        """Return the error after so many seconds, with what keeps the files."""
        text = (
            f"The files were not transferred within {timeout or 0:g} seconds; the transfers "
            f"continue."
        )
        row = self._troubled()
        return TransferTimeout(text if row is None else f"{text}{obstacle(row)}")

    def _troubled(self) -> QueuedFile | None:
        """A file that is waited for; one whose last attempt failed, if there is any."""
        if self._next:
            return self._next._troubled()
        waits = [group.filter(state__in=UNDER_WAY) for group in self._groups]
        failed = (group.exclude(last_error="").first() for group in waits)
        others = (group.first() for group in waits)
        return next(filter(None, chain(failed, others)), None)

    def require_commit(self) -> None:
        """Raise ``TransferError`` if the transfers begin only after this transaction."""
        if in_transaction() and not self.is_over():
            raise TransferError(
                "Files saved in this transaction are transferred after its commit; call wait() "
                "after the transaction."
            )

    def is_over(self) -> bool:
        """Return whether no file is under way; raise ``TransferError`` if one has failed."""
        for group in self._groups:
            self._require_no_failure(group)
        if any(group.filter(state__in=UNDER_WAY).exists() for group in self._groups):
            return False
        if any(map(_waits_for_steps, self._groups)):
            return False
        if self._further and any(map(self._lacks_copies, self._groups)):
            return False
        if self._then is None:
            return True
        self._next = self._next or self._then()
        return self._next.is_over()

    def _lacks_copies(self, group: QueuedFileQuerySet) -> bool:
        """Return whether a copy is under way that is needed; raise ``TransferError`` if one has
        failed.

        Files that predate the mirrors have none until they are backfilled.
        """
        unfinished = copies().filter(
            file=OuterRef("pk"), state__in=[CopyState.PENDING, CopyState.FAILED]
        )
        is_present = Q(copies__state=CopyState.TRANSFERRED, copies__generation=F("generation"))
        is_hoped_for = Q(copies__state__in=[CopyState.TRANSFERRED, CopyState.PENDING])
        lacking: Any = (
            group.filter(Exists(unfinished), state=State.TRANSFERRED)
            .annotate(
                present=Count("copies", filter=is_present),
                possible=Count("copies", filter=is_hoped_for),
            )
            .filter(present__lt=self._further)
        )
        if hopeless := lacking.filter(possible__lt=self._further).first():
            failed = copies().filter(file=hopeless.pk, state=CopyState.FAILED).first()
            raise TransferError(f"{hopeless} was not copied: {failed and failed.last_error}")
        return bool(lacking.exists())

    def _require_no_failure(self, group: QueuedFileQuerySet) -> None:
        if failed := group.filter(state=State.FAILED).first():
            raise TransferError(f"{failed}: {failed.last_error}")
        if self._held_is_error and (held := group.filter(state=State.HELD).first()):
            raise TransferError(f"{held} is held until transfer() is called for it.")
        if self._held_is_error and (stopped := _stopped(group).first()):
            raise TransferError(stopped_by_step(stopped))
        if unknown := group.in_unknown_state().first():
            raise TransferError(unknown_state(unknown))


def _waits_for_steps(group: QueuedFileQuerySet) -> bool:
    """Return whether content waits for its steps: that of a new file, or new content."""
    waiting = preparations().waiting().current().filter(file__in=group.values("pk"))
    return bool(waiting.exists())


def _stopped(group: QueuedFileQuerySet) -> QueuedFileQuerySet:
    """The files that a step has rejected, or that are held because one cannot be run."""
    stopped = preparations().stopped().values("file")
    return group.filter(state__in=UNPUBLISHED, pk__in=stopped)
