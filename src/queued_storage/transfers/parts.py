"""What a transfer needs of the storage that a file belongs to."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self, cast

from django.core.files.storage import Storage

from ..files.limits import Limits
from ..ledger.aliases import storage_for
from ..ledger.bindings import Bound
from ..ledger.models import QueuedFile
from ..ledger.states import State
from ..remotes.places import Place
from ..steps import Step
from ..tasks import Transfer
from ..uploaders import Uploader


class TransferParts(NamedTuple):
    """What a storage is made of, looked up once for an attempt."""

    local: Storage
    remote: Storage
    uploader: Uploader
    task: Transfer
    foreign_task: object | None
    place: Place  # where the remote keeps its files, as this thread sees it now


class TransferringStorage(Protocol):
    """A queued storage, as the code that transfers its files sees it.

    Each access to an attribute may look it up again, so a caller takes it once.
    ``ImproperlyConfigured`` is raised for what this process cannot make.
    """

    @property
    def alias(self) -> str: ...

    @property
    def cache_prefix(self) -> str: ...

    @property
    def local(self) -> Storage: ...

    @property
    def remote(self) -> Storage: ...

    @property
    def uploader(self) -> Uploader: ...

    @property
    def foreign_task(self) -> object | None:
        """An object with ``delay()`` that transfers files in its own way."""

    def transfer_parts(self) -> TransferParts: ...

    @property
    def remote_place(self) -> Place:
        """Where the remote keeps its files, as this thread sees it now."""

    @property
    def has_fixed_place(self) -> bool:
        """Whether that place is certainly the same in every thread."""

    def with_remote_of(self, bound: Bound) -> Self:
        """Return this storage with the remote that a file is at: itself, unless the file is at one
        of the previous remotes or mirrors."""

    @property
    def other_place(self) -> int | None:
        """The digest of its remote's place, if new files are not uploaded there; else None."""

    @property
    def with_each_remote(self) -> list[Self]:
        """This storage, and then this storage with each of its previous remotes as its remote."""

    @property
    def with_each_mirror(self) -> list[Self]:
        """This storage with each of its mirrors as its remote."""

    @property
    def evict_after(self) -> str:
        """Which copies must be verified before the local one is evicted: "all" or "first"."""

    @property
    def delayed(self) -> bool:
        """Whether files wait for ``transfer()``."""

    @property
    def variant(self) -> str:
        """The dotted path of the task."""

    @property
    def has_steps(self) -> bool:
        """Whether files have to pass steps before they are transferred."""

    @property
    def steps(self) -> list[Step]:
        """The steps; ``ImproperlyConfigured`` is raised if one cannot be made."""

    def forget_route(self, name: str) -> None:
        """Make readers query the ledger for this file, before and after the commit."""

    @property
    def limits(self) -> Limits:
        """What the local storage may hold."""

    def require_two_places(self) -> None:
        """Raise ``ImproperlyConfigured`` if the two sides lead to one place."""

    def call_foreign_task(self, name: str) -> object:
        """Call the ``delay()`` of the foreign task."""


# Returns the storage of an alias and a variant; raises ``UnknownAlias`` if there is none
storage_of = cast(Callable[[str, str], TransferringStorage], storage_for)


def storage_at(row: QueuedFile) -> TransferringStorage:
    """Return the storage of a row with the remote that is to be worked at: the one that the file
    is at, or the one that it is uploaded to."""
    storage = storage_of(row.alias, row.task)
    is_at_its_own = row.object_name and row.state != State.TRANSFERRING
    return storage.with_remote_of(row) if is_at_its_own else storage


def sides_of(row: QueuedFile) -> list[Storage]:
    """Return the local and the remote storage of a row, or nothing if one cannot be made."""
    try:
        storage = storage_at(row)
        return [storage.local, storage.remote]
    except Exception:
        return []
