"""Opens and closes the gate: lets hidden content be a file's own, and takes it away again."""

from contextlib import suppress
from typing import Any

from django.db import transaction

from ..exceptions import LeaseLost
from ..files import presence, quarantine, successors
from ..files.quarantine import Hidden
from ..ledger.database import ledger, ledger_database, on_commit
from ..ledger.models import QueuedFile
from ..ledger.preparation_claims import preparation_claims
from ..ledger.preparations import Preparation, preparations
from ..ledger.states import ENTRY_FIELDS, Entry, State, is_reachable_from_here
from .parts import TransferringStorage

TRIES = 20  # times that an eviction or a transfer may change the row at the same moment


def publish(storage: TransferringStorage, preparation: Preparation, row: QueuedFile) -> None:
    """Let content be transferred whose steps have all passed, and be published if it was hidden.

    Raises ``LeaseLost`` if the claim is void.
    """
    if preparation.hidden:
        _publish_hidden(storage, preparation, row)
    elif not preparation_claims().pass_published(row, held=storage.delayed):
        raise LeaseLost(f"{row} was changed while its steps were run.")


def _publish_hidden(
    storage: TransferringStorage, preparation: Preparation, row: QueuedFile
) -> None:
    hidden = Hidden(preparation.hidden, preparation.content)
    with transaction.atomic(using=ledger_database()):
        _begin_generation(storage, preparation, row, hidden, prepares=False)
        if not preparation_claims().drop(row):
            raise LeaseLost(f"{row} was changed while its steps were run.")


def replace_published(
    storage: TransferringStorage,
    preparation: Preparation,
    row: QueuedFile,
    hidden: Hidden,
    step: int,
    plan: str,
) -> None:
    """Let other bytes be the content of a file that is published already, as its next
    generation."""
    with transaction.atomic(using=ledger_database()):
        _begin_generation(storage, preparation, row, hidden, prepares=True)
        claimed = preparations().of(row.pk).filter(lease_token=row.lease_token)
        if not claimed.update(
            generation=preparation.generation + 1,
            size=hidden.content.size,
            checksum=hidden.content.checksum,
            step=step,
            plan=plan,
            attempts=1,
            last_error="",
        ):
            raise LeaseLost(f"{row} was changed while its steps were run.")


def _begin_generation(
    storage: TransferringStorage,
    preparation: Preparation,
    row: QueuedFile,
    hidden: Hidden,
    *,
    prepares: bool,
) -> None:
    """Begin the next generation, whose content lies under a hidden name, in a transaction.

    Readers find it as soon as that is committed; see ``successors``.
    """
    rows = ledger()
    options: dict[str, Any] = {
        "held": storage.delayed,
        "task": storage.variant,
        "place": storage.remote_place.digest,
        "priority": preparation.file.priority,
        "prepares": prepares,
    }
    entry: Entry | None = _entry_of(preparation.file)
    for _try in range(TRIES):
        if entry is None or entry.is_deleted:
            break
        if (entry.pk, entry.generation) != (row.pk, preparation.generation):
            break
        if rows.overwrite(entry, hidden.content, **options):
            _place(storage, preparation, row, hidden)
            return
        entry = rows.latest_entry(row.alias, row.name)
    raise LeaseLost(f"{row} was changed while its steps were run.")


def _entry_of(file: QueuedFile) -> Entry:
    """The entry as it was when the preparation was claimed, which saves a query."""
    return Entry(*(getattr(file, name) for name in ENTRY_FIELDS))


def _place(
    storage: TransferringStorage, preparation: Preparation, row: QueuedFile, hidden: Hidden
) -> None:
    """Let readers find the content of a generation, and then have it put in its place."""
    local, generation = storage.local, preparation.generation + 1
    version = successors.NextVersion(row.pk, generation, hidden.content.checksum)
    quarantine.publish(local, preparation, hidden)
    storage.forget_route(row.name)
    on_commit(lambda: successors.put_in_place(local, row.name, version))


def put_away(storage: TransferringStorage, preparation: Preparation, row: QueuedFile) -> None:
    """Move bytes that were rejected after they were published into quarantine."""
    with transaction.atomic(using=ledger_database()):
        file = ledger().filter(pk=row.pk, generation=preparation.generation, state=State.REJECTED)
        if file.update(state=State.REJECTED):  # which locks the row
            quarantine.put_away(storage.local, preparation)
        preparation_claims().settle(row)


def discard(storage: TransferringStorage, pk: int) -> bool:
    """Remove the hidden content of a deleted file, and its preparation.

    Return False if that lies on another host, whose workers remove it.
    """
    while preparation := _of_deleted(pk):
        if not is_reachable_from_here(preparation.host):
            preparations().filter(pk=preparation.pk).hurry()
            return False
        with suppress(FileNotFoundError):
            quarantine.remove(storage.local, preparation)
        # A worker may have recorded other bytes meanwhile.
        preparations().filter(pk=preparation.pk, hidden=preparation.hidden).delete()
    return True


def _of_deleted(pk: int) -> Preparation | None:
    deleted = preparations().of(pk).filter(file__state=State.DELETING)
    return deleted.select_related("file").first()


def is_there(storage: TransferringStorage, preparation: Preparation) -> bool:
    """Return whether the bytes of a preparation exist."""
    name = quarantine.local_name(storage.local, preparation)
    return presence.exists(storage.local, name)
