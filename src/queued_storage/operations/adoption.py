"""Record files that existed before the ledger."""

import mimetypes
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from django.core.files.storage import Storage
from django.db import transaction

from ..files import localfiles, presence, volumes
from ..files.streams import checksum_of
from ..ledger import bindings
from ..ledger.database import ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.names import StoredName, tidy
from ..ledger.states import Content, Entry
from ..queues.on_commit import enqueue_on_commit
from ..reporting.reasons import reason
from ..transfers.owners import ClaimedObjects
from . import passes, promotion
from .passes import Report, Step
from .sharing import of_other_storages
from .storages import OperableStorage

IS_DIRECTORY = "It is a directory. Use --under to record the files in it."


def backfill(
    storage: OperableStorage, names: Iterable[str], report: Report, *, dry_run: bool = False
) -> int:
    """Record and enqueue local files that have no row; return how many."""
    return _Backfill(storage, dry_run).run(names, report)


def adopt(
    storage: OperableStorage,
    names: Iterable[str],
    report: Report,
    *,
    content: bool = False,
    dry_run: bool = False,
) -> int:
    """Record files on the remote as transferred, with their local copies; return how many.

    If there are two copies, they must have the same size; with ``content``, the same bytes. A
    remote file is skipped if it is the remote copy of another file, of this or another storage. A
    file that the ledger has as not transferred is promoted if it has no local copy, and the right
    remote one.
    """
    return _Adoption(storage, content, dry_run).run(names, report)


class _Recording(ABC):
    """A pass over names that records those without a row."""

    def __init__(self, storage: OperableStorage, dry_run: bool) -> None:
        self.storage = storage
        self.local = storage.local
        self.place = storage.remote_place
        self.dry_run = dry_run

    def run(self, names: Iterable[str], report: Report) -> int:
        count = 0
        for batch in passes.batched(names, passes.BATCH):
            recordable = _recordable(batch)
            known = ledger().entries(self.storage.alias, recordable)
            steps = self.record_batch([name for name in recordable if name not in known])
            steps += [*self.examine_known(known), *_refused(batch)]
            count += sum(not step.error for step in steps)
            for step in steps:
                report(step)
            if skipped := len(batch) - len(steps):
                report(Step(skipped, 0))
        return count

    def examine_known(self, known: Mapping[str, Entry]) -> list[Step]:
        """Treat the rows of names; return a step for each that was changed, or should have been."""
        return []

    @abstractmethod
    def record_batch(self, names: Sequence[str]) -> list[Step]:
        """Record these names; return a step for each."""

    def _of_others(self, names: Collection[str]) -> set[str]:
        return of_other_storages(self.storage, names, if_unknown=False)


class _Backfill(_Recording):
    def record_batch(self, names: Sequence[str]) -> list[Step]:
        others = self._of_others(names)
        # SQLite may refuse to write in a transaction that has only read before.
        with transaction.atomic(using=ledger_database()):
            return [self._record(name, is_of_other=name in others) for name in names]

    def _record(self, name: str, *, is_of_other: bool) -> Step:
        if is_of_other:
            return Step(1, 0, "It is the local file of another storage.", name)
        try:
            if localfiles.is_directory(self.local, name):
                return Step(1, 0, IS_DIRECTORY, name)
            size, saved_at = self.local.size(name), _modified(self.local, name)
        except FileNotFoundError:
            return Step(1, 0, "There is no local file with this name.", name)
        except Exception as error:
            return Step(1, 0, reason(error, self.local), name)
        if not self.dry_run:
            alias = self.storage.alias
            pk = ledger().record_local(
                alias, name, _content(name, size), saved_at, place=self.place.digest
            )
            if pk is not None:
                enqueue_on_commit(alias, self.storage.queue, pk)
        return Step(1, size)


class _Adoption(_Recording):
    def __init__(self, storage: OperableStorage, content: bool, dry_run: bool) -> None:
        super().__init__(storage, dry_run)
        self.remote = storage.remote
        self.content = content
        self.claimed = ClaimedObjects(storage.alias, storage.remote)

    def record_batch(self, names: Sequence[str]) -> list[Step]:
        others = self._of_others(names)
        taken = self.claimed.among(names)
        return [
            Step(1, 0, "It is the remote copy of another file.", name)
            if name in taken
            else self._record(name, may_be_local=name not in others)
            for name in names
        ]

    def examine_known(self, known: Mapping[str, Entry]) -> list[Step]:
        """Promote files that were transferred, though the ledger doesn't know it; report those
        that the ledger has at another place."""
        entries = known.values()
        pks = [entry.pk for entry in entries if entry.state in promotion.UNTRANSFERRED]
        rows = ledger().filter(pk__in=pks).order_by("pk") if pks else ()
        promoted = [self._promote(row) for row in rows if self._is_stranded(row)]
        return [*promoted, *self._at_another_place(known)]

    def _at_another_place(self, known: Mapping[str, Entry]) -> list[Step]:
        alias, place = self.storage.alias, self.place
        return [
            Step(1, 0, str(bindings.changed(alias, name, entry, place)), name)
            for name, entry in known.items()
            if entry.is_transferred and bindings.is_elsewhere(alias, entry, place)
        ]

    def _is_stranded(self, row: QueuedFile) -> bool:
        try:
            return promotion.is_stranded(self.storage, row)
        except Exception:
            return True  # promoting it reports the error

    def _promote(self, row: QueuedFile) -> Step:
        error = promotion.promote(row, dry_run=self.dry_run)
        return Step(1, 0 if error else row.size, error, row.name)

    def _record(self, name: str, *, may_be_local: bool) -> Step:
        try:
            return self._examine(name, may_be_local)
        except Exception as error:
            return Step(1, 0, reason(error, self.local, self.remote), name)

    def _examine(self, name: str, may_be_local: bool) -> Step:
        if not self.storage.uploader.exists(name):
            return Step(1, 0, "The remote has no file with this name.", name)
        if localfiles.is_directory(self.remote, name):
            return Step(1, 0, IS_DIRECTORY, name)
        size, checksum = self.remote.size(name), ""
        volumes.require(self.storage.alias, self.local)
        is_local = may_be_local and presence.exists(self.local, name)
        if is_local and self.local.size(name) != size:
            return Step(1, size, "The local and the remote copy have different sizes.", name)
        if self.content:
            found = checksum_of(self.storage.uploader.read_back(name))
            if is_local and self._local_checksum(name) != str(found):
                return Step(1, size, "The local and the remote copy have different bytes.", name)
            size, checksum = found.size, str(found)
        if not self.dry_run:
            self._adopt(_content(name, size, checksum), name, is_local)
        return Step(1, size)

    def _adopt(self, content: Content, name: str, is_local: bool) -> None:
        level = "size" if is_local else ""  # without a local copy, nothing was compared
        ledger().record_remote(
            self.storage.alias,
            name,
            content,
            _modified(self.local if is_local else self.remote, name),
            is_local=is_local,
            verified="content" if self.content else level,
            place=self.place.digest,
        )

    def _local_checksum(self, name: str) -> str:
        with self.local.open(name) as file:
            return str(checksum_of(file.chunks()))


def _recordable(names: Iterable[str]) -> list[str]:
    """Those that can be recorded, without duplicates."""
    return [
        name
        for name in dict.fromkeys(names)
        if not _problem_of(name) and not localfiles.is_unfinished(name)
    ]


def _refused(names: Iterable[str]) -> list[Step]:
    """A step for each file that cannot be recorded because of its name."""
    problems = {name: _problem_of(name) for name in names}
    return [Step(1, 0, problem, name) for name, problem in problems.items() if problem]


def _problem_of(name: str) -> str:
    """Why the ledger cannot have this name of a file; "" if it can."""
    if problem := StoredName.of(name).problem:
        return f"The ledger cannot have this name: {problem}."
    if name != tidy(name):
        return f"A queued storage reads this name as {tidy(name)!r}. Rename the file."
    return ""


def _content(name: str, size: int, checksum: str = "") -> Content:
    return Content(size, checksum, (mimetypes.guess_type(name)[0] or "")[:255])


def _modified(storage: Storage, name: str) -> datetime | None:
    try:
        return storage.get_modified_time(name)
    except NotImplementedError:  # Django does not require a storage to support times
        return None
