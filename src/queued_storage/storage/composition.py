"""What a queued storage is made of: two storages, a task, a queue, an uploader."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Self

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage
from django.utils.module_loading import import_string

from ..conf import settings
from ..files import spelling
from ..files.limits import LIMITS, Limits
from ..ledger import bindings
from ..ledger.aliases import AliasedStorage, configured_storages, living_storages
from ..ledger.bindings import Bound
from ..ledger.database import ledger
from ..ledger.names import RESERVED, Name, StoredName, is_own
from ..ledger.priorities import NORMAL, priority_of
from ..queues import BaseQueue, get_queue
from ..remotes.classes import dotted_path
from ..remotes.perthread import for_threads
from ..remotes.places import Place
from ..tasks import Transfer
from ..transfers.parts import TransferParts
from ..uploaders import Uploader, uploader_for
from . import foreign, priorities
from .foreign import ForeignTask
from .options import URL_MODES, require_valid
from .parts import Parts
from .places import clash_of, is_fixed, place_of_side
from .routes import Routes, routes_of
from .sides import Side, Sides
from .stepping import STEP_OPTIONS, SteppingStorage

DEFAULT_TASK = "queued_storage.tasks.Transfer"
STABLE_MODES = frozenset({"stable", "proxied"})  # in which the project serves the files to everyone


def option(method: Callable[[Any], Any]) -> Any:
    """Make a property that a subclass can replace by a class attribute with the option itself."""
    return property(method)


class ComposedStorage(SteppingStorage):
    """The options, from the constructor or from class attributes of a subclass."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "local",
        "remote",
        "previous",
        "mirrors",
        "evict_after",
        *LIMITS,
        "local_args",
        "remote_args",
        "local_options",
        "remote_options",
        "cache_prefix",
        "delayed",
        "task",
        "alias",
        "queue",
        "uploader",
        "unknown",
        "url_mode",
        "priority",
        *STEP_OPTIONS,
    )
    _class_options: ClassVar[dict[str, Any]] = {}
    _whole: Self | None = None  # of which this storage is the part with one remote
    _places_apart: tuple[Place, ...] = ()  # of all sides, when they were last found to be different

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take options such as ``local = "…"`` from a subclass: their names are properties here."""
        super().__init_subclass__(**kwargs)
        own = {name: cls.__dict__[name] for name in cls.OPTIONS if name in cls.__dict__}
        own = {name: value for name, value in own.items() if not isinstance(value, property)}
        for name in own:
            delattr(cls, name)
        cls._class_options = {**cls._class_options, **own}

    def __init__(self, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        self._options: dict[str, Any] = {**self._class_options, **given}
        self.sides = Sides.from_options(self._options, type(self).__name__)
        require_valid(self._options)
        self.limits = Limits.from_options(self._options)
        self._own_priority = priority_of(self._options.get("priority", NORMAL))
        self._require_valid_steps()
        super().__init__(self._options.get("alias"))

    def configuration(self) -> Any:
        return self.sides.descriptions()

    def _derived_alias(self) -> str:
        alias = super()._derived_alias()
        if self.sides.previous and not self._named_alias:
            raise ImproperlyConfigured(
                "A storage with the option 'previous' needs the option 'alias', or an entry in "
                "STORAGES: otherwise its files are known by its remote, which has changed."
            )
        return alias

    def can_be_told_from(self, other: AliasedStorage) -> bool:
        """Return False if a side is an object that does not show what it makes, or how it was
        made, and not the same object as that of the other storage."""
        return not isinstance(other, ComposedStorage) or self.sides.can_be_told_from(other.sides)

    @property
    def local(self) -> Storage:
        """The storage that files are saved to."""
        return self.sides.local.storage

    @property
    def remote(self) -> Storage:
        """The storage that files are uploaded to."""
        return for_threads(self.sides.remote.storage)

    @property
    def location(self) -> str:
        """The absolute path of the local storage's directory; "" if it has none."""
        return spelling.root_of(self.local)

    @option
    def delayed(self) -> bool:
        return bool(self._options.get("delayed", False))

    @option
    def queue(self) -> BaseQueue:
        return get_queue(self._options.get("queue") or settings.queue)

    def queue_for(self, host: str, *, is_local: bool = True) -> BaseQueue:
        """Return the queue whose workers can read the local copy on ``host``, if there is one."""
        if not (is_local and settings.local_per_host):
            queue: BaseQueue = self.queue
            return queue
        return get_queue(self._options.get("queue") or settings.queue, host)

    @option
    def uploader(self) -> Uploader:
        return uploader_for(self.remote, self._options.get("uploader"))

    @option
    def cache_prefix(self) -> str:
        return self._options.get("cache_prefix") or settings.cache_prefix

    @property
    def asks_for_unknown(self) -> bool:
        """Whether the remote is asked for a name that neither the ledger nor the local storage
        knows."""
        return bool(self._options.get("unknown", "ask") == "ask")

    @option
    def evict_after(self) -> str:
        """Which copies must be verified before the local one is evicted: "all" or "first"."""
        return str(self._options.get("evict_after", "all"))

    @option
    def url_mode(self) -> str:
        """What ``url()`` returns: one of ``URL_MODES``."""
        return str(self._options.get("url_mode", URL_MODES[0]))

    def priority(self, value: str | int) -> AbstractContextManager[None]:
        """Save files with another priority than the storage's own, until the block ends.

        It is that of all files that this thread, or this task of an event loop, saves to the
        storage in the block. ``ValueError`` is raised for a value that is not a priority.
        """
        return priorities.prioritized(self.alias, value)

    @property
    def has_stable_urls(self) -> bool:
        """Whether the project serves the files to everyone who knows their names."""
        return self.url_mode in STABLE_MODES

    @property
    def is_direct_by_choice(self) -> bool:
        """Whether the project set ``url_mode`` to ``"direct"`` itself."""
        return bool(self._options.get("url_mode") == "direct")

    @option
    def task(self) -> Transfer:
        """The task that transfers one file."""
        task = self._task()
        return task if isinstance(task, Transfer) else Transfer()

    @property
    def variant(self) -> str:
        """The dotted path of the task: rows keep it, to find the storage that saved them."""
        return _variant_of(self._task())

    @property
    def foreign_task(self) -> ForeignTask | None:
        """An object with ``delay()`` that transfers files in its own way, or None."""
        task = self._task()
        return None if isinstance(task, Transfer) else task

    def _task(self) -> Transfer | ForeignTask:
        task: Any = self._options.get("task") or DEFAULT_TASK
        if isinstance(task, str):
            try:
                task = import_string(task)
            except ImportError as error:
                raise ImproperlyConfigured(
                    f"The task {task!r} cannot be imported: {error}"
                ) from error
        if isinstance(task, type) and issubclass(task, Transfer):
            return task()
        if isinstance(task, Transfer) or callable(getattr(task, "delay", None)):
            found: Transfer | ForeignTask = task
            return found
        raise ImproperlyConfigured(
            f"The task {task!r} is neither a subclass of queued_storage.tasks.Transfer nor an "
            f"object with a delay() method."
        )

    def foreign_arguments(self, name: str) -> tuple[Any, ...]:
        """Return the arguments for the foreign task's ``delay()``, as 0.8 passed them."""
        return foreign.arguments_of_0_8(self, name)

    def call_foreign_task(self, name: str) -> None:
        """Call the ``delay()`` of the foreign task for a file."""
        if task := self.foreign_task:
            task.delay(*self.foreign_arguments(name))

    def get_cache_key(self, name: Name) -> str:
        """Return the key under which the cache remembers that this name is transferred."""
        return self._routes.key(self._stored(name).text)

    def _stored(self, name: Name) -> StoredName:
        """Return the name of a file that may exist: of an absolute path, the one inside the local
        storage, as ``FileSystemStorage`` does.

        Raises ``SuspiciousFileOperation`` for a path outside, and ``FileNotFoundError`` for a file
        of the package itself.
        """
        stored = StoredName.of(name)
        if stored.problem and stored.text.startswith("/"):
            stored = StoredName.of(spelling.name_inside(self.local, stored.text))
        if is_own(stored.text):
            raise FileNotFoundError(
                f"{stored.text!r} is no file of {self.alias!r}: names starting with "
                f"{RESERVED!r} are those of markers and probes."
            )
        return stored

    def _hides(self, name: Name) -> bool:
        """Return whether the name is that of a file of the package itself."""
        try:
            self._stored(name)
        except FileNotFoundError:
            return True
        return False

    @property
    def _routes(self) -> Routes:
        return routes_of(self.alias, self.cache_prefix)

    def transfer_parts(self) -> TransferParts:
        """Return what an attempt to transfer a file needs, all of it looked up once."""
        local, remote = self.sides.storages()
        remote = for_threads(remote)
        task = self._task()
        return TransferParts(
            local=local,
            remote=remote,
            uploader=uploader_for(remote, self._options.get("uploader")),
            task=task if isinstance(task, Transfer) else Transfer(),
            foreign_task=None if isinstance(task, Transfer) else task,
            place=self.remote_place,
        )

    @property
    def remote_place(self) -> Place:
        """Where the remote keeps its files, as this thread sees it now."""
        return place_of_side(self.sides.remote)

    # Several remotes

    def with_remote_of(self, bound: Bound) -> Self:
        """Return this storage with the remote that a file is at: itself, unless the file is at one
        of the previous remotes or mirrors.

        It is the storage itself for a file at another place, too, which ``RemoteChanged`` reports.
        """
        if self._whole is not None:
            return self._whole.with_remote_of(bound)
        sides = self.sides
        if not (sides.previous or sides.mirrors):
            return self
        digest = bindings.digest_of(self.alias, bound.place)
        if digest in {None, bindings.UNKNOWN, self.remote_place.digest}:
            return self
        found = map(self._with_remote, (*sides.previous, *sides.mirrors))
        return next((each for each in found if each.remote_place.digest == digest), self)

    @property
    def other_place(self) -> int | None:
        """The digest of its remote's place, if new files are not uploaded there; else None."""
        return None if self._whole is None else self.remote_place.digest

    @property
    def with_each_remote(self) -> list[Self]:
        """This storage, and then this storage with each of its previous remotes as its remote."""
        if self._whole is not None:
            return self._whole.with_each_remote
        return [self, *map(self._with_remote, self.sides.previous)]

    @property
    def with_each_mirror(self) -> list[Self]:
        """This storage with each of its mirrors as its remote."""
        if self._whole is not None:
            return self._whole.with_each_mirror
        return list(map(self._with_remote, self.sides.mirrors))

    def _with_remote(self, side: Side) -> Self:
        """Return a storage of the same alias, which is not registered as one of its own."""
        alias = self.alias
        other: Self = object.__new__(type(self))
        vars(other).update(vars(self))
        other._alias = alias
        other._whole = self
        other.sides = replace(self.sides, remote=side, previous=(), mirrors=())
        other._places_apart = ()
        other._options = {**self._options, "uploader": None}
        return other

    @property
    def has_fixed_place(self) -> bool:
        """Whether that place is certainly the same in every thread."""
        return is_fixed(self.sides.remote)

    def require_two_places(self) -> None:
        """Raise ``ImproperlyConfigured`` if the two sides lead to one place.

        A copy there is no second copy: evicting the local file would delete the only one.
        """
        if self._places_apart and self._places_apart == tuple(map(place_of_side, self.sides)):
            return
        if clash := clash_of(self.sides):
            raise ImproperlyConfigured(f"{self.alias}: {clash.reason}")
        self._places_apart = tuple(map(place_of_side, self.sides))

    def _parts(self) -> Parts:
        task = self._task()
        local, _remote = self.sides.storages()
        return Parts(
            rows=ledger(),
            alias=self.alias,
            local=local,
            queue=self.queue,
            held=self.delayed,
            variant=_variant_of(task),
            foreign_task=None if isinstance(task, Transfer) else task,
            place=self.remote_place,
            priority=priorities.chosen(self.alias, self._own_priority),
            prepares=self.has_steps,
        )


def _variant_of(task: Transfer | ForeignTask) -> str:
    cls: Any = task if isinstance(task, type) else type(task)
    return _path_of(cls)


@lru_cache(100)  # every save asks for it
def _path_of(cls: type) -> str:
    return dotted_path(cls)[:255]


def load_queues() -> None:
    """Import the queue adapters in use, so that their libraries' workers know the tasks in them.

    The system checks report what is wrong with a storage or its queue.
    """
    found = living_storages()
    with suppress(Exception):
        found += configured_storages()
    for storage in found:
        if isinstance(storage, ComposedStorage):
            with suppress(Exception):
                _ = storage.queue
