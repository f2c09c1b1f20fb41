"""Takes files into the ledger that were there before it."""

import mimetypes
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.core.files.storage import Storage
from django.db import transaction
from django.utils import timezone

from ..files import localfiles
from ..files.streams import Checksum, checksum_of
from ..ledger.database import ledger, ledger_database
from ..ledger.names import can_be_recorded
from ..ledger.states import Content
from ..queues.wakeup import wake
from ..reporting.reasons import reason
from .inventory import anothers, in_batches
from .passes import BATCH, Step, Tell

IS_DIRECTORY = "It is a directory. Give '--under' for the files in it."


def backfill(storage: Any, names: Iterable[str], tell: Tell, *, dry_run: bool = False) -> int:
    """Record local files that have no row, and have them transferred; returns how many."""
    count = 0
    for batch in in_batches(names, BATCH):
        fresh = _without_row(storage, batch)
        with transaction.atomic(using=ledger_database()):
            others = anothers(storage, fresh, if_unknown=False)
            steps = [
                Step(1, 0, "It is the local file of another storage.", name)
                if name in others
                else _backfill_one(storage, name, dry_run)
                for name in fresh
            ]
        count += sum(not step.error for step in steps)
        _tell_of(batch, steps, tell)
    return count


def _backfill_one(storage: Any, name: str, dry_run: bool) -> Step:
    local: Storage = storage.local
    try:
        if localfiles.is_directory(local, name):
            return Step(1, 0, IS_DIRECTORY, name)
        size, saved_at = local.size(name), _modified(local, name)
    except FileNotFoundError:
        return Step(1, 0, "There is no local file of this name.", name)
    except Exception as error:
        return Step(1, 0, reason(error, local), name)
    if not dry_run:
        pk = ledger().record_local(storage.alias, name, _content(name, size), saved_at)
        if pk is not None:
            wake(storage.alias, storage.queue, pk)
    return Step(1, size)


def adopt(
    storage: Any,
    names: Iterable[str],
    tell: Tell,
    *,
    content: bool = False,
    dry_run: bool = False,
) -> int:
    """Record files that are on the remote already, and perhaps locally, too, as transferred;
    returns how many.

    Two copies must have the same size, and with ``content`` the same bytes. Others, and what the
    remote has under the name of another file, are left alone.
    """
    count = 0
    renamed = ledger().filter(alias=storage.alias).with_other_remote_name()
    is_any_renamed = renamed.exists()
    for batch in in_batches(names, BATCH):
        fresh = _without_row(storage, batch)
        others = anothers(storage, fresh, if_unknown=False)
        called: set[str] = set()
        if is_any_renamed:
            taken = renamed.filter(remote_name__in=fresh)
            called = set(taken.values_list("remote_name", flat=True))
        steps = []
        for name in fresh:
            if name in called:
                steps.append(Step(1, 0, "The remote calls another file so.", name))
                continue
            try:
                may_be_local = name not in others
                steps.append(_adopt_one(storage, name, content, dry_run, may_be_local))
            except Exception as error:
                text = reason(error, storage.local, storage.remote)
                steps.append(Step(1, 0, text, name))
        count += sum(not step.error for step in steps)
        _tell_of(batch, steps, tell)
    return count


def _adopt_one(storage: Any, name: str, content: bool, dry_run: bool, may_be_local: bool) -> Step:
    remote: Storage = storage.remote
    if not remote.exists(name):
        return Step(1, 0, "The remote has no file of this name.", name)
    if localfiles.is_directory(remote, name):
        return Step(1, 0, IS_DIRECTORY, name)
    size = remote.size(name)
    is_local = may_be_local and storage.local.exists(name)
    checksum, verified = "", ""
    if is_local:
        if storage.local.size(name) != size:
            return Step(1, size, "The local and the remote copy have different sizes.", name)
        verified = "size"
    if content:
        found = checksum_of(storage.uploader.read_back(name))
        if is_local and str(_local_checksum(storage, name)) != str(found):
            return Step(1, size, "The local and the remote copy have different bytes.", name)
        size, checksum, verified = found.size, str(found), "content"
    if not dry_run:
        saved_at = _modified(storage.local if is_local else remote, name)
        ledger().record_remote(
            storage.alias,
            name,
            _content(name, size, checksum),
            saved_at,
            is_local=is_local,
            verified=verified,
        )
    return Step(1, size)


def _local_checksum(storage: Any, name: str) -> Checksum:
    with storage.local.open(name) as file:
        return checksum_of(file.chunks())


def _without_row(storage: Any, names: list[str]) -> list[str]:
    """Those that the ledger may take, and has not, each once."""
    names = [name for name in dict.fromkeys(names) if _is_recordable(name)]
    known = ledger().entries(storage.alias, names)
    return [name for name in names if name not in known]


def _is_recordable(name: str) -> bool:
    return can_be_recorded(name) and not localfiles.is_unfinished(name)


def _content(name: str, size: int, checksum: str = "") -> Content:
    return Content(size, checksum, (mimetypes.guess_type(name)[0] or "")[:255])


def _modified(storage: Storage, name: str) -> datetime:
    try:
        return storage.get_modified_time(name)
    except NotImplementedError:  # Django leaves it to a storage whether it knows times
        return timezone.now()


def _tell_of(batch: list[str], steps: list[Step], tell: Tell) -> None:
    for step in steps:
        tell(step)
    if passed := len(batch) - len(steps):
        tell(Step(passed, 0))
