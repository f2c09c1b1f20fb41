"""Notice at the commit that a local file was written to since it was saved.

The tutorials' ``save()`` of a model has Pillow write over ``self.image.path``. In a transaction
these bytes are what the user meant to save.
"""

import os
from collections.abc import Callable

from django.core.files.storage import Storage

from ..files import localfiles
from ..files.stamps import read_unchanging
from ..ledger.states import Content
from ..reporting.logs import logger
from ..reporting.reasons import reason


def of_file(
    local: Storage, name: str, record: Callable[[Content], object], *, now_at: str = ""
) -> Callable[[], None] | None:
    """Return a function that calls ``record`` with what is in the file then, if it was written to.

    ``now_at`` is the name that the file has until then. None is returned for a storage without
    paths: no program writes to its files in place.
    """
    if not localfiles.has_paths(local):
        return None
    path = local.path(name)
    mark = _marked(local.path(now_at) if now_at else path)

    def check() -> None:
        try:
            if mark is None or _state_of(path) == mark:
                return
            record(read_unchanging(local, name)[0])
        except FileNotFoundError:
            return  # it was deleted, or the transfer reports it
        except Exception as error:
            logger.warning(
                "%r was changed after it was saved, and could not be read when the transaction was "
                "committed: %s",
                name,
                reason(error, local),
            )

    return check


def _marked(path: str) -> tuple[int, int, int] | None:
    """Give a file a time that a write within the same tick of the clock does not have.

    Returns None if it is gone already.
    """
    try:
        found = os.stat(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - 1))
    except FileNotFoundError:
        return None
    except OSError:  # the storage may not own the file
        pass
    return _state_of(path)


def _state_of(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns
