"""What one operation of a storage uses, looked up once."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from django.core.files.storage import Storage
from django.db import transaction

from ..ledger.database import QueuedFileQuerySet
from ..queues import BaseQueue
from ..remotes.places import Place
from .foreign import ForeignTask


class Parts(NamedTuple):
    """What one operation uses, looked up once: settings may be overridden before the next one.

    Making these shows what is configured wrongly before anything is done.
    """

    rows: QueuedFileQuerySet
    alias: str
    local: Storage
    queue: BaseQueue
    held: bool  # whether new files wait for transfer()
    variant: str
    foreign_task: ForeignTask | None
    place: Place  # of the remote
    priority: int  # of new content
    prepares: bool = False  # whether new content has to pass steps

    @property
    def row_options(self) -> dict[str, Any]:
        """What the rows of new content have in common."""
        its = {"held": self.held, "task": self.variant, "place": self.place.digest}
        return its | {"priority": self.priority, "prepares": self.prepares}

    def in_one(self) -> AbstractContextManager[object]:
        """A transaction, if more than one statement is needed to save a file."""
        return transaction.atomic(using=self.rows.db) if self.prepares else nullcontext()
