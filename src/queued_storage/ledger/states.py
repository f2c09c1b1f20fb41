"""What the ledger knows of a file."""

from dataclasses import dataclass, fields
from datetime import datetime

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..conf import settings


class State(models.TextChoices):
    HELD = "held", _("held")  # delayed: waits for transfer()
    PENDING = "pending", _("pending")  # to be transferred at due_at
    TRANSFERRING = "transferring", _("transferring")  # under a lease
    TRANSFERRED = "transferred", _("transferred")  # verified on the remote
    FAILED = "failed", _("failed")  # retries used up, the local copy is kept
    DELETING = "deleting", _("deleting")  # a tombstone until both copies are gone


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of a file's bytes when they are saved."""

    size: int
    checksum: str  # "crc32:1a2b3c4d"; "" where nobody read the bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a read needs to know of a row."""

    pk: int
    state: str
    remote_name: str
    is_local: bool
    size: int
    saved_at: datetime
    host: str

    @property
    def is_here(self) -> bool:
        """Whether there is a local copy that this host can see."""
        return self.is_local and is_reachable_from_here(self.host)

    @property
    def is_promoted(self) -> bool:
        return self.state == State.TRANSFERRED

    @property
    def is_deleted(self) -> bool:
        return self.state == State.DELETING


ENTRY_FIELDS = tuple(field.name for field in fields(Entry))


def is_reachable_from_here(host: str) -> bool:
    """Whether this host can see the local copies that ``host`` took."""
    return not settings.local_per_host or host == settings.host
