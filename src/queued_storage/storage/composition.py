"""What a queued storage is made of: two storages, a task, a queue, an uploader."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage, storages
from django.utils.module_loading import import_string

from ..conf import settings
from ..ledger.aliases import AliasedStorage, configured_storages, living_storages
from ..queues import BaseQueue, get_queue
from ..remotes.perthread import for_threads
from ..reporting.descriptions import describe, describe_arguments, is_describable
from ..tasks import Transfer
from ..uploaders import Uploader, uploader_for

DEFAULT_TASK = "queued_storage.tasks.Transfer"

URL_MODES = ("direct", "signed", "stable", "proxied")

# Dotted paths of django-storages' past, and what stands there today
RENAMED = {
    "storages.backends.s3boto.S3BotoStorage": "storages.backends.s3.S3Storage",
    "storages.backends.s3boto3.S3Boto3Storage": "storages.backends.s3.S3Storage",
}


def option(method: Callable[[Any], Any]) -> Any:
    """A property whose name stands, in the body of a subclass, for the option itself."""
    return property(method)


class ComposedStorage(AliasedStorage):
    """The options, from the constructor or from class attributes of a subclass."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "local",
        "remote",
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
    )
    _class_options: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take ``local = "…"`` and the like of a subclass, whose names are properties here."""
        super().__init_subclass__(**kwargs)
        own = {name: cls.__dict__[name] for name in cls.OPTIONS if name in cls.__dict__}
        own = {name: value for name, value in own.items() if not isinstance(value, property)}
        for name in own:
            delattr(cls, name)
        cls._class_options = {**cls._class_options, **own}

    def __init__(self, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        self._options: dict[str, Any] = {**self._class_options, **given}
        for side in ("local", "remote"):
            if self._options.get(side) is None:
                raise ImproperlyConfigured(
                    f"{type(self).__name__} needs {side}=…: an alias of STORAGES, a dotted path, "
                    f"a dict with BACKEND and OPTIONS, or a storage."
                )
            its_options = self._options.get(f"{side}_options") or {}
            if not isinstance(its_options, Mapping):  # and may hold what is secret
                kind = type(its_options).__name__
                raise ImproperlyConfigured(f"{side}_options is a {kind}: give a dict.")
        for name in ("uploader", "cache_prefix"):
            if not isinstance(self._options.get(name, ""), str):
                raise ImproperlyConfigured(f"{name}={self._options[name]!r}: give a text.")
        if self._options.get("unknown", "ask") not in ("ask", "absent"):
            raise ImproperlyConfigured(
                f"unknown={self._options['unknown']!r}: give 'ask' or 'absent'."
            )
        if (url_mode := self._options.get("url_mode", URL_MODES[0])) not in URL_MODES:
            known = ", ".join(map(repr, URL_MODES))
            raise ImproperlyConfigured(f"url_mode={url_mode!r}: give one of {known}.")
        self._made: dict[str, Storage] = {}
        super().__init__(self._options.get("alias"))

    def configuration(self) -> Any:
        return {side: self._describe_side(side) for side in ("local", "remote")}

    def can_be_told_from(self, other: AliasedStorage) -> bool:
        """False if a side is another object that does not show what it makes, or how it was
        made."""
        if not isinstance(other, ComposedStorage):
            return True
        sides = [
            (self.specification(side)[0], other.specification(side)[0])
            for side in ("local", "remote")
        ]
        return all(mine is its or _shows_what_it_is(mine) for mine, its in sides)

    def _describe_side(self, side: str) -> list[Any]:
        spec = self._options[side]
        if isinstance(spec, str):
            spec = RENAMED.get(spec, spec)
        maker, _options = self.specification(side)
        args, options = self._side_args(side), self._side_options(side)
        return [describe(spec), *describe_arguments(maker, args, options)]

    @property
    def local(self) -> Storage:
        """The storage that takes files at once."""
        return self._side("local")

    @property
    def remote(self) -> Storage:
        """The storage that files are carried to."""
        return for_threads(self._side("remote"))

    @option
    def delayed(self) -> bool:
        return bool(self._options.get("delayed", False))

    @option
    def queue(self) -> BaseQueue:
        return get_queue(self._options.get("queue") or settings.queue)

    def queue_for(self, host: str, *, is_local: bool = True) -> BaseQueue:
        """The queue whose workers can see the local copy that ``host`` took, if there is one."""
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
        """Whether a name that the ledger does not know, and the local storage neither, may still
        be one of the remote's."""
        return bool(self._options.get("unknown", "ask") == "ask")

    @option
    def url_mode(self) -> str:
        """What ``url`` gives: one of ``URL_MODES``."""
        return str(self._options.get("url_mode", URL_MODES[0]))

    @property
    def has_stable_urls(self) -> bool:
        """Whether the project serves the files to whoever knows their names."""
        return self.url_mode in {"stable", "proxied"}

    @property
    def is_direct_by_choice(self) -> bool:
        return bool(self._options.get("url_mode") == "direct")

    @option
    def task(self) -> Transfer:
        """What moves one file."""
        task = self._task()
        return task if isinstance(task, Transfer) else Transfer()

    @property
    def variant(self) -> str:
        """The dotted path of the task: what a row keeps of the storage that took it."""
        task = self._task()
        maker = task if isinstance(task, type) else type(task)
        return f"{maker.__module__}.{maker.__qualname__}"[:255]

    @property
    def foreign_task(self) -> Any:
        """An object with ``delay()`` that moves files in its own way, or None."""
        task = self._task()
        return None if isinstance(task, Transfer) else task

    def _task(self) -> Any:
        task = self._options.get("task") or DEFAULT_TASK
        if isinstance(task, str):
            try:
                task = import_string(task)
            except ImportError as error:
                raise ImproperlyConfigured(
                    f"The task {task!r} cannot be imported: {error}"
                ) from error
        if isinstance(task, type) and issubclass(task, Transfer):
            task = task()
        if isinstance(task, Transfer) or callable(getattr(task, "delay", None)):
            return task
        raise ImproperlyConfigured(
            f"The task {task!r} is neither a subclass of queued_storage.tasks.Transfer "
            f"nor an object with delay()."
        )

    def _side_args(self, side: str) -> tuple[Any, ...]:
        return tuple(self._options.get(f"{side}_args") or ())

    def _side_options(self, side: str) -> dict[str, Any]:
        return dict(self._options.get(f"{side}_options") or {})

    def _side(self, side: str) -> Storage:
        spec = self._options[side]
        if isinstance(spec, Storage):
            return spec
        if isinstance(spec, str) and spec in storages.backends:
            self._refuse_options(side, spec)
            return storages[spec]
        if side not in self._made:  # two threads may make one each, but both use the same
            self._made.setdefault(side, self._make(side))
        return self._made[side]

    def _refuse_options(self, side: str, alias: str) -> None:
        if self._side_options(side) or self._side_args(side):
            raise ImproperlyConfigured(
                f"{side}_options goes with a dotted path; the options of {alias!r} stand in "
                f"STORAGES[{alias!r}]['OPTIONS']."
            )

    def specification(self, side: str) -> tuple[Any, dict[str, Any]]:
        """What ``"local"`` or ``"remote"`` is made of: a path, class or storage, and options."""
        spec: Any = self._options[side]
        options = self._side_options(side)
        if isinstance(spec, str) and spec in storages.backends:
            spec = storages.backends[spec]
        if isinstance(spec, Mapping):
            options = {**dict(spec.get("OPTIONS") or {}), **options}
            spec = spec.get("BACKEND")
        if isinstance(spec, str):
            spec = RENAMED.get(spec, spec)
        return spec, options

    def blueprint(self, side: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """How somebody else can make a side's storage: path or class, and its arguments."""
        spec, options = self.specification(side)
        if not isinstance(spec, Storage):
            return spec, self._side_args(side), options
        # What Django's @deconstructible keeps of the call
        call = getattr(spec, "_constructor_args", None)
        if call is None:
            raise ImproperlyConfigured(
                f"How {side}={spec!r} was made is not known, so nobody else can make the same. "
                f"Give its class or dotted path with {side}_options, or decorate the class with "
                f"django.utils.deconstruct.deconstructible."
            )
        args, options = call
        return type(spec), args, options

    def _make(self, side: str) -> Storage:
        spec, options = self.specification(side)
        if isinstance(spec, str):
            spec = self._import(side, spec)
        if isinstance(spec, Storage):
            return spec
        if not callable(spec):
            raise ImproperlyConfigured(f"{side}={spec!r} is no storage.")
        storage = spec(*self._side_args(side), **options)
        if not isinstance(storage, Storage):
            raise ImproperlyConfigured(f"{side}: {spec!r} made {storage!r}, which is no Storage.")
        return storage

    @staticmethod
    def _import(side: str, path: str) -> Any:
        if "." not in path:
            known = ", ".join(map(repr, storages.backends))
            raise ImproperlyConfigured(
                f"{side}={path!r} is no alias of STORAGES (there are {known}) and no dotted path."
            )
        try:
            return import_string(path)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"{side}={path!r} cannot be imported: {error}. Check the path and whether the "
                f"package is installed."
            ) from error


def _shows_what_it_is(spec: Any) -> bool:
    if isinstance(spec, Storage):
        return is_describable(spec)
    return isinstance(spec, type) or not callable(spec)


def load_queues() -> None:
    """Import the queue adapters in use, so that their libraries' workers know the tasks in them.

    What is wrong with a storage or its queue is for the system checks to say.
    """
    found = living_storages()
    with suppress(Exception):
        found += configured_storages()
    for storage in found:
        if isinstance(storage, ComposedStorage):
            with suppress(Exception):
                _ = storage.queue
