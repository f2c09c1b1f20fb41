"""Downloads a file from the host that has its only copy."""

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
from ..reporting.redaction import without_secrets

TICKET_AGE = 60  # seconds until a ticket expires
PATH = "local-copy/"  # below the URL of a host in HOST_URLS
_SALT = "queued_storage.peers"
_PIECE = 256 * 1024  # bytes


def ticket_for(row: QueuedFile) -> str:
    """Return a signed string that gives access to the local copy of this content."""
    return signing.dumps([row.pk, row.generation], salt=_SALT)


def read_ticket(ticket: str) -> tuple[int, int]:
    """Return the id and the generation of a row.

    Raises ``signing.BadSignature`` if the ticket is forged or has expired.
    """
    pk, generation = signing.loads(ticket, salt=_SALT, max_age=TICKET_AGE)
    return pk, generation


def fetch(row: QueuedFile, mode: str) -> File:
    """Download the file from its host to a temporary file, and compare it with the ledger.

    Raises ``FileElsewhere`` if it cannot be downloaded.
    """
    base = settings.host_urls.get(row.host)
    if base is None:
        raise on_other_host(row.name, row.host, f"HOST_URLS has no URL of {row.host!r}.")
    copy = tempfile.TemporaryFile(prefix="queued-storage-")  # noqa: SIM115
    try:
        _receive(f"{base}{PATH}{quote(ticket_for(row))}", row, copy)
    except (OSError, HTTPException) as error:
        copy.close()
        # The URL holds a ticket, so an error message of the library, which may quote the URL, is
        # not repeated.
        raise on_other_host(
            row.name, row.host, f"It could not be downloaded: {_cause_of(error)}."
        ) from None
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    opened: Any = copy if "b" in mode else io.TextIOWrapper(cast(Any, copy))
    return File(opened, row.name)


def on_other_host(name: str, host: str, advice: str) -> FileElsewhere:
    return FileElsewhere(
        f"{name!r} has not been transferred yet; its only copy is on host {host!r}. {advice}", host
    )


def _receive(url: str, row: QueuedFile, copy: IO[bytes]) -> None:
    checksum = Checksum()
    with urlopen(url, timeout=settings.other_host_timeout) as response:
        # One byte more than it must be shows that it is too long; the rest is not read.
        while piece := response.read(min(_PIECE, row.size - checksum.size + 1)):
            checksum.add(piece)
            if checksum.size > row.size:
                break
            copy.write(piece)
    if checksum.size != row.size or row.checksum not in {"", str(checksum)}:
        raise OSError("what the host sent differs from what was saved")


def _cause_of(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"the host responded with status {error.code}"
    cause = str(getattr(error, "reason", None) or error or type(error).__name__)
    return without_secrets(cause, by_look=False)
