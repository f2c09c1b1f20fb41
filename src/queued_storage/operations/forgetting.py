"""Take a place out of the ledger that is lost for good, with all that lay there."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from enum import Enum

from ..files import presence, successors, volumes
from ..ledger import bindings, forgetting
from ..ledger.availability import Availability
from ..ledger.copies import Copy, CopyState, copies
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.models import QueuedFile
from ..ledger.remotes import remotes
from ..ledger.rows import is_unclaimed
from ..ledger.states import KNOWN, State, is_reachable_from_here
from ..reporting.reasons import reason
from ..storage.routes import Routes
from .passes import BATCH, Report, Step, batches, ignore
from .steering import enqueue_rows
from .storages import OperableStorage


class Fate(Enum):
    """What becomes of a file whose first copy was at the place, or of a copy there."""

    SWITCHED = "another copy is the first one"
    UPLOADED = "it is uploaded again from its local copy"
    LEFT = "it was not there yet, or is being deleted"
    LOST = "no other copy of it is left"
    DROPPED = "it was a further copy"
    BUSY = "a worker has it in hand, or it could not be looked at"


class NotForgettable(Exception):
    """The place is in use."""


Tell = Callable[[str, Fate], object]  # is called with the description of a file


def require_forgettable(remote: Availability) -> None:
    """Raise ``NotForgettable`` unless the place may be given up: the storage must not upload there,
    and it must be closed if the storage has it as a mirror or previous remote."""
    if remote.digest == bindings.UNKNOWN:
        raise NotForgettable("Nothing tells this place from others, so it cannot be forgotten.")
    if remote.is_configured:
        raise NotForgettable(
            f"{remote.title} is the one that new files go to. Give the storage another remote, and "
            f"list this one in the option 'previous'."
        )
    if remote.is_known and remote.is_open:
        raise NotForgettable(
            f"{remote.title} is open. If it is lost for good, pause it first: run 'manage.py "
            f"queued_storage remotes pause {remote.steered_by}'."
        )


def forget(
    storage: OperableStorage,
    remote: Availability,
    report: Report = ignore,
    *,
    tell: Tell = lambda name, fate: None,
    dry_run: bool = False,
    loses_files: bool = False,
) -> Counter[Fate]:
    """Let the ledger forget a place of a storage, and what lay there; return what became of that.

    A file that would lose its last copy is kept unless ``loses_files``; it is then marked as
    failed. The pass may be interrupted, and run again. ``NotForgettable`` is raised for a place
    that is in use, and ``LocalStorageMissing`` if the local copies cannot be looked at.
    """
    require_forgettable(remote)
    volumes.require(storage.alias, storage.local)
    return _Pass(storage, remote, report, tell, dry_run=dry_run, loses_files=loses_files).run()


class _Pass:
    def __init__(
        self,
        storage: OperableStorage,
        remote: Availability,
        report: Report,
        tell: Tell,
        *,
        dry_run: bool,
        loses_files: bool,
    ) -> None:
        self._storage = storage
        self._remote = remote
        self._report = report
        self._tell = tell
        self._dry_run = dry_run
        self._loses_files = loses_files
        self._counts: Counter[Fate] = Counter()
        self._present = storage.remote_place.digest
        self._mirrors = [
            digest
            for each in storage.with_each_mirror
            if (digest := each.remote_place.digest) != remote.digest
        ]
        previous = [each.remote_place.digest for each in storage.with_each_remote]
        # Where another copy may be that readers find; the best first.
        self._others = [
            each for each in [self._present, *self._mirrors, *previous] if each != remote.digest
        ]

    def run(self) -> Counter[Fate]:
        for batch in batches(self._lost):
            self._take(batch)
            self._report(Step(len(batch), sum(row.size for row in batch)))
        self._drop_copies()
        if not self._dry_run:
            self._forget_remote()
        return self._counts

    @property
    def _lost(self) -> QueuedFileQuerySet:
        return forgetting.files_at(self._storage.alias, self._remote.digest)

    # Files whose first copy was there

    def _take(self, batch: Sequence[QueuedFile]) -> None:
        by_fate: dict[tuple[Fate, int], list[QueuedFile]] = defaultdict(list)
        unclaimed = {
            *ledger()
            .filter(is_unclaimed(), pk__in=[row.pk for row in batch])
            .values_list("pk", flat=True)
        }
        verified = self._verified_places(batch)
        for row in batch:
            is_busy = row.pk not in unclaimed
            fate, place = (Fate.BUSY, 0) if is_busy else self._fate_of(row, verified[row.pk])
            by_fate[fate, place].append(row)
        for (fate, place), rows in by_fate.items():
            done = len(rows) if self._dry_run else self._do(fate, place, rows)
            self._counts[fate] += done
            self._counts[Fate.BUSY] += len(rows) - done
            if fate is Fate.LOST:
                for row in rows:
                    self._tell(str(row), fate)

    def _verified_places(self, batch: Sequence[QueuedFile]) -> dict[int, set[int]]:
        found: dict[int, set[int]] = defaultdict(set)
        current = {row.pk: row.generation for row in batch}
        verified = copies().filter(
            file__in=list(current), place__in=self._others, state=CopyState.TRANSFERRED
        )
        for pk, place, generation in verified.values_list("file_id", "place", "generation"):
            if generation == current[pk]:
                found[pk].add(place)
        return found

    def _fate_of(self, row: QueuedFile, verified: set[int]) -> tuple[Fate, int]:
        """Return what is to become of an unclaimed file, and the place that it is bound to."""
        if row.state not in KNOWN:
            return Fate.BUSY, 0
        if row.state != State.TRANSFERRED:
            return Fate.LEFT, self._present
        if place := next((each for each in self._others if each in verified), None):
            return Fate.SWITCHED, place
        try:
            return (Fate.UPLOADED if self._is_local(row) else Fate.LOST), self._present
        except Exception as error:
            self._report(Step(0, 0, reason(error, self._storage.local), str(row)))
            return Fate.BUSY, 0

    def _is_local(self, row: QueuedFile) -> bool:
        """Return whether the local copy is there; one on another host is believed to be."""
        if not (row.is_local and is_reachable_from_here(row.host)):
            return row.is_local
        local = self._storage.local
        name = successors.current_name(local, row.name, row)
        return presence.exists(local, name) and local.size(name) == row.size

    def _do(self, fate: Fate, place: int, rows: list[QueuedFile]) -> int:
        """Change the ledger; return how many files were changed, or are kept."""
        pks, lost = [row.pk for row in rows], self._lost
        done = len(rows)
        if fate is Fate.SWITCHED:
            self._want_copies(rows, place)
            done = forgetting.switch(lost, pks, place)
        elif fate is Fate.UPLOADED:
            done = forgetting.upload_again(lost, pks, place)
        elif fate is Fate.LEFT:
            done = forgetting.leave(lost, pks, place)
        elif fate is Fate.LOST and self._loses_files:
            done = forgetting.lose(lost, pks, place, self._remote.place)
        self._forget_routes(rows)
        if fate in (Fate.UPLOADED, Fate.LEFT):
            enqueue_rows(rows)
        return done

    def _want_copies(self, rows: list[QueuedFile], place: int) -> None:
        """Let mirrors have a copy of files that are going to be switched to a place."""
        for mirror in self._mirrors:
            if mirror != place:
                copies().add(rows, mirror)

    def _forget_routes(self, rows: list[QueuedFile]) -> None:
        routes = Routes(self._storage.alias, self._storage.cache_prefix)
        for row in rows:
            routes.forget(row.name)

    # Further copies

    def _drop_copies(self) -> None:
        alias, place = self._storage.alias, self._remote.digest
        kept = [] if self._loses_files else self._kept_copies()
        found = forgetting.copies_at(alias, place).exclude(pk__in=kept)
        if self._dry_run:
            self._counts[Fate.DROPPED] += found.count()
            return
        last = 0
        while pks := list(
            found.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:BATCH]
        ):
            done = forgetting.drop(pks)
            self._counts[Fate.DROPPED] += done
            self._counts[Fate.BUSY] += len(pks) - done
            last = pks[-1]
            self._report(Step(0, 0))

    def _kept_copies(self) -> list[int]:
        """Return the copies that are the last ones of their files, which are told."""
        alias, place = self._storage.alias, self._remote.digest
        kept = []
        for copy in forgetting.guarded(alias, place).select_related("file"):
            if not self._has_another(copy):
                self._counts[Fate.LOST] += 1
                self._tell(str(copy.file), Fate.LOST)
                kept.append(copy.pk)
        return kept

    def _has_another(self, copy: Copy) -> bool:
        row: QueuedFile = copy.file
        others = copies().verified_of(row.pk, row.generation).exclude(pk=copy.pk)
        if others.filter(place__in=self._others).exists():
            return True
        try:
            return self._is_local(row)
        except Exception as error:
            self._report(Step(0, 0, reason(error, self._storage.local), str(row)))
            return False

    # The place itself

    def _forget_remote(self) -> None:
        """Forget a place at which nothing is left, unless the storage has it."""
        alias, place = self._storage.alias, self._remote.digest
        if self._remote.is_known or self._lost.exists():
            return
        if not forgetting.copies_at(alias, place).exists():
            remotes().at(alias, place).delete()
            bindings.forget()
