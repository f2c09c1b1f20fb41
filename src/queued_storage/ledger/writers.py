"""Which ledger, and which deployment of it, a place on a remote belongs to."""

import json
from typing import Any, NamedTuple, Self

from ..conf import settings
from ..runtime.rules import DEPLOYMENT_MAX_LENGTH
from .identity import ledger_id

UID_LENGTH = 32  # of the id of a ledger


class Writer(NamedTuple):
    """A ledger and its deployment.

    A copy of the database has the id of the original, so only the deployment tells them apart.
    """

    ledger: str
    deployment: str | None

    @classmethod
    def own(cls, *, anew: bool = False) -> Self:
        """Return that of this process; with ``anew``, ask the database for the id again."""
        return cls(ledger_id(anew=anew), settings.deployment)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the writer that a marker names; raise ``ValueError`` if it names none."""
        try:
            found: Any = json.loads(data)
            ledger, deployment = found["ledger"], found["deployment"]
        except (KeyError, TypeError, UnicodeDecodeError, ValueError):
            raise ValueError("The marker does not name a ledger.") from None
        is_ledger = isinstance(ledger, str) and 0 < len(ledger) <= UID_LENGTH
        is_name = isinstance(deployment, str) and 0 < len(deployment) <= DEPLOYMENT_MAX_LENGTH
        if not is_ledger or not (deployment is None or is_name):
            raise ValueError("The marker does not name a ledger.")
        return cls(ledger, deployment)

    def as_bytes(self) -> bytes:
        """Return the content of a marker."""
        return json.dumps(self._asdict()).encode() + b"\n"

    def accepted_by(self, other: "Writer") -> str:
        """Return what the ledger records if ``other`` accepts this writer.

        It names both, since a copy of the database has what the original has accepted.
        """
        return f"{self}, accepted by {other}"

    def __str__(self) -> str:
        name = "no DEPLOYMENT" if self.deployment is None else repr(self.deployment)
        return f"ledger {self.ledger} ({name})"
