"""Which files there are that the ledger does not know, on storages and in the fields of models."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar, cast

from django.apps import apps
from django.conf import settings
from django.core.files.storage import Storage
from django.db.models import FileField, Model, Q
from django.utils import timezone

from ..files import localfiles
from ..files.walking import names_on
from ..ledger.aliases import storage_for
from ..ledger.database import ledger
from ..ledger.measures import aliases
from ..ledger.models import QueuedFile
from ..ledger.names import can_be_recorded, tidy

BATCH = 500  # names in memory
Item = TypeVar("Item")


def in_batches(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """What ``itertools.batched`` of Python 3.12 does."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def file_fields(alias: str | None = None) -> list[tuple[type[Model], FileField]]:
    """Every field of a model that names files; with ``alias``, files of that storage."""
    return [
        (model, field)
        for model in apps.get_models()
        if not model._meta.proxy
        for field in model._meta.local_fields
        if isinstance(field, FileField)
        and (alias is None or getattr(field.storage, "alias", None) == alias)
    ]


def names_in_fields(alias: str) -> Iterator[str]:
    """The names that models have for files of a storage; one may come several times."""
    for model, field in file_fields(alias):
        rows: Any = model._base_manager.exclude(**{field.name: ""})
        rows = rows.exclude(**{f"{field.name}__isnull": True}).order_by("pk")
        values = rows.values_list("pk", field.name)
        found = list(values[:BATCH])
        while found:
            yield from (tidy(name) for _pk, name in found)
            found = list(values.filter(pk__gt=found[-1][0])[:BATCH])


def unknown(names: Iterable[str]) -> list[str]:
    """Those of a few names that neither a row nor a field of a model has, whatever storage it is
    for: a file that is not ours must look like one of ours rather than the other way round.

    So must a name of another spelling, by which a storage would find the file of the tidied one.
    """
    left = {name for name in names if can_be_recorded(name) and name == tidy(name)}
    for column in ("name", "remote_name"):
        if left:
            left -= set(ledger().filter(**{f"{column}__in": left}).values_list(column, flat=True))
    for model, field in file_fields():
        if left:
            known = Q(**{f"{field.name}__in": left}) | _is_untidy(field.name)
            rows: Any = model._base_manager.filter(known)
            left -= set(map(tidy, rows.values_list(field.name, flat=True)))
    return sorted(left)


def _is_untidy(column: str) -> Q:
    """Names in models that may be other spellings of a file's."""
    found = Q(**{f"{column}__startswith": "./"})
    for part in ("//", "/./", "/../", "\\"):
        found |= Q(**{f"{column}__contains": part})
    return found


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file that nobody knows."""

    side: str  # "local" or "remote"
    name: str
    bytes: int
    modified: datetime


def orphans(storage: Any, side: str, older_than: timedelta, under: str = "") -> Iterator[Orphan]:
    """Files on one side of a queued storage that no row and no field of a model knows, and that
    are older than anything that is just being saved; among them drafts of dead processes."""
    place: Storage = getattr(storage, side)
    names = names_on(place, under) if side == "local" else storage.uploader.names(under)
    for batch in in_batches(names):
        for name in unknown(batch):
            if (orphan := _look(place, side, name)) and _is_old(orphan, older_than):
                yield orphan


def delete_orphan(storage: Any, orphan: Orphan, older_than: timedelta) -> bool:
    """Delete it, if it is still an orphan."""
    place: Storage = getattr(storage, orphan.side)
    now = _look(place, orphan.side, orphan.name)
    if now != orphan or not _is_old(now, older_than) or not unknown([orphan.name]):
        return False
    place.delete(orphan.name)
    return True


def _look(place: Storage, side: str, name: str) -> Orphan | None:
    try:
        found = Orphan(side, name, place.size(name), place.get_modified_time(name))
    except FileNotFoundError:
        return None
    if timezone.is_aware(found.modified) != settings.USE_TZ:
        kind = "naive" if settings.USE_TZ else "aware"
        raise NotImplementedError(f"its times are {kind}, but USE_TZ is {settings.USE_TZ}")
    return found


def _is_old(orphan: Orphan, older_than: timedelta) -> bool:
    return orphan.modified <= timezone.now() - older_than


def anothers(storage: Any, names: Collection[str], *, if_unknown: bool = True) -> set[str]:
    """Those of a few names whose local file is that of a storage which shares our local one; or of
    one that nobody here knows, with ``if_unknown``."""
    rows = ledger().filter(alias__in=aliases(), name__in=names, is_local=True)  # by the index
    others = rows.exclude(alias=storage.alias).workable_here()
    return {row.name for row in others if _is_in_the_same_place(storage.local, row, if_unknown)}


def _is_in_the_same_place(local: Storage, other: QueuedFile, if_unknown: bool) -> bool:
    try:
        its: Storage = cast(Any, storage_for(other.alias, other.task)).local
    except Exception:  # it has no such alias, or cannot be made
        return if_unknown
    if localfiles.has_paths(local) and localfiles.has_paths(its):
        return local.path(other.name) == its.path(other.name)
    return type(local) is type(its)
