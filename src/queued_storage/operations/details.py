"""All that the ledger knows of one file."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..ledger.aliases import storage_for
from ..ledger.availability import Availability, availabilities
from ..ledger.copies import Copy, copies
from ..ledger.database import ledger_database
from ..ledger.models import QueuedFile
from ..ledger.preparations import Preparation, preparations
from ..ledger.sql.clock import database_time
from ..storage.tiers import Tier
from .tiers import ways


@dataclass(frozen=True)
class Details:
    """A file, with its copies and steps."""

    row: QueuedFile
    now: datetime  # of the database
    local: str  # the path of the local copy, or ""
    remote: Availability | None  # at the place that its row says; None if it is unknown
    copies: list[tuple[Copy, Availability | None]]  # on mirrors, and at previous remotes
    steps: Preparation | None  # None if all have passed
    tiers: list[Tier]


def details_of(row: QueuedFile) -> Details:
    """Collect them; no remote is called."""
    known = {(each.alias, each.digest): each for each in availabilities()}
    configured = {each.alias: each for each in known.values() if each.is_configured}
    remote = configured.get(row.alias)
    if row.place is not None:
        remote = known.get((row.alias, row.place), remote)
    return Details(
        row=row,
        now=database_time(ledger_database()),
        local=_path_of(row),
        remote=remote,
        copies=[
            (copy, known.get((row.alias, copy.place))) for copy in copies().of(row).order_by("pk")
        ],
        steps=preparations().of(row.pk).first(),
        tiers=ways([row]).get(row.pk, []),
    )


def _path_of(row: QueuedFile) -> str:
    if not row.is_local:
        return ""
    try:
        storage: Any = storage_for(row.alias)
        return str(storage.local.path(row.name))
    except Exception:  # it is unknown here, or keeps no files on disks
        return ""
