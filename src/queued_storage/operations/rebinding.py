"""Accept that the files of a storage are at the place that it is configured for now."""

from collections.abc import Iterator, Sequence

from django.db.models import Case, F, Q, When

from ..exceptions import UnknownAlias
from ..ledger import bindings
from ..ledger.aliases import storage_for
from ..ledger.availability import places_of
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.remotes import KnownPlace, remotes
from ..ledger.rows import is_unclaimed
from ..ledger.sql.clock import DatabaseNow
from .passes import Report, Step, ignore

AT_ONCE = 5000  # rows in the range of one statement


def rebind(alias: str, report: Report = ignore, *, dry_run: bool = False) -> int:
    """Bind all files of a storage to the place that it is configured for now, except those at its
    previous remotes; return how many.

    What waited because of their old place is due at once. Files that a worker has in hand are left
    out: see ``elsewhere()``. The pass may be interrupted, and run again. ``UnknownAlias`` is raised
    if this process has no such storage.
    """
    places = places_of(storage_for(alias))
    place = places[0]
    if place.digest == bindings.UNKNOWN:  # it is not compared
        return 0
    if not dry_run:
        remotes().register(alias, place)
    count = 0
    for rows in _ranges(alias, places):
        done = rows.count() if dry_run else _rebind(rows, place)
        report(Step(done, 0))
        count += done
    if not dry_run and not elsewhere(alias):
        known = [each.digest for each in places]
        remotes().filter(alias=alias).exclude(digest__in=known).delete()
        bindings.forget()
    return count


def elsewhere(alias: str) -> int:
    """Count the files of a storage that are bound to an unknown place; this reads all its rows."""
    try:
        places = places_of(storage_for(alias))
    except UnknownAlias:
        return 0
    return ledger().filter(_is_elsewhere(alias, places), alias=alias).count()


def _is_elsewhere(alias: str, places: Sequence[KnownPlace]) -> Q:
    """A row of an earlier version is bound too, lest a later first place be taken for its own; not
    if that is a previous remote."""
    found = ~Q(place__in=[bindings.UNKNOWN, *(each.digest for each in places)])
    is_at_previous = bindings.digest_of(alias, None) in {each.digest for each in places[1:]}
    return found & Q(place__isnull=False) if is_at_previous else found | Q(place=None)


def _ranges(alias: str, places: Sequence[KnownPlace]) -> Iterator[QueuedFileQuerySet]:
    """Yield the files to be bound, in ranges of primary keys."""
    rows = ledger().filter(_is_elsewhere(alias, places), is_unclaimed(), alias=alias)
    keys = ledger().order_by("pk").values_list("pk", flat=True)
    last = 0
    while bounds := list(keys.filter(pk__gt=last)[AT_ONCE - 1 : AT_ONCE] or keys.reverse()[:1]):
        if bounds[0] <= last:
            return
        yield rows.filter(pk__gt=last, pk__lte=bounds[0])
        last = bounds[0]


def _rebind(rows: QueuedFileQuerySet, place: KnownPlace) -> int:
    waits = When(due_at__gt=DatabaseNow(), then=DatabaseNow())
    return rows.update(due_at=Case(waits, default=F("due_at")), place=place.digest)
