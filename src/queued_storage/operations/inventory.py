"""Files that the ledger does not know."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.files.storage import Storage
from django.db.models import FileField, Model, Q
from django.utils import timezone

from ..files import quarantine, successors, volumes
from ..files.walking import names_on
from ..ledger.copies import copies
from ..ledger.database import ledger, ledger_database
from ..ledger.names import can_be_recorded, is_own, tidy
from ..ledger.preparations import preparations
from ..ledger.sql.clock import database_time, in_utc
from ..remotes.places import place_of
from ..transfers.writers import PlaceMarker
from .neighbors import directories_of_others
from .passes import batched
from .storages import OperableStorage

NAMES = 500  # in memory


def file_fields(alias: str | None = None) -> list[tuple[type[Model], FileField]]:
    """Every ``FileField`` of the models; with ``alias``, only those of that storage."""
    return [
        (model, field)
        for model in apps.get_models()
        if not model._meta.proxy
        for field in model._meta.local_fields
        if isinstance(field, FileField)
        and (alias is None or getattr(field.storage, "alias", None) == alias)
    ]


def names_in_fields(alias: str) -> Iterator[str]:
    """The names that models store for files of a storage; a name may be repeated."""
    for model, field in file_fields(alias):
        rows: Any = model._base_manager.exclude(**{field.name: ""})
        rows = rows.exclude(**{f"{field.name}__isnull": True}).order_by("pk")
        values = rows.values_list("pk", field.name)
        found = list(values[:NAMES])
        while found:
            yield from (tidy(name) for _pk, name in found)
            found = list(values.filter(pk__gt=found[-1][0])[:NAMES])


def unknown(names: Iterable[str]) -> list[str]:
    """Those of a few names that no row and no ``FileField`` has, of any storage.

    In doubt a name counts as known. So does one that isn't in its normal form: a storage would
    find the file of the normal form under it.
    """
    left = {name for name in names if can_be_recorded(name) and name == tidy(name)}
    left = {name for name in left if not is_own(name) or quarantine.is_hidden(name)}
    left -= {name for name in left if _waits(name)}
    left -= set(preparations().filter(hidden__in=left).values_list("hidden", flat=True))
    for column in ("name", "remote_name"):
        if left:
            left -= set(ledger().filter(**{f"{column}__in": left}).values_list(column, flat=True))
    if left:
        left -= {copy.object_name for copy in copies().with_object(left)}
    for model, field in file_fields():
        if left:
            known = Q(**{f"{field.name}__in": left}) | _is_untidy(field.name)
            rows: Any = model._base_manager.filter(known)
            left -= set(map(tidy, rows.values_list(field.name, flat=True)))
    return sorted(left)


def _waits(name: str) -> bool:
    """Whether the content of a row's generation waits under this hidden name."""
    found = successors.key_and_generation(name)
    if found is None:
        return False
    row = ledger().filter(pk=found[0], generation=found[1]).first()
    if row is not None and successors.waiting_name(row.name, row) == name:
        return True
    each = preparations().of(found[0]).select_related("file").first()
    return each is not None and quarantine.waiting_name(each) == name


def _is_untidy(column: str) -> Q:
    """Whether a name may not be in its normal form."""
    found = Q(**{f"{column}__startswith": "./"})
    for part in ("//", "/./", "/../", "\\"):
        found |= Q(**{f"{column}__contains": part})
    return found


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file that neither the ledger nor a model knows."""

    side: str  # "local" or "remote"
    name: str
    bytes: int
    modified: datetime
    place: str  # where the files of this side are, without secrets


def names_of(
    storage: OperableStorage, side: str, under: str = "", *, even_hidden: bool = False
) -> Iterator[str]:
    """The names of all files on one side of a storage, or in one of its directories.

    Files of other storages of the project, in directories of their own, are left out, and so are
    markers; so are the hidden names of unpublished files, unless ``even_hidden``.
    ``LocalStorageMissing`` is raised if the local files are not there to be listed.
    """
    place: Storage = getattr(storage, side)
    if side == "local":
        volumes.require(storage.alias, place)
        found = names_on(place, under)
    else:
        found = map(str, storage.uploader.names(under))
    names = (
        name for name in found if not is_own(name) or (even_hidden and quarantine.is_hidden(name))
    )
    others = directories_of_others(place)
    return (name for name in names if not name.startswith(others)) if others else names


def with_each_side(storage: OperableStorage, side: str) -> list[OperableStorage]:
    """Return the storage, and for its remote side with each mirror and previous remote as well."""
    if side == "local":
        return [storage]
    return [*storage.with_each_remote, *storage.with_each_mirror]


def orphans(
    storage: OperableStorage,
    side: str,
    older_than: timedelta,
    under: str = "",
    report: Callable[[str], object] = lambda name: None,
) -> Iterator[Orphan]:
    """The orphans on one side of a storage, including unfinished files of processes that died.

    ``older_than`` leaves out files that are being saved right now. ``report`` is called with each
    name that the ledger cannot have, such as one that is not valid UTF-8: such a file cannot be
    looked up, so it is not an orphan.
    """
    names = names_of(storage, side, under, even_hidden=side == "local")
    for batch in batched(names, NAMES):
        for name in batch:
            if not can_be_recorded(name):
                report(name)
        for name in unknown(batch):
            if (orphan := _examine(storage, side, name)) and _is_old(orphan, older_than):
                yield orphan


def delete_orphan(storage: OperableStorage, orphan: Orphan, older_than: timedelta) -> bool:
    """Delete the file if it is still an orphan; return whether it was.

    Raises ``OtherWriter`` if the remote has the marker of another ledger.
    """
    now = _examine(storage, orphan.side, orphan.name)
    if now != orphan or not _is_old(now, older_than) or not unknown([orphan.name]):
        return False
    if orphan.side == "remote":
        PlaceMarker(storage).require_own()
    getattr(storage, orphan.side).delete(orphan.name)
    return True


def _examine(storage: OperableStorage, side: str, name: str) -> Orphan | None:
    files: Storage = getattr(storage, side)
    place = storage.remote_place if side == "remote" else place_of(files)
    try:
        size, modified = files.size(name), files.get_modified_time(name)
        found = Orphan(side, name, size, modified, place.description)
    except FileNotFoundError:
        return None
    if timezone.is_aware(found.modified) != settings.USE_TZ:
        kind = "naive" if settings.USE_TZ else "aware"
        raise NotImplementedError(f"its times are {kind}, but USE_TZ is {settings.USE_TZ}")
    return found


def _is_old(orphan: Orphan, older_than: timedelta) -> bool:
    """Whether it is old by the clocks of this host and of the database: one may be wrong, and the
    time is that of a third one if the file is on another machine."""
    now = min(in_utc(timezone.now()), database_time(ledger_database()))
    return in_utc(orphan.modified) <= now - older_than
