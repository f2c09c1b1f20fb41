"""The places that workers of this process upload files to."""

import shlex
from collections.abc import Iterable
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models.signals import post_migrate

from ..exceptions import RemoteChanged
from ..ledger import bindings
from ..ledger.database import in_transaction, ledger, ledger_database
from ..ledger.models import QueuedFile
from ..ledger.remotes import Remote, remotes
from ..remotes.places import Place
from ..runtime.documentation import see
from .parts import TransferringStorage, storage_of

ADVICE = (
    "If the place depends on the thread, for example on the tenant of a request, a worker cannot "
    "know it: make it the same for all threads, for example with the tenant in upload_to. If it "
    "is the same, give the class the constant attribute queued_storage_place. "
    f"{see('tenants#storages-whose-place-depends-on-the-tenant')}"
)


def remote_of(storage: TransferringStorage, place: Place | None = None) -> Remote:
    """Return the ledger's remote that this storage uploads to now, which is made if it is new.

    ``place`` is that of the storage, if the caller knows it.

    A process asks the database once per place, so nothing but ``alias``, ``digest`` and ``place``
    is up to date.
    """
    alias, place = storage.alias, place or storage.remote_place
    database = ledger_database()
    key = (database, str(connections[database].settings_dict["NAME"]), alias, place.digest)
    if known := _known.get(key):
        return known
    remote = remotes().register(alias, place)
    if not in_transaction():  # which may be rolled back
        _known[key] = remote
    return remote


def register_first(aliases: Iterable[str]) -> None:
    """Register the place of each storage whose rows are all of earlier versions.

    Those files are at the place that is configured when the first worker starts after an upgrade. A
    process does this once per storage.
    """
    database = ledger_database()
    for alias in aliases:
        if (database, alias) in _begun:
            continue
        without_place = ledger().filter(alias=alias, place=None)
        if not remotes().filter(alias=alias).exists() and without_place.exists():
            with suppress(ImproperlyConfigured):  # the attempts report it
                remote_of(storage_of(alias, ""))
        _begun.add((database, alias))


def has_moved(storage: TransferringStorage, row: QueuedFile, place: Place) -> bool:
    """Return whether a file can simply be uploaded to the storage's place instead of its own; False
    if there is no need to, or if this may be wrong.

    Nothing of the file may lie anywhere, and the place must be that of all threads: otherwise those
    who saved the file may not find it there. It is, if the file's own place is a previous one.
    """
    was_sent = row.remote_name or (row.unconfirmed and not row.is_tried)
    if was_sent or not bindings.is_elsewhere(row.alias, row, place):
        return False
    was_switched = storage.with_remote_of(row) is not storage
    return was_switched or storage.has_fixed_place


def require_same_place(
    storage: TransferringStorage, row: QueuedFile, place: Place | None = None
) -> None:
    """Raise ``RemoteChanged`` if the file is at another place than its storage's, as this thread
    sees it now."""
    place = place or storage.remote_place
    if not bindings.is_elsewhere(row.alias, row, place):
        return
    if row.object_name and not row.is_tried:
        error = bindings.changed(row.alias, row.name, row, place)
        raise error if storage.has_fixed_place else RemoteChanged(f"{error} {ADVICE}")
    raise RemoteChanged(
        f"{row.name!r} was saved for another place than {place.description!r}, which this worker "
        f"sees as that of the storage {row.alias!r}. Nothing was uploaded. {ADVICE} If only the "
        f"configuration has changed, run 'manage.py queued_storage remotes accept "
        f"{shlex.quote(row.alias)}'."
    )


_known: dict[tuple[str, str, str, int], Remote] = {}
_begun: set[tuple[str, str]] = set()


def _forget(**kwargs: object) -> None:
    """Forget the remotes after a flush, which removes their rows."""
    _known.clear()
    _begun.clear()


post_migrate.connect(_forget)
