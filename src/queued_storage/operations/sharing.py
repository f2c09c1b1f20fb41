"""Local files that belong to another storage with the same local directory."""

from collections.abc import Collection

from django.core.files.storage import Storage

from ..files import localfiles
from ..ledger.database import ledger
from ..ledger.measures import aliases
from ..ledger.models import QueuedFile
from .storages import OperableStorage, storage_of


def of_other_storages(
    storage: OperableStorage, names: Collection[str], *, if_unknown: bool = True
) -> set[str]:
    """Those of a few names whose local file belongs to another storage.

    ``if_unknown`` is the answer for a row whose storage this process cannot create, so that it
    cannot compare the directories.
    """
    # The aliases let the database use its index.
    rows = ledger().filter(alias__in=aliases(), name__in=names, is_local=True)
    others = rows.exclude(alias=storage.alias).workable_here()
    return {row.name for row in others if _is_same_file(storage.local, row, if_unknown)}


def _is_same_file(local: Storage, other: QueuedFile, if_unknown: bool) -> bool:
    try:
        its = storage_of(other).local
    except Exception:  # an unknown alias, or a storage that cannot be created
        return if_unknown
    if localfiles.has_paths(local) and localfiles.has_paths(its):
        return local.path(other.name) == its.path(other.name)
    return type(local) is type(its)
