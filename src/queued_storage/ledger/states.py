"""The states of a file, with the values that describe it outside of a row."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple, Protocol, Self

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..conf import settings


class State(models.TextChoices):
    HELD = "held", _("held")  # delayed or cancelled: waits for transfer()
    PENDING = "pending", _("pending")  # to be transferred at due_at
    TRANSFERRING = "transferring", _("transferring")  # under a lease
    TRANSFERRED = "transferred", _("transferred")  # verified on the remote
    FAILED = "failed", _("failed")  # retries used up, the local copy is kept
    DELETING = "deleting", _("deleting")  # a tombstone until both copies are gone


KNOWN = frozenset(State.values)  # a newer version of the package may write other states
CLAIMABLE = (State.PENDING, State.TRANSFERRING, State.TRANSFERRED, State.DELETING)  # if due


def is_read_remotely(state: str, is_local: bool, remote_name: str) -> bool:
    """Whether reads go to the remote.

    A file in an unknown state is read from where a copy is.
    """
    return state == State.TRANSFERRED or (not is_local and state not in KNOWN and bool(remote_name))


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of a file's bytes when they are saved."""

    size: int
    checksum: str  # "crc32:1a2b3c4d"; "" if the bytes were not read
    content_type: str = ""


class SendableRow(Protocol):
    """A row whose file is being sent."""

    size: Any
    checksum: Any
    lease_token: Any


class Sending(NamedTuple):
    """An upload without a known result: the bytes that were sent, and under which lease."""

    size: int
    checksum: str
    token: str

    @classmethod
    def of(cls, row: "SendableRow") -> Self:
        return cls(row.size, row.checksum, row.lease_token)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what ``str()`` returned; None for an empty string."""
        if not text:
            return None
        size, checksum, token = text.split(" ")
        return cls(int(size), checksum, token)

    def __str__(self) -> str:
        return f"{self.size} {self.checksum} {self.token}"


class ClaimedRow(Protocol):
    """A row as it was when a worker claimed it."""

    pk: Any
    lease_token: Any
    generation: Any
    state: Any


class Claim(NamedTuple):
    """What a statement of a worker compares with the row before it changes the row."""

    pk: int
    token: str
    generation: int
    state: str

    @classmethod
    def of(cls, row: ClaimedRow) -> Self:
        return cls(row.pk, row.lease_token, row.generation, row.state)


CLAIM_COLUMNS = ("id", "lease_token", "generation", "state")


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
    generation: int
    checksum: str
    place: int | None

    @property
    def is_here(self) -> bool:
        """Whether there is a local copy that this host can read."""
        return self.is_local and is_reachable_from_here(self.host)

    @property
    def is_promoted(self) -> bool:
        """Whether reads go to the remote."""
        return is_read_remotely(self.state, self.is_local, self.remote_name)

    @property
    def is_transferred(self) -> bool:
        """Whether reads go to the remote for good, so that the fact may be cached."""
        return self.state == State.TRANSFERRED

    @property
    def is_deleted(self) -> bool:
        return self.state == State.DELETING


ENTRY_FIELDS = tuple(field.name for field in fields(Entry))


def is_reachable_from_here(host: str) -> bool:
    """Whether this host can read the local copies that ``host`` saved."""
    return not settings.local_per_host or host == settings.host
