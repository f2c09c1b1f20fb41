"""Accept that another ledger has its marker on a remote."""

from ..exceptions import OtherWriter
from ..ledger.aliases import known_storages
from ..ledger.database import ledger
from ..ledger.remotes import remotes
from ..ledger.rows import is_unclaimed
from ..ledger.sql.clock import DatabaseNow
from ..queues.sweep import sweep
from ..remotes.places import Place
from ..transfers.parts import TransferringStorage
from ..transfers.writers import PlaceMarker


def accept_writer(storage: TransferringStorage) -> str:
    """Let this ledger change files at the remote of a storage; return whose marker is there.

    It is "" if nothing had to be accepted. The marker is read, and stays. What waited because of it
    is due at once. If the marker cannot be read, the error of the remote is raised.
    """
    writer = PlaceMarker(storage).accept()
    if writer is None:
        return ""
    _make_due(storage.alias)
    return str(writer)


def _make_due(alias: str) -> None:
    waiting = ledger().filter(
        is_unclaimed(), alias=alias, last_error__startswith=f"{OtherWriter.__name__}: "
    )
    if waiting.filter(due_at__gt=DatabaseNow()).update(due_at=DatabaseNow()):
        sweep(alias)


def other_writers() -> dict[str, str]:
    """Return, by alias, whose marker was seen at its remote without being accepted.

    No request is made: it is what the last upload or delete there has found.
    """
    seen = remotes().exclude(other_writer="").values_list("alias", "digest", "other_writer")
    found = {(alias, digest): writer for alias, digest, writer in seen}
    if not found:
        return {}
    places = {storage.alias: _place_of(storage) for storage in known_storages()}
    return {
        alias: found[alias, place.digest]
        for alias, place in places.items()
        if place and (alias, place.digest) in found
    }


def _place_of(storage: object) -> Place | None:
    try:
        place: Place | None = getattr(storage, "remote_place", None)
    except Exception:  # its own check reports it
        return None
    return place
