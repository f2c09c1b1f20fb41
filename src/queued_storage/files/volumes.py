"""Tells a local storage whose volume is not mounted from one that holds no files.

Both are an empty directory. A marker in it tells them apart: see ``markers``. Without one, the
ledger decides: if it has no local files there, the marker is made. So it is if one of them is
really there, since somebody may delete a marker, and earlier versions made none.
"""

import os
import shlex
import time
from enum import Enum, auto
from typing import Any

from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from ..exceptions import LocalStorageMissing
from ..ledger.aliases import storage_for
from ..ledger.database import QueuedFileQuerySet, ledger
from ..ledger.identity import is_in_test_case, ledger_id
from ..ledger.measures import aliases
from ..ledger.models import QueuedFile
from ..ledger.orders import LOST
from ..ledger.states import State
from ..reporting.logs import logger
from . import markers, successors
from .localfiles import has_paths
from .markers import Stamp
from .spelling import root_of
from .streams import content_of

SEEN_FOR = 1.0  # seconds for which transfers take a volume to be mounted
SAMPLE = 50  # local files, one of which must be there
READ_MAX = 16 * 1024 * 1024  # bytes; of a larger file, name and size are proof enough
# The transfers are above the files, so this function is reached by its name.
ENQUEUE = "queued_storage.transfers.mounting.enqueue_waiting"

Key = tuple[str, str]  # the alias of a storage, and its local root


class Found(Enum):
    """What is known of a local root."""

    MARKED = auto()  # with our id; or it can be neither marked nor read, so nothing is known
    NEW = auto()  # the ledger has no local files there
    KNOWN = auto()  # there is no marker, but a file of the ledger
    MISSING = auto()  # neither a marker nor a file of the ledger is there


def require(alias: str, local: Storage, *, mark: bool = False) -> None:
    """Raise ``LocalStorageMissing`` if the volume of a local storage is not mounted.

    If all is well, this costs one system call. With ``mark`` a root without files of the ledger is
    marked: call it so before a file is written there.
    """
    key = (alias, _root_of(local))
    if key[1] and not _is_marked(key) and _looked(key, local, mark=mark) is Found.MISSING:
        raise LocalStorageMissing(_problem_with(key))
    _seen_at[key] = time.monotonic()


def was_just_seen(alias: str, local: Storage) -> bool:
    """Return whether ``require()`` has passed in the last second, without a system call."""
    key = (alias, _root_of(local))
    seen_at = _seen_at.get(key)
    return seen_at is not None and time.monotonic() - seen_at < SEEN_FOR and key not in _missing


def is_missing(alias: str, local: Storage) -> bool:
    """Return whether the volume of a local storage is not mounted."""
    return bool(problem_of(alias, local))


def problem_of(alias: str, local: Storage) -> str:
    """Say what is wrong if the volume of a local storage is not mounted; "" otherwise."""
    key = (alias, _root_of(local))
    if not key[1] or _is_marked(key) or _looked(key, local, mark=False) is not Found.MISSING:
        return ""
    return _problem_with(key)


def missing_aliases() -> frozenset[str]:
    """Return the storages that were found without their volume, and are so still."""
    found = list(_missing.items())
    return frozenset(
        alias
        for (alias, root), local in found
        if _is_root_of(alias, root) and is_missing(alias, local)
    )


def _is_root_of(alias: str, root: str) -> bool:
    """Return whether a storage keeps its local files there; not if it was configured anew."""
    try:
        return _root_of(_local_of(storage_for(alias))) == root
    except Exception:  # it cannot be made; its checks report the error
        return False


def accept(alias: str, local: Storage) -> bool:
    """Mark a local root without its volume, whatever it holds; return False for any other.

    From then on, files that are not there are missing. ``OSError`` is raised if the marker cannot
    be written.
    """
    if not is_missing(alias, local):
        return False
    _write_marker(_root_of(local), local)
    return not is_missing(alias, local)


_marked: dict[Key, tuple[Stamp, str]] = {}  # the marker that was seen last, and our id in it
_unmarkable: set[Key] = set()
_seen_at: dict[Key, float] = {}  # when a volume was last found to be mounted
_missing: dict[Key, Storage] = {}


def forget() -> None:
    """Forget when volumes were seen, and which ones were missing, for tests."""
    _seen_at.clear()
    _missing.clear()


def _root_of(local: Storage) -> str:
    return root_of(local) if has_paths(local) else ""


def _is_marked(key: Key) -> bool:
    """Return whether the marker is the one that was seen before."""
    seen = _marked.get(key)
    if seen is None:
        return False
    try:
        is_there = (markers.look(key[1]), ledger_id()) == seen
    except OSError:
        return False
    if is_there and key in _missing:  # the same volume as before
        _note_return(key)
    return is_there


def _looked(key: Key, local: Storage, *, mark: bool) -> Found:
    """Read the marker; without our id in it, let the ledger decide. Log what has changed."""
    found = _read(key)
    if found is None:
        found = Found.MARKED if key in _unmarkable else _decided(key, local)
    if found is Found.KNOWN or (found is Found.NEW and mark):
        _mark(key, local)
    _log_change(key, local, is_missing=found is Found.MISSING)
    return found


def _log_change(key: Key, local: Storage, *, is_missing: bool) -> None:
    """Log once that a volume is missing, and once that it is back."""
    if not is_missing:
        _note_return(key)
    elif key not in _missing:
        _missing[key] = local
        logger.error("%s", _problem_with(key), extra={"queued_storage": key[0]})


def _note_return(key: Key) -> None:
    """If the volume was missing, log once that it is back, and enqueue the files that waited."""
    if _missing.pop(key, None) is None:
        return
    alias, root = key
    extra = {"queued_storage": alias}
    logger.warning("The volume of the local storage of %r is back in %r.", alias, root, extra=extra)
    import_string(ENQUEUE)(alias)


def _read(key: Key) -> Found | None:
    """Return the state if the marker tells it."""
    try:
        stamp, ids = markers.read(key[1])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # what is done next raises the same error, or the marker is another user's
        return Found.MARKED
    own = ledger_id()
    if own not in ids:
        return None
    _marked[key] = stamp, own
    return Found.MARKED


def _mark(key: Key, local: Storage) -> None:
    alias, root = key
    try:
        _write_marker(root, local)
    except OSError as error:  # the root is read-only, or another user's
        _unmarkable.add(key)
        logger.warning(
            "The marker %r cannot be written to the directory %r of the local storage of %r, so "
            "nobody notices if its volume is not mounted: %s",
            *(markers.MARKER, root, alias, error.strerror or error),
        )
    else:
        _read(key)


def _write_marker(root: str, local: Storage) -> None:
    markers.add(root, ledger_id(), getattr(local, "directory_permissions_mode", None))


def _problem_with(key: Key) -> str:
    alias, root = key
    return (
        f"The volume of the local storage of {alias!r} is not mounted: the ledger has files in the "
        f"directory {root!r}, but neither they nor its marker {markers.MARKER!r} are there. Mount "
        f"the volume; then everything continues by itself. If its files are lost, run 'manage.py "
        f"queued_storage accept-root {shlex.quote(alias)}'. If each host has its own disk, set "
        f"QUEUED_STORAGE['LOCAL_PER_HOST']."
    )


def _decided(key: Key, local: Storage) -> Found:
    rows = [row for each in _aliases_at(*key) for row in _local_files(each)[:SAMPLE]]
    if not rows:
        return Found.NEW
    if any(_is_there(local, row) for row in rows):
        return Found.KNOWN
    # A ``TestCase`` may remove the root and keep its rows.
    return Found.NEW if _is_another(key) or is_in_test_case() else Found.MISSING


def _local_files(alias: str) -> QueuedFileQuerySet:
    """Return the files of which this host has a local copy, deleted ones included.

    The name of a deleted file that was never saved has a row, too, but neither size nor checksum.
    The order is that of an index, which says what is local without reading the rows.
    """
    local = ledger().filter(alias=alias).with_local_copy().workable_here()
    saved = local.exclude(size=0, checksum="")
    return saved.exclude(state=State.FAILED, last_error__startswith=LOST).order_by("pk")


def _aliases_at(alias: str, root: str) -> set[str]:
    """Return the aliases in the ledger whose storages keep their local files in this directory."""
    found = {alias}
    real = os.path.realpath(root)
    for other in set(aliases()) - {alias}:
        try:
            its_root = _root_of(_local_of(storage_for(other)))
        except Exception:  # this process has no such storage, or its checks report the error
            continue
        if its_root and os.path.realpath(its_root) == real:
            found.add(other)
    return found


def _local_of(storage: Any) -> Storage:
    local: Storage = storage.local
    return local


def _is_there(local: Storage, row: QueuedFile) -> bool:
    """Return whether the bytes of a file are really there, and not another file of its name."""
    try:
        name = successors.current_name(local, row.name, row)
        if row.size > READ_MAX or not row.checksum:
            return local.size(name) == row.size
        found = content_of(local, name)
    except Exception:  # of the disk, or of a storage that reads content in its own way
        return False
    return (found.size, found.checksum) == (row.size, row.checksum)


def _is_another(key: Key) -> bool:
    """Return whether a root is new to this process, which knows another one of the storage.

    So it is in tests, which give each its own, and where each tenant has one.
    """
    others = [each for each in list(_marked) if each[0] == key[0] and each != key]
    return key not in _marked and any(map(_is_marked, others))
