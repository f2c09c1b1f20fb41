"""Brings a file from the host that has the only copy of it."""

import io
import tempfile
from http.client import HTTPException
from typing import IO, Any, cast
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

from django.core import signing
from django.core.files import File

from ..conf import settings
from ..exceptions import FileElsewhere
from ..files.streams import Checksum
from ..ledger.models import QueuedFile

TICKET_AGE = 60  # seconds that a signed address is good for
PATH = "local-copy/"  # below the project's address in HOST_URLS
_SALT = "queued_storage.peers"
_PIECE = 256 * 1024  # bytes


def ticket_for(row: QueuedFile) -> str:
    """A signed text that entitles its holder to the local copy of this very content."""
    return signing.dumps([row.pk, row.generation], salt=_SALT)


def read_ticket(ticket: str) -> tuple[int, int]:
    """The id and the generation of a row. ``signing.BadSignature`` is raised if somebody made it
    up, or if it is too old."""
    pk, generation = signing.loads(ticket, salt=_SALT, max_age=TICKET_AGE)
    return pk, generation


def fetch(row: QueuedFile, mode: str) -> File:
    """The file as the host that has it sends it, whole and compared with the ledger.

    It is in a temporary file of this host. ``FileElsewhere`` is raised if it cannot be had.
    """
    base = settings.host_urls.get(row.host)
    if base is None:
        raise on_other_host(row.name, row.host, f"HOST_URLS has no address of {row.host!r}.")
    copy = tempfile.TemporaryFile(prefix="queued-storage-")  # noqa: SIM115
    try:
        _receive(f"{base}{PATH}{quote(ticket_for(row))}", row, copy)
    except (OSError, HTTPException) as error:
        copy.close()
        # The address is a ticket, so no text of the library's is repeated that may hold it.
        raise on_other_host(
            row.name, row.host, f"It was not to be had: {_cause_of(error)}."
        ) from None
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    opened: Any = copy if "b" in mode else io.TextIOWrapper(cast(Any, copy))
    return File(opened, row.name)


def on_other_host(name: str, host: str, advice: str) -> FileElsewhere:
    return FileElsewhere(f"The only copy of {name!r} yet is on the host {host!r}. {advice}", host)


def _receive(address: str, row: QueuedFile, copy: IO[bytes]) -> None:
    checksum = Checksum()
    with urlopen(address, timeout=settings.other_host_timeout) as answer:
        while piece := answer.read(_PIECE):
            checksum.add(piece)
            copy.write(piece)
    if checksum.size != row.size or row.checksum not in {"", str(checksum)}:
        raise OSError("what it sent is not what was saved")


def _cause_of(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"it answered {error.code}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)
